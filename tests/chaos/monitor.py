"""Looks at the database all the time: which jobs run where, and how soon after a fault they are written again."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db
from services.errors import LooplineError
from services.orm import Job
from tests.chaos.load import TERMINAL

LOOK_SECONDS = 0.3
IN_FLIGHT_SECONDS = 0.3
"""What is written so soon after a fault was on its way before it."""


@dataclass(frozen=True)
class Seen:
    """A job as it was last seen."""

    status: str
    attempt: int
    worker: str | None
    progress_at: float | None
    finished_at: float | None

    @property
    def child(self) -> int | None:
        """The process id of the pool child that owns it."""
        parts = (self.worker or "").split(":")
        return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else None


@dataclass
class Wound:
    """A job that a fault hit, and when it was well again."""

    kind: str
    job: str
    wall: float
    attempt: int
    """Its attempt then."""
    deadly: bool
    """Whether the fault ends the attempt, so that only a later one counts as recovery."""
    seconds: float | None = None


@dataclass
class Monitor:
    engine: Engine
    seen: Mapping[str, Seen] = field(default_factory=dict)
    wounds: list[Wound] = field(default_factory=list)
    looks: int = 0
    failed_looks: int = 0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def running(self, children: Sequence[int] | None = None) -> list[str]:
        """The jobs that were last seen running, of these pool children or of all."""
        seen = dict(self.seen)
        return [
            job for job, one in seen.items() if one.status == "running" and (children is None or one.child in children)
        ]

    def hit(self, kind: str, jobs: Sequence[str], *, deadly: bool) -> None:
        """A fault has just hit these jobs."""
        for job in jobs:
            if (one := self.seen.get(job)) is not None:
                self.wounds.append(Wound(kind, job, time.time(), one.attempt, deadly))

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            columns = (Job.id, Job.status, Job.attempt, Job.worker, Job.progress_at, Job.finished_at)
            try:
                with db.read_scope(self.engine) as session:
                    rows = session.execute(sa.select(*columns)).all()
            except LooplineError:
                self.failed_looks += 1
                continue
            self.looks += 1
            self.seen = {row[0]: Seen(*row[1:]) for row in rows}
            for wound in self.wounds:
                if wound.seconds is None and (one := self.seen.get(wound.job)) is not None:
                    wound.seconds = recovered(wound, one)


def recovered(wound: Wound, now: Seen) -> float | None:
    """Seconds from the fault to the job's next accepted write, or its end; None while there was none."""
    if now.status in TERMINAL and now.finished_at is not None:
        return max(0.0, now.finished_at - wound.wall)
    if now.progress_at is None or now.progress_at < wound.wall + IN_FLIGHT_SECONDS:
        return None
    if wound.deadly and now.attempt <= wound.attempt:
        return None
    return now.progress_at - wound.wall
