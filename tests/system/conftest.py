"""The whole service; nothing of it is left when a test has ended.

Its processes are forks (tests/forking.py). As a user starts them they are started by the demo in test_local.py.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests import forking
from tests.receiving import Receiver, status

ROOT = Path(__file__).parent.parent.parent


class Service:
    """`python -m local run` in a folder of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.process = forking.Popen(
            [sys.executable, "-m", "local", "run"],
            torch=True,
            family=True,
            cwd=ROOT,
            env=clean(
                {
                    "LOOPLINE_DATA_DIR": str(folder),
                    "LOOPLINE_PORT": "0",
                    "LOOPLINE_CPU_WORKERS": "1",  # more only where a test is about them: each takes seconds to start
                    **environment,
                }
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said = ""

    def url(self) -> str:
        """Its address, once it is up."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if found := re.search(r"API +(http://\S+)/v1", line):
                return found.group(1)
        raise AssertionError(f"it did not start:\n{self.said}")

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def part(self, word: str) -> psutil.Process:
        """The first of its processes with this word on its command line. Others may end while this looks."""
        for one in self.family():
            with suppress(psutil.NoSuchProcess):
                if word in one.cmdline():
                    return one
        raise AssertionError(f"no process of the service is called with {word}")

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=60)
        self.said += said
        return self.process.returncode

    def end(self) -> None:
        """Whatever happened: nothing of it is left."""
        family = self.family() if psutil.pid_exists(self.process.pid) and self.process.poll() is None else []
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for one in family:
            if one.is_running():
                one.kill()
        if self.process.stdout:
            self.process.stdout.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def begin(folder: Path, **environment: str) -> Service:
        started.append(Service(folder, **environment))
        return started[-1]

    yield begin
    for service in started:
        service.end()


def clean(changes: dict[str, str]) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not name.startswith("LOOPLINE_")}, **changes}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks that fails at first."""
    made = Receiver()
    made.replies = [status(500), status(503), status(204)]
    yield made
    made.close()
