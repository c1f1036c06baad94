"""Starts the parts of the service in order, watches them, and stops them in order.

    broker      an embedded Valkey, unless LOOPLINE_BROKER_URL names another
    api         gunicorn; brings the database up to date before it answers
    worker      Celery with one pool process and a spare trainer, one for each GPU, or several that share the CPU
    scheduler   brings back what was lost

Every part is a session of its own, deaf to the terminal's Ctrl-C, and is told by the kernel when the launcher dies. One
that ends by itself is started again at its own address, after a pause that doubles each time; the others live on.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from local import broker
from services import private
from services.settings import Settings
from services.text import visible
from worker.process import tied

ROOT = Path(__file__).resolve().parent.parent

START_SECONDS = 60.0
LOOK_SECONDS = 0.02
STOP_SECONDS = 35.0  # above what a worker gives its trainer to write a checkpoint
LAST_LINES = 15
MOST_RESTARTS = 5  # of a part, in this many seconds; then something is wrong that starting again does not mend
RESTARTS_SECONDS = 60.0
FIRST_WAIT_SECONDS = 0.5  # before a part is started again; it doubles with each time of late
LOCK = "local.lock"
METRICS_PORTS = {"api": 0, "worker": 1, "scheduler": 2}
"""Which of the ports from LOOPLINE_METRICS_PORT on is a part's."""


class Failed(Exception):
    """A part of the service did not start, or ended by itself; the message has the last lines of its log."""


class InUse(Exception):
    """Another launcher works in this folder."""


class CannotListen(Exception):
    """The address of the API is taken or not to be had; the message has a way out."""


@dataclass
class Part:
    """One process of the service."""

    name: str
    process: subprocess.Popen[bytes]
    command: Sequence[str]
    log: Path
    began: float
    seconds: float | None = None
    """How long it took to start; None while it starts."""

    def exit_message(self) -> str | None:
        """How the process has ended; None while it runs."""
        if (status := self.process.poll()) is None:
            return None
        return f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"

    def check(self) -> None:
        """Raises Failed when the process has ended."""
        if (exit_message := self.exit_message()) is not None:
            raise Failed(f"The {self.name} {exit_message}. The end of {self.log}:\n{last_lines(self.log)}")


