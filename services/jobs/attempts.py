"""One attempt at a job: a worker claims it, renews its lease and ends it. The scheduler ends it if the worker is lost.

Every write of a worker is fenced (`leases.py`): an attempt that was replaced gets LeaseLost and changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from services import metrics
from services.access import tenants
from services.db import now
from services.jobs import lanes, moves, retraining
from services.jobs.leases import Lease, fence, lost, owned
from services.orm import Event, Job
from services.states import PERMANENT, Reason, Status
from services.webhooks import news

MAX_LOST = 3
"""How often in a row a job may lose its worker without a new checkpoint and still be queued again."""

RETRY_SECONDS = 5.0
MAX_RETRY_SECONDS = 300.0


@dataclass(frozen=True)
class Flags:
    """What the owner of a lease is asked to do. Every renewal returns it."""

    cancel: bool = False
    pause: bool = False
    seconds_left: float | None = None
    """Running time left to all attempts together (limits.max_runtime_seconds); None without a limit, never negative."""


def claim(session: Session, queue: str, *, worker: str, lease_seconds: float) -> Job | None:
    """Take the best runnable job of the queue: of the highest priority, of the tenant whose turn it is (`lanes.py`).
    None when there is none.

    Raises the attempt and sets a lease by the database's clock, in one statement; of many claims at once each gets
    another job. A tenant that runs as many jobs as it may is passed over, and the others' jobs run.
    """
    job = _claim_in_turn(session, queue, worker, lease_seconds)
    if job is not None:
        news.announce_job(session, job)
    if job is not None and metrics.are_on():
        metrics.after_commit(session, metrics.ATTEMPTS.inc, queue=job.queue)
        metrics.after_commit(session, metrics.WAIT_SECONDS.observe, _waited(session, job), queue=job.queue)
    return job


def _claim_in_turn(session: Session, queue: str, worker: str, lease_seconds: float) -> Job | None:
    turns = lanes.Turns(session, queue)
    while (turn := turns.next()) is not None:
        job = (_claim_within_limit if turn.is_limited else moves.claim)(session, turn.lane, worker, lease_seconds)
        if job is not None:
            turns.took(turn)
            return job
        turns.passed(turn)
    lanes.close_empty(session, queue)
    return None


def _claim_within_limit(session: Session, lane: lanes.Key, worker: str, lease_seconds: float) -> Job | None:
    attempt = session.begin_nested()
    job = moves.claim(session, lane, worker, lease_seconds)
    if job is None or tenants.has_room_for_running(session, lane.tenant):
        attempt.commit()
        return job
    attempt.rollback()
    return None


def orphans(session: Session, worker: str) -> Sequence[Lease]:
    """Leases of running jobs that belong to `worker`, a name that no other process has or had.

    For a worker that holds no job: the answer to its claim was lost on the way, after the claim was made.
    """
    held = select(Job).where(Job.status == sa.literal_column("'running'"), Job.worker == worker)
    return [Lease.of(job) for job in session.scalars(held)]


def renew(session: Session, lease: Lease, lease_seconds: float) -> Flags:
    """Extend the lease to `lease_seconds` from now, and return what clients ask of its owner.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    ran = Job.ran_seconds + (now() - Job.attempt_started_at)
    statement = (
        update(Job)
        .where(*fence(lease))
        .values(lease_until=now() + lease_seconds)
        .returning(Job.cancel_requested, Job.pause_requested, (Job.max_runtime_seconds - ran).label("left"))
    )
    row = session.execute(statement, execution_options={"synchronize_session": False}).one_or_none()
    if row is None:
        raise lost(lease)
    left = None if row.left is None else max(0.0, row.left)
    return Flags(cancel=row.cancel_requested, pause=row.pause_requested, seconds_left=left)


