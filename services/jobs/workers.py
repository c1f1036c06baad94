"""The list of workers and what each one does, and the check for jobs that no worker takes.

A worker's row only informs people and grants no rights: leases are on the jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from services.access import tenants
from services.db import now
from services.orm import Job, Lane, Worker
from services.states import Status

SEEN_SECONDS = 60.0
"""A worker that was not seen for this long is taken for gone."""
KEEP_SECONDS = 3600.0
LOOKED_AT = 100
"""`stuck` reads at most this many jobs of a lane: those that run next. So it costs the same however many jobs wait.
Jobs that nobody takes stay at the head of their lane, so these are enough."""


class State(StrEnum):
    """What a worker is doing."""

    IDLE = "idle"
    BUSY = "busy"
    BROKEN = "broken"
    """Its GPU is lost, or failed the self-test: it claims nothing. Its log says why and what to do."""


def beat(
    session: Session,
    name: str,
    *,
    queues: Sequence[str],
    state: str,
    job_id: str | None,
    doorbell_seconds_ago: float | None,
    device: str | None = None,
    memory_bytes: int | None = None,
) -> None:
    """Say that the worker `name` is there: the queues it takes jobs of (none if it shuts down), how long ago it heard
    a bell (None: never), what it computes on and how much memory that has (None: not known yet)."""
    heard_at = None if doorbell_seconds_ago is None else now() - doorbell_seconds_ago
    values = {
        "queues": ",".join(queues),
        "state": State(state),
        "job_id": job_id,
        "seen_at": now(),
        "heard_at": heard_at,
        "device": device,
        "memory_bytes": memory_bytes,
    }
    seen = session.execute(sa.update(Worker).where(Worker.name == name).values(**values).returning(Worker.name))
    if seen.one_or_none() is None:
        session.execute(sa.insert(Worker).values(name=name, started_at=now(), **values))


def queues(worker: Worker) -> Sequence[str]:
    """The queues that a worker takes jobs of; none if it shuts down."""
    return worker.queues.split(",") if worker.queues else ()


def remove(session: Session, name: str) -> None:
    """The worker has ended."""
    session.execute(delete(Worker).where(Worker.name == name))


def any_old(session: Session) -> bool:
    """Whether `forget_old` would find something: a look that takes no lock."""
    return bool(session.scalar(select(select(Worker.name).where(_old()).exists())))


def forget_old(session: Session) -> None:
    """Forget workers that were not seen for an hour."""
    session.execute(delete(Worker).where(_old()))


def runnable_for(session: Session, queues: Sequence[str], seconds: float) -> bool:
    """Whether a job of these queues has been runnable for so long."""
    return any(row.jobs for row in session.execute(_waiting(seconds).where(Lane.queue.in_(queues))))


def stuck(session: Session, seconds: float) -> Sequence[str]:
    """Sentences about workers that are broken, and about queues whose jobs have been runnable for `seconds` with no
    worker to take them: none listens, or an idle one leaves them lying. Empty when all is well, and when all workers
    are busy."""
    present = seen(session)
    living = [worker for worker in present if worker.state != State.BROKEN]
    sentences = [broken(worker) for worker in present if worker.state == State.BROKEN]
    for queue, rows in groupby(session.execute(_waiting(seconds)), key=lambda row: row.queue):
        waiting = [row for row in rows if row.jobs]
        listening = [worker for worker in living if queue in queues(worker)]
        idle = [worker.name for worker in listening if worker.state == State.IDLE]
        if not waiting or (listening and not idle):
            continue
        many = f"{_number(waiting)} of the queue {queue} waited up to {max(row.longest for row in waiting):.0f} s"
        sentences.append(
            f"{many}, and {idle[0]} is idle and does not take them."
            if idle
            else f"{many}, and no worker listens to it."
        )
    return sentences


def listening(session: Session, queue: str) -> int:
    """How many of the workers that were seen lately can take the jobs of a queue."""
    present = [worker for worker in seen(session) if worker.state != State.BROKEN]
    return sum(queue in queues(worker) for worker in present)


def broken(worker: Worker) -> str:
    """The sentence about a worker that cannot work."""
    return f"{worker.name} takes no jobs: its GPU cannot be used. Its log says why, and how to mend it."


def since() -> sa.ColumnElement[float]:
    """Since when a queued job has been runnable: its row was last written when it came to wait."""
    later = Job.not_before > Job.updated_at
    return sa.case((later, Job.not_before), else_=Job.updated_at)


def _waiting(seconds: float) -> sa.Select[Any]:
    """By lane, of the jobs that are run next: how many have been runnable for so long, and the longest time."""
    at = select(now()).scalar_subquery()  # asked once, not of every row
    line = (Job.queue == Lane.queue, Job.tenant == Lane.tenant, Job.priority == Lane.priority)
    queued = Job.status == sa.literal_column(f"'{Status.QUEUED}'")
    # Jobs that wait for a retry stand at the head of their lane. The index skips them without reading their rows.
    runnable = (*line, queued, Job.not_before <= at - seconds)
    first = select(since().label("since")).where(*runnable).order_by(Job.turn, Job.id).limit(LOOKED_AT)
    each = first.correlate(Lane).subquery()
    old = each.c.since <= at - seconds
    jobs = select(func.count()).select_from(each).where(old).scalar_subquery().label("jobs")
    longest = select(func.max(at - each.c.since)).select_from(each).where(old).scalar_subquery().label("longest")
    query = select(Lane.queue, jobs, longest).where(Lane.has_jobs, Lane.tenant.not_in(tenants.full()))
    return query.order_by(Lane.queue)


def _number(waiting: Sequence[Any]) -> str:
    jobs = sum(row.jobs for row in waiting)
    least = "At least " if any(row.jobs == LOOKED_AT for row in waiting) else ""
    return f"{least}{jobs} job{'s' if jobs != 1 else ''}"


def _old() -> sa.ColumnElement[bool]:
    return Worker.seen_at < now() - KEEP_SECONDS


def seen(session: Session, seen_seconds: float = SEEN_SECONDS) -> Sequence[Worker]:
    """The workers that were seen within `seen_seconds`, by name."""
    query = select(Worker).where(Worker.seen_at >= now() - seen_seconds).order_by(Worker.name)
    return session.scalars(query).all()