class Launcher:
    """The service on this machine, in the folder `settings.data_dir`.

    Use it as a context: whatever happens in it, what was started is stopped at its end.
    """

    def __init__(
        self,
        settings: Settings,
        on_start: Callable[[Part], None] = lambda part: None,
        on_stop: Callable[[], None] = lambda: None,
        on_restart: Callable[[str], None] = lambda line: None,
        *,
        fresh: bool = False,
    ) -> None:
        """`on_start` hears of each part that is up, `on_stop` that the stopping, which takes seconds, begins, and
        `on_restart` gets a line for each part that ended and is started again.

        `fresh` empties the folder first. Entering raises InUse when another launcher works in the folder, CannotListen
        when the address that was asked for is not to be had. A taken port that nobody asked for is only a default:
        `settings` then says which one is used instead.
        """
        self.settings = settings
        self.on_start = on_start
        self.on_stop = on_stop
        self.on_restart = on_restart
        self.fresh = fresh
        self.parts: list[Part] = []
        self._restarts: dict[str, list[float]] = {}
        self.folder = settings.data_dir
        self._lock = -1

    @property
    def url(self) -> str:
        return f"http://{self.settings.host}:{self.settings.port}"

    def __enter__(self) -> Launcher:
        private.folder(self.folder)
        private.tighten(self._own())
        self._lock = _locked(self.folder / LOCK)
        try:
            if self.fresh:
                _empty(self.folder)
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.parts:
                self.on_stop()
            self._stop()
        except KeyboardInterrupt:  # asked a second time: at once
            for part in self.parts:
                _kill(part)
        os.close(self._lock)

    def watch(self) -> None:
        """Until a part ends by itself that has been started again too often; raises Failed then."""
        while True:
            for part in list(self.parts):
                if part.exit_message() is not None:
                    self._start_again(part)
            time.sleep(0.25)

    def _start_again(self, part: Part) -> None:
        recent = [at for at in self._restarts.get(part.name, ()) if at > time.monotonic() - RESTARTS_SECONDS]
        if len(recent) >= MOST_RESTARTS:
            part.check()
        kept = part.log.with_suffix(".log.1")
        self.on_restart(f"The {part.name} {part.exit_message()} and is started again; its log is kept in {kept}.")
        time.sleep(FIRST_WAIT_SECONDS * 2 ** len(recent))
        self._restarts[part.name] = [*recent, time.monotonic()]
        self.parts.remove(part)
        if part.name == "api":
            _kill_group(part)  # the others of its processes hold its port
        self._begin(part.name, part.command)

    def _start(self) -> None:
        changes: dict[str, object] = {"port": self._port()}
        if "broker_url" not in self.settings.model_fields_set and self.settings.broker_url_file is None:
            changes["broker_url"] = f"redis://127.0.0.1:{self._start_broker()}/0"
        self.settings = self.settings.model_copy(update=changes)
        # Both spend a second on imports; the scheduler waits, it would only find a database without tables.
        api, worker = self._begin("api", _python("api")), self._begin("worker", _python("worker"))
        self._await(api, lambda: _is_ready(self.settings.host, self.settings.port))
        self._await(worker, lambda: b" ready." in worker.log.read_bytes())
        self.on_start(self._begin("scheduler", _python("worker.scheduler")))  # nothing waits for it

    def _own(self) -> Iterator[Path]:
        """What lies in the folder and is the service's: an earlier version let others read it."""
        yield from (self.folder / name for name in ("blobs", "log", "tmp", "valkey", LOCK))
        yield from self.folder.glob("loopline.db*")
        yield from self.folder.glob("valkey/**/*")
        yield from self.folder.glob("log/*")

    def _port(self) -> int:
        """The port that was asked for, or a free one where none was or the default is taken."""
        host, port = self.settings.host, self.settings.port
        try:
            return _bound(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = f"Cannot listen on port {port} of {host}: {error.strerror}."
                raise CannotListen(f"{reason} Set LOOPLINE_HOST or LOOPLINE_PORT to another.") from error
            if "port" in self.settings.model_fields_set:
                way_out = "Set LOOPLINE_PORT to another, or to 0 to take a free one."
                raise CannotListen(f"Port {port} is taken. {way_out}") from error
        return _free_port(host)

    def _start_broker(self) -> int:
        folder = self.folder / "valkey"
        private.folder(folder)
        noted = folder / "port"
        if noted.exists():
            broker.stop_leftover(folder, int(noted.read_text()))
        port = _free_port("127.0.0.1")
        noted.write_text(str(port))
        part = self._begin("broker", broker.command(folder, port))
        self._await(part, lambda: broker.answers(port))
        return port

    def _begin(self, name: str, command: Sequence[str]) -> Part:
        log = self.folder / "log" / f"{name}.log"
        private.folder(log.parent)
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        with log.open("wb") as out:
            process = subprocess.Popen(
                tied(command),
                cwd=ROOT,
                env=environment(settings_of(name, self.settings), os.environ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=private.OTHERS,
            )
        part = Part(name, process, command, log, began=time.monotonic())
        self.parts.append(part)
        return part

    def _await(self, part: Part, is_ready: Callable[[], bool]) -> None:
        deadline = part.began + START_SECONDS
        while not is_ready():
            part.check()
            if time.monotonic() > deadline:
                raise Failed(f"The {part.name} is not ready after {START_SECONDS:g} s.\n{last_lines(part.log)}")
            time.sleep(LOOK_SECONDS)
        part.seconds = time.monotonic() - part.began
        self.on_start(part)

    def _stop(self) -> None:
        """The broker last: the others speak to it to the end."""
        for last in (False, True):
            parts = [part for part in self.parts if (part.name == "broker") is last]
            for part in parts:
                part.process.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            for part in parts:
                try:
                    part.process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    _kill(part)
        (self.folder / "valkey" / "port").unlink(missing_ok=True)


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Within the context SIGTERM and SIGHUP do what Ctrl-C does: raise KeyboardInterrupt."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def settings_of(name: str, settings: Settings) -> Settings:
    """The settings of a part: on one machine each needs a port of its own for its metrics."""
    if not settings.metrics_port or name not in METRICS_PORTS:
        return settings
    return settings.model_copy(update={"metrics_port": settings.metrics_port + METRICS_PORTS[name]})


def environment(settings: Settings, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of a part: `inherited`, with these settings in the place of any that it held.

    Temporary files lie in the folder too: a worker leaves billiard's behind. Logs go to files that a person reads, so
    they are for a person unless it was said otherwise.
    """
    others = {name: value for name, value in inherited.items() if not name.startswith("LOOPLINE_")}
    given = settings.model_dump(include=settings.model_fields_set | {"data_dir", "host", "port"})
    own = {f"LOOPLINE_{name.upper()}": str(value) for name, value in given.items() if value is not None}
    return {"LOOPLINE_LOG_FORMAT": "console", **others, **own, "TMPDIR": str(_temporary(settings.data_dir))}


def _temporary(folder: Path) -> Path:
    made = folder / "tmp"
    private.folder(made)
    return made


def last_lines(log: Path, count: int = LAST_LINES) -> str:
    lines = log.read_text(errors="replace").splitlines()[-count:]
    return "\n".join(f"  {visible(line)}" for line in lines) or "  (empty)"


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _kill_group(part: Part) -> None:
    """What a part that has ended has left behind: each is the first of a session, and of a group, of its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(part.process.pid, signal.SIGKILL)


def _kill(part: Part) -> None:
    if part.process.poll() is None:
        os.killpg(part.process.pid, signal.SIGKILL)
        part.process.wait()


def _locked(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise InUse(f"Loopline is already running in {path.parent}.") from None
    return fd


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _free_port(host: str) -> int:
    return _bound(host, 0)


def _bound(host: str, port: int) -> int:
    """The port, or a free one for 0, after a try; raises OSError where nothing can listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        number: int = probe.getsockname()[1]
    return number


def _is_ready(host: str, port: int) -> bool:
    """Whether the API has all that it needs. Workers are not asked about: they start after it, and jobs may have waited
    for them since the service was stopped."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/v1/health/ready")
        answer = connection.getresponse()
        checks = json.loads(answer.read())["checks"]
        return answer.status == 200 and all(said == "ok" for what, said in checks.items() if what != "workers")
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return False
    finally:
        connection.close()
