"""The command as a process of its own: exit codes, Ctrl-C, and the live view on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from loopline import Client

from tests import forking

CLIENT = Path(__file__).parents[3] / "client"
Background = Callable[..., threading.Thread]


def environment(url: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(CLIENT), "LOOPLINE_URL": url, "TERM": "xterm-256color"}


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "loopline.cli", *args]


def run(url: str, *args: str) -> subprocess.CompletedProcess[str]:
    return forking.run(command(*args), env=environment(url), capture_output=True, text=True, timeout=60)


def test_cron_learns_from_the_exit_code(service: Any, client: Client, tiny: dict[str, Any], free_port: int) -> None:
    succeeded, failed, cancelled = client.submit(tiny), client.submit(tiny), client.submit(tiny).cancel()
    service.complete(succeeded.id)
    service.start(failed.id)
    service.fail(failed.id)
    lines = [
        command("watch", succeeded.id),
        command("watch", failed.id),
        command("submit", "none.yaml"),
        command("--url", f"http://127.0.0.1:{free_port}", "list"),
        command("watch", cancelled.id),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [forking.Popen(line, env=environment(service.url), **quiet) for line in lines]
    assert [process.wait(60) for process in processes] == [0, 1, 2, 3, 4]


def test_nothing_but_json_reaches_stdout_when_a_request_is_retried(free_port: int) -> None:
    done = run(f"http://127.0.0.1:{free_port}", "--retry-seconds", "0.3", "list", "--json")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("how", ["watch", "submit"])
def test_ctrl_c_ends_the_watching_and_not_the_job(
    service: Any, client: Client, tiny: dict[str, Any], tmp_path: Path, how: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(tiny))
    args = ["submit", str(path), "--watch"] if how == "submit" else ["watch", client.submit(tiny).id]
    watching = forking.Popen(
        command(*args), env=environment(service.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with watching:
        assert watching.stdout is not None
        while " queued, next in its queue" not in watching.stdout.readline():
            assert watching.poll() is None
        watching.send_signal(signal.SIGINT)
        _, stderr = watching.communicate(timeout=30)
    job = client.job("last")
    assert watching.returncode == 130
    assert stderr.strip() == f"Job {job.id} goes on. Come back to it with: loopline watch {job.id}"
    assert job.status == "queued"


class Terminal:
    """A process on a pseudo-terminal, and all that it has written."""

    def __init__(self, args: list[str], env: dict[str, str], *, rows: int, columns: int) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = forking.Popen(args, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.written = ""

    def read_until(self, words: str) -> None:
        deadline = time.monotonic() + 30
        while words not in self.text:
            assert time.monotonic() < deadline, self.text
            self._read()

    def end(self) -> int:
        try:
            while True:
                self._read()
        except OSError:  # Linux says EIO when the last writer has gone
            os.close(self.master)
            return self.process.wait(30)

    def _read(self) -> None:
        self.written += os.read(self.master, 65536).decode(errors="replace")

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", self.written)


def test_a_terminal_shows_the_training_live(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    terminal = Terminal(command("watch", "last"), environment(service.url), rows=24, columns=100)
    terminal.read_until("queued, next in its queue")
    service.start(job.id)
    terminal.read_until("running")
    service.epoch(job.id, 1)
    terminal.read_until("epoch 1/3 ")
    service.epoch(job.id, 2)
    terminal.read_until("epoch 2/3 ")
    service.epoch(job.id, 3)
    service.succeed(job.id)
    assert terminal.end() == 0
    last = terminal.text[terminal.text.rindex("succeeded\r\n") :]
    header = "epoch    loss  val loss  val accuracy      lr  grad norm  clipped   time"
    assert last.splitlines()[1] == header
    assert re.search(r"1 +1\.0000 +1\.1000 +0\.6000 +0\.0010 +0\.5000 +25% +0\.2 s", last)
    assert "loss ████▃▃▃▃▁▁▁▁ 1.0000 to 0.3333" in last
    assert re.search(rf"Job {job.id} succeeded after .*test_accuracy 0\.7500", last.replace("\r\n", " "))
    assert terminal.written.rindex("\x1b[?25h") > terminal.written.rindex("\x1b[?25l"), "the cursor is shown again"


def test_a_narrow_terminal_shows_fewer_columns(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    service.complete(client.submit(tiny).id)
    terminal = Terminal(command("watch", "last"), environment(service.url), rows=8, columns=50)
    assert terminal.end() == 0
    assert "epoch    loss  val loss  val accuracy  grad norm\r\n" in terminal.text
    assert "…" not in terminal.text


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_an_id_is_never_cut_short(service: Any, client: Client, tiny: dict[str, Any], columns: int) -> None:
    job = client.submit(tiny | {"name": "a-name-that-is-longer-than-a-narrow-terminal-has-room-for"})
    terminal = Terminal(command("list"), environment(service.url), rows=24, columns=columns)
    assert terminal.end() == 0
    assert f"\r\n{job.id}  " in terminal.text
    assert "queued" in terminal.text
    assert terminal.text.count("…") == 1  # the middle of its name


def test_ctrl_c_on_a_terminal_leaves_it_in_order(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    terminal = Terminal(command("watch", job.id), environment(service.url), rows=24, columns=100)
    terminal.read_until("queued, next in its queue")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert f"loopline watch {job.id}" in terminal.text
    assert terminal.written.rindex("\x1b[?25h") > terminal.written.rindex("\x1b[?25l")


def test_a_service_that_goes_away_is_said_while_watching(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    terminal = Terminal(command("watch", job.id), environment(service.url), rows=24, columns=100)
    terminal.read_until("queued, next in its queue")

    def away(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("503 Service Unavailable", [("Content-Type", "text/plain"), ("Content-Length", "0")])
        return []

    service.wrap(away)
    service.cancel(job.id)  # ends the poll under way, and the next one finds nobody
    terminal.read_until("Trying again.")
    service.wrap(service.app.wsgi_app)
    assert terminal.end() == 4


def test_a_paused_job_on_a_terminal_says_how_it_goes_on(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny).pause()
    terminal = Terminal(command("watch", job.id), environment(service.url), rows=24, columns=120)
    terminal.read_until(f"Resume it with: loopline resume {job.id}")
    job.resume()
    terminal.read_until("queued, next in its queue")
    service.complete(job.id)
    assert terminal.end() == 0
    assert "paused" not in terminal.text[terminal.text.rindex("succeeded\r\n") :]
