"""How tests look at jobs and processes that others change meanwhile."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis
from sqlalchemy.engine import Engine

from services import db
from services.jobs import control, events, progress
from services.orm import Checkpoint, Event, Job
from tests.rows import transitions


@dataclass
class Watch:
    """Looks at jobs while other processes write them."""

    engine: Engine

    def job(self, job_id: str) -> Job:
        with db.read_scope(self.engine) as session:
            return control.get(session, job_id)

    def until(self, job_id: str, condition: Callable[[Job], object], seconds: float = 20.0) -> Job:
        """The job as soon as `condition` holds of it."""
        deadline = time.monotonic() + seconds
        while not condition(job := self.job(job_id)):
            assert time.monotonic() < deadline, f"still {job.status}, attempt {job.attempt}: {job.message}"
            time.sleep(0.01)
        return job

    def transitions(self, job_id: str) -> Sequence[Event]:
        with db.read_scope(self.engine) as session:
            return transitions(session, job_id)

    def statuses(self, job_id: str) -> list[str | None]:
        return [row.to_status for row in self.transitions(job_id)]

    def events(self, job_id: str, type: str) -> Sequence[Event]:
        with db.read_scope(self.engine) as session:
            return events.page(session, job_id, type=type)[0]

    def checkpoints(self, job_id: str) -> Sequence[Checkpoint]:
        with db.read_scope(self.engine) as session:
            return progress.checkpoints(session, job_id)

    def lines(self, job_id: str) -> list[tuple[str, str]]:
        """Level and text of the job's log."""
        with db.read_scope(self.engine) as session:
            return [(line.level, line.text) for line in events.lines(session, job_id, limit=5000)[0]]


@dataclass
class Process:
    """A process that a test started, and the group that it leads."""

    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def pool_child(self) -> int:
        """The process id of the only pool child, waiting for it to be there."""
        deadline = time.monotonic() + 15
        while not (children := [one for one in psutil.Process(self.pid).children() if one.status() != "zombie"]):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)
        return children[0].pid

    def stop(self, seconds: float = 15.0, number: int = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(seconds)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_death(pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still alive after {seconds} s"
        time.sleep(0.005)


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def waits_for_bells(broker_url: str) -> bool:
    """Whether a worker has nothing to do: it listens only then."""
    with redis.Redis.from_url(broker_url) as client:
        return any("b" in one["flags"] and one["cmd"] == "brpop" for one in client.client_list())
