"""The one place where the status of a job changes. `states.py` says which moves there are; the database refuses others.

`claim` takes a waiting job for a worker. All other functions write a row that their transaction already holds.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from services import metrics
from services.db import now
from services.errors import IllegalMove
from services.jobs import events, lanes
from services.jobs.leases import returned, revised
from services.orm import Checkpoint, Job
from services.states import ALLOWED, SAYS_WHAT_TO_DO, TERMINAL, Kind, Reason, Status
from services.text import clean
from services.webhooks import news

PAUSED = "The job was paused on request; resume it to go on from where it stands."


def claim(session: Session, lane: lanes.Key, worker: str, lease_seconds: float) -> Job | None:
    """Give the first runnable job of the lane to the worker, as a new attempt; None where there is none."""
    asked = {"in_queue": lane.queue, "of_priority": lane.priority, "of_tenant": lane.tenant}
    asked |= {"by_worker": worker, "for_seconds": lease_seconds}
    return returned(session, _claim_statement(), asked)


@cache
def _claim_statement() -> sa.Update:
    line = (
        Job.queue == sa.bindparam("in_queue"),
        Job.tenant == sa.bindparam("of_tenant"),
        Job.priority == sa.bindparam("of_priority"),
    )
    best = (
        select(Job.id)
        .where(*line, *lanes.runnable())
        .order_by(Job.turn, Job.id)
        .limit(lanes.ONE)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return (
        update(Job)
        .where(Job.id == best, Job.status == Status.QUEUED)
        .values(
            status=Status.RUNNING,
            attempt=Job.attempt + 1,
            worker=sa.bindparam("by_worker"),
            lease_until=now() + sa.bindparam("for_seconds", type_=sa.Double()),
            attempt_started_at=now(),
            started_at=func.coalesce(Job.started_at, now()),
            reason=None,
            message=None,
            **revised(),
        )
    )


def write(session: Session, job: Job, **values: Any) -> Job:
    """Write a row that this transaction holds."""
    statement = update(Job).where(Job.id == job.id, Job.status == job.status, Job.attempt == job.attempt)
    updated = returned(session, statement.values(revised(**values)))
    if updated is None:
        raise IllegalMove(f"The job {job.id} was changed by another transaction.")
    return updated


def move(
    session: Session, job: Job, to: Status, *, reason: Reason | None = None, message: str | None = None, **values: Any
) -> Job:
    """Change the state of a row that this transaction holds; the database writes it down (`events.Type.STATUS`).

    Raises:
        IllegalMove: the move does not stand in ALLOWED.
    """
    before = Status(job.status)
    if to not in ALLOWED[before]:
        raise IllegalMove(f"A job that is {before} cannot become {to}.")
    sentence = message or (reason.sentence if reason else None)
    if to in TERMINAL:
        values["finished_at"] = now()
    if to == Status.QUEUED:
        values["turn"] = lanes.back(job)
    moved = write(session, job, status=to, reason=reason, message=sentence, **values)
    if before == Status.QUEUED:
        lanes.close(session, lanes.lane_of(moved))
    news.announce_job(session, moved)
    if to in TERMINAL and moved.kind == Kind.PREDICT:  # nobody goes on from the pieces of its answers
        session.execute(sa.delete(Checkpoint).where(Checkpoint.job_id == moved.id))
    if to in TERMINAL:
        metrics.after_commit(session, metrics.RUNS.inc, queue=moved.queue, outcome=to, reason=reason or "")
    return moved


def end(session: Session, job: Job, to: Status, *, until: float | None = None, **values: Any) -> Job:
    """End the attempt of a running job that this transaction holds; it ran `until` then, or now."""
    before = job.ran_seconds
    ran = Job.ran_seconds + ((now() if until is None else until) - Job.attempt_started_at)
    ended = move(session, job, to, lease_until=None, ran_seconds=ran, pause_requested=False, **values)
    seconds, queue = ended.ran_seconds - before, ended.queue
    metrics.after_commit(session, metrics.RUN_SECONDS.observe, seconds, queue=queue, outcome=to)
    if to == Status.QUEUED:
        metrics.after_commit(session, metrics.RETRIES.inc, queue=queue, reason=values.get("reason") or "given_back")
    return ended


def requeue(session: Session, job: Job, *, until: float | None = None, **values: Any) -> Job:
    """End an attempt that is not the last: the job waits for the next one, unless it was to be cancelled or paused."""
    if job.cancel_requested:
        return end(session, job, Status.CANCELLED, reason=Reason.CANCELLED_BY_USER, until=until)
    if job.pause_requested:
        return end(session, job, Status.PAUSED, until=until, **{"message": PAUSED, **values})
    return end(session, job, Status.QUEUED, until=until, **values)


def explain(reason: Reason, message: str | None) -> str:
    """The message, and what the reason means unless its messages say so themselves."""
    if not message:
        return reason.sentence
    cleaned = clean(message, events.MAX_MESSAGE)
    return cleaned if reason in SAYS_WHAT_TO_DO else f"{cleaned} {reason.sentence}"