def succeed(session: Session, lease: Lease, result: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> Job:
    """The model is on disk and hashed: the job has succeeded, even when cancelling it was asked for meanwhile. That of
    a retraining becomes a version in the registry, and production if it passed the gate.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    job = owned(session, lease)
    concluded = retraining.conclude(session, job, result)
    message = None
    if "retrain" in concluded:
        message, decision = concluded["retrain"]["message"], concluded["retrain"]["decision"]
        metrics.after_commit(session, metrics.RETRAININGS.inc, queue=job.queue, decision=decision)
    kept = [dict(file) for file in files]
    return moves.end(session, job, Status.SUCCEEDED, result=concluded, files=kept, message=message)


def fail(
    session: Session,
    lease: Lease,
    reason: str,
    message: str | None = None,
    *,
    retry: bool,
    retry_seconds: float = RETRY_SECONDS,
    result: Mapping[str, Any] | None = None,
    files: Sequence[Mapping[str, Any]] = (),
) -> Job:
    """The attempt failed: the job is queued again after a wait, or has failed, with the best weights until then as its
    `result` and `files` if it offers them.

    It is tried again when `retry` is true, the reason is not PERMANENT, and fewer than the spec's max_retries attempts
    have failed; the wait starts at `retry_seconds`, doubles to at most 300 s, and is shortened at random by up to half.
    One that stalls is tried again only once. A job that was to be cancelled or paused is that instead.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    why = Reason(reason)
    job = owned(session, lease)
    explained = moves.explain(why, message)
    used_up = job.failures >= job.max_retries and not job.cancel_requested
    if not retry or why in PERMANENT or used_up or (why == Reason.STALLED and _has_stalled(session, job)):
        return moves.end(session, job, Status.FAILED, reason=why, message=explained, **_offered(result, files))
    wait = min(retry_seconds * 2**job.failures, MAX_RETRY_SECONDS) * random.uniform(0.5, 1.0)  # noqa: S311
    retry_message = f"Attempt {job.attempt} failed ({why}) and is tried again: {explained}"
    values = {"failures": job.failures + 1, "not_before": now() + wait}
    return moves.requeue(session, job, reason=why, message=retry_message, **values)


def give_back(session: Session, lease: Lease) -> Job:
    """Queue the job again because its worker shuts down; counts neither as lost nor as a failure. A job that was to be
    cancelled or paused is that instead.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    return moves.requeue(session, owned(session, lease))


def lose(session: Session, lease: Lease, message: str) -> Job:
    """What the attempt computed on is gone: as `expire` does with a worker that fell silent, without the waiting.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    return _lose(session, owned(session, lease), message)


def cancelled(
    session: Session,
    lease: Lease,
    *,
    result: Mapping[str, Any] | None = None,
    files: Sequence[Mapping[str, Any]] = (),
) -> Job:
    """The trainer has stopped because cancelling was asked for, and may offer the best weights until then.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    offered = _offered(result, files)
    return moves.end(session, owned(session, lease), Status.CANCELLED, reason=Reason.CANCELLED_BY_USER, **offered)


def pruned(
    session: Session,
    lease: Lease,
    message: str | None = None,
    *,
    result: Mapping[str, Any] | None = None,
    files: Sequence[Mapping[str, Any]] = (),
) -> Job:
    """The search of this trial has stopped it because other trials were better. The trainer may offer the best weights
    until then. A job whose cancelling was asked for meanwhile is cancelled on request instead.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    job = owned(session, lease)
    reason = Reason.CANCELLED_BY_USER if job.cancel_requested else Reason.PRUNED
    sentence = None if job.cancel_requested else moves.explain(reason, message)
    return moves.end(session, job, Status.CANCELLED, reason=reason, message=sentence, **_offered(result, files))


def _offered(result: Mapping[str, Any] | None, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {} if result is None else {"result": dict(result), "files": [dict(file) for file in files]}


def paused(session: Session, lease: Lease) -> Job:
    """The trainer has stopped because pausing was asked for. Where that was taken back meanwhile the job is queued.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    return moves.requeue(session, owned(session, lease))


def expire(session: Session, *, grace_seconds: float = 0.0, limit: int = 100) -> Sequence[str]:
    """Take jobs from workers whose lease ran out more than `grace_seconds` ago, and fail jobs that waited past their
    limits.max_queue_seconds; at most `limit` of each.

    A lost job is queued again, cancelled when that was asked for, or failed when it was lost MAX_LOST times before
    without a new checkpoint between. Returns the ids of the jobs that were moved.
    """
    moved = []
    silent = _take(session, select(Job).where(*_silent(grace_seconds)).order_by(Job.lease_until).limit(limit))
    lanes.enter(session, {lanes.lane_of(job) for job in silent})
    for job in silent:
        metrics.after_commit(session, metrics.EXPIRIES.inc)
        message = f"Worker {job.worker} was lost during attempt {job.attempt}."
        moved.append(_lose(session, job, message, until=job.lease_until).id)
    for job in _take(session, select(Job).where(*_late()).limit(limit)):
        waited = job.spec["limits"]["max_queue_seconds"]
        late = f"No worker was free within limits.max_queue_seconds ({waited:g} s): raise it, or run more workers."
        message = moves.explain(Reason.TIME_LIMIT, late)
        moved.append(moves.move(session, job, Status.FAILED, reason=Reason.TIME_LIMIT, message=message).id)
    return moved


def any_expired(session: Session, *, grace_seconds: float = 0.0) -> bool:
    """Whether `expire` would find something: a look that takes no lock."""
    found = sa.or_(*(select(Job.id).where(*which).exists() for which in (_silent(grace_seconds), _late())))
    return bool(session.scalar(select(found)))


def _lose(session: Session, job: Job, why: str, until: float | None = None) -> Job:
    if job.lost >= MAX_LOST and not job.cancel_requested:
        message = moves.explain(Reason.WORKER_LOST, why)
        return moves.end(session, job, Status.FAILED, reason=Reason.WORKER_LOST, message=message, until=until)
    values = {"lost": job.lost + 1, "until": until}
    return moves.requeue(session, job, reason=Reason.WORKER_LOST, message=f"{why} The job goes on.", **values)


def _silent(grace_seconds: float) -> tuple[ColumnElement[bool], ...]:
    return (Job.status == sa.literal_column("'running'"), Job.lease_until < now() - grace_seconds)


def _late() -> tuple[ColumnElement[bool], ...]:
    return (Job.status == sa.literal_column("'queued'"), Job.attempt == 0, Job.queue_deadline < now())


def _take(session: Session, query: sa.Select[Job]) -> Sequence[Job]:
    """The rows of a query that nobody else holds, locked."""
    locked = query.with_for_update(skip_locked=True)
    return session.scalars(locked, execution_options={"populate_existing": True}).all()


def _waited(session: Session, job: Job) -> float:
    """How long a job that was claimed in this transaction had been runnable, in seconds."""
    since = job.created_at
    if job.revision > 2:  # somebody wrote it between its birth and this claim, so it may have been queued again
        queued = select(Event.at).where(Event.job_id == job.id, Event.to_status == Status.QUEUED)
        since = session.scalar(queued.order_by(Event.id.desc()).limit(1)) or since
    assert job.attempt_started_at is not None  # noqa: S101  (the claim has set it)
    return max(0.0, job.attempt_started_at - max(since, job.not_before))


def _has_stalled(session: Session, job: Job) -> bool:
    """Whether an attempt before this one stalled too."""
    stalled = select(Event.id).where(Event.job_id == job.id, Event.reason == Reason.STALLED)
    return bool(session.scalar(select(stalled.exists())))
