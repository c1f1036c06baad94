"""A real browser for tests: Chromium without a window. It speaks its DevTools protocol over two pipes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)
MISSING = "there is no Chromium on the PATH: make test-browser installs it"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--disable-extensions",
    "--disable-component-update",
    "--disable-background-networking",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP evil.example 127.0.0.1,MAP * ~NOTFOUND,EXCLUDE 127.0.0.1,EXCLUDE localhost",
)
PLAYWRIGHT_FLAGS = [flag for flag in FLAGS if flag not in ("--headless", "--remote-debugging-pipe")]
"""Playwright adds the others itself."""
READ_FD, WRITE_FD = 3, 4  # where Chromium takes commands, and where it answers


class Browser:
    """One tab of it."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, os.fdopen(os.dup(answers), "rb")
        self._numbers, self._session = itertools.count(1), ""
        self._events: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def go(self, url: str) -> None:
        """Load a page and wait until it has."""
        self._events.clear()
        told = self.call("Page.navigate", url=url)
        assert not told.get("errorText"), told
        while "Page.loadEventFired" not in self._events:
            self._next()

    def run(self, script: str) -> Any:
        """What the body of an async function gives that runs in the page, as the page's own scripts do."""
        told = self.call(
            "Runtime.evaluate", expression=f"(async () => {{{script}}})()", awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        command: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            pass
        assert "error" not in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    def close(self) -> None:
        self._answers.close()

    def _next(self) -> dict[str, Any]:
        """The next thing that the browser says; its events are remembered by name."""
        text = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            text += byte
        said: dict[str, Any] = json.loads(text)
        if "method" in said:
            self._events.append(said["method"])
        return said


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in `folder`, which reaches this machine only."""
    assert FOUND, MISSING
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()
    high = [os.dup(fd) for fd in (theirs_in, theirs_out)]  # so that neither is 3 or 4 itself

    def place() -> None:
        os.dup2(high[0], READ_FD)
        os.dup2(high[1], WRITE_FD)

    process = subprocess.Popen(
        [FOUND, *FLAGS, f"--user-data-dir={folder}"],
        env={**os.environ, "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=place,
        pass_fds=(READ_FD, WRITE_FD),
        start_new_session=True,
    )
    for fd in (theirs_in, theirs_out, *high):
        os.close(fd)
    browser = None
    try:
        browser = Browser(commands, answers)
        yield browser
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if browser is not None:
            browser.close()
        os.close(commands)
        os.close(answers)
