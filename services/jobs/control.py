"""The life of a job, as verbs. The row is the truth; who may write it is decided by the attempt number.

Functions take the session first and never commit; the caller does (`db.session_scope`), and rings the bell afterwards.

Every write of a worker is fenced (`leases.py`): an attempt that was replaced gets LeaseLost and changes nothing. Which
moves there are stands in `states.py`, and the database refuses all others.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from services import metrics
from services.access import tenants
from services.db import now
from services.errors import CheckpointNotFound, DatasetNotFound, IllegalMove, JobNotEnded, JobNotFound, JobRegistered
from services.jobs import events, lanes, retraining, series
from services.jobs.leases import Lease, fence, lost, owned, returned, revised
from services.orm import Checkpoint, Dataset, Epoch, Event, IdempotencyKey, Job, Lane, ModelVersion, StepChunk, new_id
from services.states import ALLOWED, PERMANENT, SAYS_WHAT_TO_DO, TERMINAL, Reason, Status
from services.text import clean
from services.training.epochs import NAME as NAME_OF_EPOCHS
from services.webhooks import news

if TYPE_CHECKING:
    from services.training.spec import Spec


MAX_LOST = 3
"""How often in a row a job may lose its worker without a new checkpoint and still be queued again."""

RETRY_SECONDS = 5.0
MAX_RETRY_SECONDS = 300.0
MAX_TRANSITIONS = 10_000
PAUSED = "The job was paused on request; resume it to go on from where it stands."
CHUNK_STEPS = 2048
"""A chunk of steps grows to at most this many before the next one is begun."""


@dataclass(frozen=True)
class Flags:
    """What the owner of a lease is asked to do, told at every renewal."""

    cancel: bool = False
    pause: bool = False
    seconds_left: float | None = None
    """Running time left to all attempts together (limits.max_runtime_seconds); None without a limit, never negative."""


@dataclass(frozen=True)
class Steps:
    """Per-step numbers of a job, thinned out."""

    step: Sequence[int]
    loss: Sequence[float | None]
    grad_norm: Sequence[float | None]
    total: int
    """How many steps are recorded."""


# Clients: create, look, cancel. They say whose jobs they mean; None, of any tenant, is for workers and operators.


class Wanted(NamedTuple):
    """A job that is to be made."""

    spec: Spec
    requested: Mapping[str, Any]
    """The spec as it was sent."""
    dataset_id: str | None
    warnings: Sequence[str] = ()
    """What of its data may have been meant otherwise."""


def create(
    session: Session,
    spec: Spec,
    *,
    requested: Mapping[str, Any],
    dataset_id: str | None,
    request_id: str | None = None,
    tenant: str = tenants.DEFAULT,
) -> Job:
    """A new queued job.

    Raises:
        DatasetNotFound: the data set was deleted meanwhile.
        QuotaExceeded: the tenant has as many jobs waiting as it may.
    """
    wanted = Wanted(spec, requested, dataset_id)
    return create_all(session, [wanted], request_id=request_id, tenant=tenant)[0]


def create_all(
    session: Session,
    wanted: Sequence[Wanted],
    *,
    request_id: str | None = None,
    tenant: str = tenants.DEFAULT,
    batch_id: str | None = None,
) -> Sequence[Job]:
    """New queued jobs, in the order given: all of them, or none.

    Raises:
        DatasetNotFound: a data set was deleted meanwhile.
        QuotaExceeded: the tenant would have more jobs waiting than it may.
    """
    tenants.check_queued(session, tenant, more=len(wanted))
    for dataset_id in sorted({each.dataset_id for each in wanted if each.dataset_id is not None}):
        _hold_dataset(session, dataset_id)
    lines = [lanes.Key(each.spec.queue, each.spec.priority, tenant) for each in wanted]
    lanes.enter(session, {*lines})
    places = lanes.Places(session, in_batch=batch_id is not None)
    whose = {"request_id": request_id, "tenant": tenant, "batch_id": batch_id}
    return [_insert(session, each, places.next(line), **whose) for each, line in zip(wanted, lines, strict=True)]


def _insert(session: Session, wanted: Wanted, turn: float, **whose: str | None) -> Job:
    spec, limits = wanted.spec, wanted.spec.limits
    insert = sa.insert(Job).values(
        id=new_id("job"),
        name=spec.name,
        status=Status.QUEUED,
        spec=spec.document(),
        requested=dict(wanted.requested),
        queue=spec.queue,
        priority=spec.priority,
        turn=turn,
        tags=dict(spec.tags),
        dataset_id=wanted.dataset_id,
        warnings=[*wanted.warnings],
        max_retries=limits.max_retries,
        max_runtime_seconds=limits.max_runtime_seconds,
        queue_deadline=None if limits.max_queue_seconds is None else now() + limits.max_queue_seconds,
        epochs=spec.training.epochs,
        created_at=now(),
        updated_at=now(),
        **whose,
    )
    job = session.scalars(insert.returning(Job)).one()
    metrics.after_commit(session, metrics.SUBMITTED.inc, queue=job.queue)
    news.tell(session, job)
    return job


def get(session: Session, job_id: str, *, tenant: str | None = None) -> Job:
    """The job as it stands in the database.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    job = session.get(Job, job_id, populate_existing=True)
    if job is None or (tenant is not None and job.tenant != tenant):
        raise JobNotFound(f"There is no job {clean(job_id, 100)}.")
    return job


def those(session: Session, job_ids: Sequence[str]) -> Sequence[Job]:
    """The jobs of these ids that there are, oldest first."""
    return session.scalars(select(Job).where(Job.id.in_(job_ids)).order_by(Job.id)).all()


def revision(session: Session, job_id: str, *, tenant: str | None = None) -> tuple[int, str]:
    """The job's revision and status, in one cheap query: for an ETag or a long poll.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    row = session.execute(select(Job.revision, Job.status).where(*_named(job_id, tenant))).one_or_none()
    if row is None:
        raise JobNotFound(f"There is no job {clean(job_id, 100)}.")
    return row.revision, row.status


def cancel(session: Session, job_id: str, *, tenant: str | None = None) -> Job:
    """Cancel a waiting job at once, ask a running one to stop, leave an ended one as it is.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    job = _locked(session, job_id, tenant)
    if job.status in TERMINAL or job.cancel_requested:
        return job
    if job.status == Status.RUNNING:
        events.add(session, job, events.Type.REQUEST, "Cancelling was asked for.")
        return _update(session, job, cancel_requested=True)
    return _move(session, job, Status.CANCELLED, reason=Reason.CANCELLED_BY_USER, cancel_requested=True)


def pause(session: Session, job_id: str, *, tenant: str | None = None) -> Job:
    """Pause a waiting job at once; ask a running one to save its place and free its device. A paused one stays so.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
        IllegalMove: the job has ended.
    """
    job = _locked(session, job_id, tenant)
    if job.status in TERMINAL:
        raise IllegalMove(f"The job {job.id} has ended ({job.status}); there is nothing to pause.")
    if job.status == Status.PAUSED or job.pause_requested:
        return job
    if job.status == Status.RUNNING:
        events.add(session, job, events.Type.REQUEST, "Pausing was asked for.")
        return _update(session, job, pause_requested=True)
    return _move(session, job, Status.PAUSED, message=PAUSED)


def resume(session: Session, job_id: str, *, tenant: str | None = None) -> Job:
    """Queue a paused job again, to go on from its place; take back a pause that was only asked for; else do nothing.

    Time spent paused counts for no limit: one on the time in the queue begins anew.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
        IllegalMove: the job has ended.
    """
    job = _locked(session, job_id, tenant)
    if job.status in TERMINAL:
        raise IllegalMove(f"The job {job.id} has ended ({job.status}); submit it again to run it.")
    if job.status == Status.PAUSED:
        most = job.spec["limits"]["max_queue_seconds"]
        return _move(session, job, Status.QUEUED, not_before=0.0, queue_deadline=None if most is None else now() + most)
    if not job.pause_requested:
        return job
    events.add(session, job, events.Type.REQUEST, "The request to pause was taken back.")
    return _update(session, job, pause_requested=False)


def delete(session: Session, job_id: str, *, tenant: str | None = None) -> None:
    """Delete an ended job with all that was recorded of it; its files are for the caller to remove, after the commit.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
        JobNotEnded: it may still run.
        JobRegistered: it is a version of a model.
    """
    job = _locked(session, job_id, tenant)
    if job.status not in TERMINAL:
        raise JobNotEnded(f"The job {job.id} is {job.status}; cancel it and wait for its end, then delete it.")
    _check_unregistered(session, job)
    session.execute(sa.delete(IdempotencyKey).where(IdempotencyKey.resource_id == job.id))
    session.execute(sa.delete(Job).where(Job.id == job.id))


def epochs(session: Session, job_id: str, after: int = 0, limit: int = 1000) -> Sequence[dict[str, Any]]:
    """The records of epochs after `after`, ascending, at most `limit`."""
    query = select(Epoch.record).where(Epoch.job_id == job_id, Epoch.epoch > after).order_by(Epoch.epoch).limit(limit)
    return session.scalars(query).all()


def steps(session: Session, job_id: str, points: int = 500) -> Steps:
    """Loss and gradient norm by step, at most `points` (2 or more) of them: the first, the last, and of each stretch
    between the least and the greatest loss."""
    query = (
        select(StepChunk.first_step, StepChunk.last_step, StepChunk.loss, StepChunk.grad_norm)
        .where(StepChunk.job_id == job_id)
        .order_by(StepChunk.first_step)
    )
    chunks = session.execute(query).all()
    if not chunks:
        return Steps([], [], [], 0)
    step = np.concatenate([np.arange(chunk.first_step, chunk.last_step + 1) for chunk in chunks])
    loss = series.unpack(b"".join(chunk.loss for chunk in chunks))
    grad_norm = series.unpack(b"".join(chunk.grad_norm for chunk in chunks))
    chosen = series.thin(loss, max(points, 2))
    return Steps(step[chosen].tolist(), series.plain(loss[chosen]), series.plain(grad_norm[chosen]), len(step))


def checkpoints(session: Session, job_id: str) -> Sequence[Checkpoint]:
    """The job's checkpoints, oldest first."""
    return session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step)).all()


def get_checkpoint(session: Session, job_id: str, step: int) -> Checkpoint:
    """One checkpoint.

    Raises:
        CheckpointNotFound: the job has none at this step.
    """
    row = session.get(Checkpoint, (job_id, step))
    if row is None:
        kept = ", ".join(str(found.step) for found in checkpoints(session, job_id)[-20:])
        others = f"it has those of steps {kept}" if kept else "it has none"
        raise CheckpointNotFound(f"The job {clean(job_id, 100)} has no checkpoint of step {step}: {others}.")
    return row


def transitions(session: Session, job_id: str) -> Sequence[Event]:
    """Every change of the job's state, oldest first."""
    return events.list(session, job_id, limit=MAX_TRANSITIONS, type=events.Type.STATUS)


# Workers: claim, renew, record


def claim(session: Session, queue: str, *, worker: str, lease_seconds: float) -> Job | None:
    """Take the best runnable job of the queue: of the highest priority, of the tenant whose turn it is (`lanes.py`).
    None when there is none.

    Raises the attempt and sets a lease by the database's clock, in one statement; of many claims at once each gets
    another job. A tenant that runs as many jobs as it may is passed over, and the others' jobs run.
    """
    job = _claim_in_turn(session, queue, worker, lease_seconds)
    if job is not None:
        news.tell(session, job)
    if job is not None and metrics.are_on():
        metrics.after_commit(session, metrics.ATTEMPTS.inc, queue=job.queue)
        metrics.after_commit(session, metrics.WAIT_SECONDS.observe, _waited(session, job), queue=job.queue)
    return job


def _claim_in_turn(session: Session, queue: str, worker: str, lease_seconds: float) -> Job | None:
    turns = lanes.Turns(session, queue)
    while (turn := turns.next()) is not None:
        job = (_claim_within_limit if turn.is_limited else _claim)(session, turn.lane, worker, lease_seconds)
        if job is not None:
            turns.took(turn)
            return job
        turns.passed(turn)
    lanes.close_empty(session, queue)
    return None


def _claim_within_limit(session: Session, lane: lanes.Key, worker: str, lease_seconds: float) -> Job | None:
    attempt = session.begin_nested()
    job = _claim(session, lane, worker, lease_seconds)
    if job is None or tenants.has_room_for_running(session, lane.tenant):
        attempt.commit()
        return job
    attempt.rollback()
    return None


def _claim(session: Session, lane: lanes.Key, worker: str, lease_seconds: float) -> Job | None:
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


def orphans(session: Session, worker: str) -> Sequence[Lease]:
    """Leases of running jobs that belong to `worker`, a name that no other process has or had.

    For a worker that holds no job: the answer to its claim was lost on the way, after the claim was made.
    """
    held = select(Job).where(Job.status == sa.literal_column("'running'"), Job.worker == worker)
    return [Lease.of(job) for job in session.scalars(held)]


def renew(session: Session, lease: Lease, lease_seconds: float) -> Flags:
    """Lengthen the lease to `lease_seconds` from now, and hear what is asked of its owner.

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


def started(
    session: Session,
    lease: Lease,
    *,
    epochs: int,
    steps_per_epoch: int,
    info: Mapping[str, Any],
    best: Mapping[str, Any] | None = None,
) -> Job:
    """The trainer has begun; `info` is what it said (device, threads, parameters, resumed_from). Which epoch is the
    best so far, here and below, is for the trainer to say.

    What an earlier attempt recorded beyond the position that this one resumes from is forgotten: it will come again. So
    are checkpoints whose files are not among `info["checkpoints"]`, the steps of those that it found.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    resumed = info.get("resumed_from") or {"epoch": 0, "step": 0}
    job = owned(
        session,
        lease,
        epochs=epochs,
        steps=epochs * steps_per_epoch,
        step=resumed["step"],
        trainer={**info, "steps_per_epoch": steps_per_epoch},
    )
    _forget_after(session, job, resumed["epoch"], resumed["step"], best)
    if (there := info.get("checkpoints")) is not None:
        gone = (Checkpoint.job_id == job.id, Checkpoint.step.not_in(there))
        session.execute(sa.delete(Checkpoint).where(*gone))
    if resumed["step"]:
        place = f"Attempt {job.attempt} goes on from step {resumed['step']} (epoch {resumed['epoch']})."
        events.add(session, job, events.Type.RESUMED, place, data=resumed)
    return job


def rolled_back(
    session: Session,
    lease: Lease,
    *,
    epoch: int,
    step: int,
    message: str,
    data: Mapping[str, Any] | None = None,
    best: Mapping[str, Any] | None = None,
) -> Job:
    """The run went back to this place and will live on from there: what was recorded beyond it is forgotten.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    furthest = sa.case((Job.checkpoint_step > step, step), else_=Job.checkpoint_step)  # what comes is progress again
    job = owned(session, lease, step=step, progress_at=now(), checkpoint_step=furthest)
    _forget_after(session, job, epoch, step, best)
    events.add(session, job, events.Type.ROLLED_BACK, message, events.Level.WARNING, data)
    return job


def record(session: Session, lease: Lease, record: Mapping[str, Any], *, best: Mapping[str, Any] | None = None) -> Job:
    """Keep the numbers of one epoch (`record["epoch"]`, from 1), in the place of any from an earlier attempt, and which
    epoch is the best with it: `{"epoch", "metric", "value"}`.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    return record_all(session, lease, [record], best=best)


def record_all(
    session: Session, lease: Lease, records: Sequence[Mapping[str, Any]], *, best: Mapping[str, Any] | None = None
) -> Job:
    """Keep the numbers of several epochs, ascending, as `record` does one after the other; `best` is with all of them.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    rows = [{key: _finite(value) for key, value in record.items()} for record in records]
    job = owned(session, lease, epoch=rows[-1]["epoch"], progress_at=now())
    session.execute(sa.delete(Epoch).where(Epoch.job_id == job.id, Epoch.epoch >= rows[0]["epoch"]))
    session.execute(sa.insert(Epoch), [{"job_id": job.id, "epoch": row["epoch"], "record": row} for row in rows])
    job.best = None if best is None else dict(best)
    session.flush()
    return job


def record_steps(
    session: Session,
    lease: Lease,
    first_step: int,
    loss: Sequence[float | None],
    grad_norm: Sequence[float | None],
) -> Job:
    """Keep the numbers of neighbouring steps from `first_step` on (1 is the first of the run), in the place of all that
    was recorded from there on.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
        ValueError: `loss` and `grad_norm` differ in length, or there are none.
    """
    if len(loss) != len(grad_norm) or not loss:
        raise ValueError(f"{len(loss)} losses and {len(grad_norm)} gradient norms; they must be as many, and not none")
    last_step = first_step + len(loss) - 1
    job = owned(session, lease, step=last_step, progress_at=now())
    _forget_steps(session, job.id, first_step)
    new = (series.pack(loss), series.pack(grad_norm))
    # At most one statement's worth of old numbers is rewritten, so that a long job has few chunks to read.
    before = session.scalar(
        select(StepChunk).where(
            StepChunk.job_id == job.id,
            StepChunk.last_step == first_step - 1,
            StepChunk.first_step > last_step - CHUNK_STEPS,
        )
    )
    if before is None:
        row = {"job_id": job.id, "first_step": first_step, "last_step": last_step, "loss": new[0], "grad_norm": new[1]}
        session.execute(sa.insert(StepChunk).values(row))
    else:
        before.last_step, before.loss, before.grad_norm = last_step, before.loss + new[0], before.grad_norm + new[1]
        session.flush()
    return job


def checkpoint(
    session: Session, lease: Lease, *, epoch: int, step: int, best: bool, files: Sequence[Mapping[str, Any]]
) -> Job:
    """Register a checkpoint that lies whole on disk: `files` are `{"name", "bytes", "sha256"}`. A new furthest one is
    progress: the count of lost workers begins again.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    job = owned(session, lease, progress_at=now())
    if best:
        session.execute(update(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.best).values(best=False))
    session.execute(sa.delete(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.step == step))
    row = {"job_id": job.id, "step": step, "epoch": epoch, "best": best, "attempt": job.attempt}
    session.execute(sa.insert(Checkpoint).values(**row, files=[dict(file) for file in files], created_at=now()))
    size = sum(file["bytes"] for file in files)
    told = f"Checkpoint at step {step} (epoch {epoch}), {size / 1e6:.1f} MB{', of the best epoch' if best else ''}."
    events.add(
        session, job, events.Type.CHECKPOINT, told, data={"step": step, "epoch": epoch, "best": best, "bytes": size}
    )
    if step > job.checkpoint_step:
        job.checkpoint_step, job.lost = step, 0
        session.flush()
    return job


def drop_checkpoint(session: Session, lease: Lease, step: int) -> Job:
    """Forget a checkpoint whose files are gone, or are about to go.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    job = owned(session, lease)
    session.execute(sa.delete(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.step == step))
    return job


# Workers: the end of an attempt


def succeed(session: Session, lease: Lease, result: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> Job:
    """The model is on disk and hashed: the job has succeeded, even when cancelling it was asked for meanwhile. That of
    a retraining becomes a version in the registry, and production if it passed the gate.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    job = owned(session, lease)
    concluded = retraining.conclude(session, job, result)
    told = None
    if "retrain" in concluded:
        told, decision = concluded["retrain"]["message"], concluded["retrain"]["decision"]
        metrics.after_commit(session, metrics.RETRAININGS.inc, queue=job.queue, decision=decision)
    kept = [dict(file) for file in files]
    return _end(session, job, Status.SUCCEEDED, result=concluded, files=kept, message=told)


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
    told = _told(why, message)
    used_up = job.failures >= job.max_retries and not job.cancel_requested
    if not retry or why in PERMANENT or used_up or (why == Reason.STALLED and _has_stalled(session, job)):
        return _end(session, job, Status.FAILED, reason=why, message=told, **_offered(result, files))
    wait = min(retry_seconds * 2**job.failures, MAX_RETRY_SECONDS) * random.uniform(0.5, 1.0)  # noqa: S311
    retold = f"Attempt {job.attempt} failed ({why}) and is tried again: {told}"
    values = {"failures": job.failures + 1, "not_before": now() + wait}
    return _requeue(session, job, reason=why, message=retold, **values)


def give_back(session: Session, lease: Lease) -> Job:
    """Queue the job again because its worker shuts down; counts neither as lost nor as a failure. A job that was to be
    cancelled or paused is that instead.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    return _requeue(session, owned(session, lease))


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
    return _end(session, owned(session, lease), Status.CANCELLED, reason=Reason.CANCELLED_BY_USER, **offered)


def _offered(result: Mapping[str, Any] | None, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {} if result is None else {"result": dict(result), "files": [dict(file) for file in files]}


def paused(session: Session, lease: Lease) -> Job:
    """The trainer has stopped because pausing was asked for. Where that was taken back meanwhile the job is queued.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    return _requeue(session, owned(session, lease))


# The scheduler


def expire(session: Session, *, grace_seconds: float = 0.0, limit: int = 100) -> Sequence[str]:
    """Take jobs from workers whose lease ran out more than `grace_seconds` ago, and fail jobs that waited past their
    limits.max_queue_seconds; at most `limit` of each.

    A lost job is queued again, cancelled when that was asked for, or failed when it was lost MAX_LOST times before
    without a new checkpoint between. Returns the ids of the jobs that were moved.
    """
    moved = []
    silent = _take(session, select(Job).where(*_silent(grace_seconds)).order_by(Job.lease_until).limit(limit))
    lanes.enter(session, {lanes.of(job) for job in silent})
    for job in silent:
        metrics.after_commit(session, metrics.EXPIRIES.inc)
        told = f"Worker {job.worker} was lost during attempt {job.attempt}."
        moved.append(_lose(session, job, told, until=job.lease_until).id)
    for job in _take(session, select(Job).where(*_late()).limit(limit)):
        waited = job.spec["limits"]["max_queue_seconds"]
        late = f"No worker was free within limits.max_queue_seconds ({waited:g} s): raise it, or run more workers."
        told = _told(Reason.TIME_LIMIT, late)
        moved.append(_move(session, job, Status.FAILED, reason=Reason.TIME_LIMIT, message=told).id)
    return moved


def any_expired(session: Session, *, grace_seconds: float = 0.0) -> bool:
    """Whether `expire` would find something: a look that takes no lock."""
    found = sa.or_(*(select(Job.id).where(*which).exists() for which in (_silent(grace_seconds), _late())))
    return bool(session.scalar(select(found)))


def waiting(session: Session) -> Sequence[str]:
    """The queues that have jobs which may run now: those of tenants at their limit may not."""
    return session.scalars(select(Lane.queue).where(*lanes.can_run()).distinct().order_by(Lane.queue)).all()


def without_row(session: Session, job_ids: Sequence[str]) -> Sequence[str]:
    """Those of the ids that no job has."""
    there = known(session, job_ids)
    return [job_id for job_id in job_ids if job_id not in there]


def known(session: Session, job_ids: Sequence[str], *, tenant: str | None = None) -> Collection[str]:
    """Those of the ids that jobs have."""
    there: set[str] = set()
    for first in range(0, len(job_ids), 500):
        whose = () if tenant is None else (Job.tenant == tenant,)
        there.update(session.scalars(select(Job.id).where(Job.id.in_(job_ids[first : first + 500]), *whose)))
    return there


def running(session: Session, job_ids: Sequence[str]) -> frozenset[str]:
    """Those of the ids whose jobs run."""
    found: set[str] = set()
    for first in range(0, len(job_ids), 500):
        some = Job.id.in_(job_ids[first : first + 500])
        found.update(session.scalars(select(Job.id).where(some, Job.status == Status.RUNNING)))
    return frozenset(found)


def unshared(session: Session, job_ids: Sequence[str]) -> frozenset[str]:
    """Those of the ids whose jobs count on files that are in no object store: they are from before there was one."""
    found: set[str] = set()
    for first in range(0, len(job_ids), 500):
        some = job_ids[first : first + 500]
        recorded = [*session.execute(select(Job.id, Job.files).where(Job.id.in_(some)))]
        recorded += session.execute(select(Checkpoint.job_id, Checkpoint.files).where(Checkpoint.job_id.in_(some)))
        found.update(job_id for job_id, files in recorded if any("object" not in file for file in files or ()))
    return frozenset(found)


def files_of_resting(session: Session, *, within_seconds: float) -> Mapping[str, frozenset[str]]:
    """The names and objects of the files of jobs that ended, or came to wait, within the last so many seconds."""
    resting = select(Job).where(Job.status != Status.RUNNING, Job.attempt > 0, Job.updated_at > now() - within_seconds)
    kept: dict[str, frozenset[str]] = {}
    for job in session.scalars(resting):
        files = [*(job.files or ()), *(file for row in checkpoints(session, job.id) for file in row.files)]
        names = {str(file[key]) for file in files for key in ("name", "object") if key in file}
        kept[job.id] = frozenset(names if job.status in TERMINAL else {*names, NAME_OF_EPOCHS})
    return kept


def _lose(session: Session, job: Job, told: str, until: float | None = None) -> Job:
    if job.lost >= MAX_LOST and not job.cancel_requested:
        message = _told(Reason.WORKER_LOST, told)
        return _end(session, job, Status.FAILED, reason=Reason.WORKER_LOST, message=message, until=until)
    values = {"lost": job.lost + 1, "until": until}
    return _requeue(session, job, reason=Reason.WORKER_LOST, message=f"{told} The job goes on.", **values)


# Rows


def _silent(grace_seconds: float) -> tuple[ColumnElement[bool], ...]:
    return (Job.status == sa.literal_column("'running'"), Job.lease_until < now() - grace_seconds)


def _late() -> tuple[ColumnElement[bool], ...]:
    return (Job.status == sa.literal_column("'queued'"), Job.attempt == 0, Job.queue_deadline < now())


def _hold_dataset(session: Session, dataset_id: str) -> None:
    """Keep a data set from being deleted before this transaction ends (`datasets.delete` waits, and sees the job)."""
    query = select(Dataset.id).where(Dataset.id == dataset_id, Dataset.deleted_at.is_(None))
    if session.scalar(query.with_for_update(read=True, key_share=True)) is None:
        raise DatasetNotFound(f"There is no data set {dataset_id}: it was deleted.")


def _check_unregistered(session: Session, job: Job) -> None:
    """Refuse a job whose files are those of a version; this transaction holds it, so none becomes one meanwhile."""
    query = select(ModelVersion).where(ModelVersion.job_id == job.id).order_by(ModelVersion.name)
    rows = session.scalars(query).all()
    models = [f"{row.name}@{row.version}" for row in rows]
    if models:
        route = f"DELETE /v1/models/{rows[0].name}/versions/{rows[0].version}"
        first = f"the version first ({route})" if len(models) == 1 else "these first"
        raise JobRegistered(f"The job {job.id} is the model {' and '.join(models)}; delete {first}, then the job.")


def _named(job_id: str, tenant: str | None) -> tuple[ColumnElement[bool], ...]:
    return (Job.id == job_id,) if tenant is None else (Job.id == job_id, Job.tenant == tenant)


def _locked(session: Session, job_id: str, tenant: str | None) -> Job:
    query = select(Job).where(*_named(job_id, tenant)).with_for_update()
    job = session.scalar(query, execution_options={"populate_existing": True})
    if job is None:
        raise JobNotFound(f"There is no job {clean(job_id, 100)}.")
    return job


def _take(session: Session, query: sa.Select[Job]) -> Sequence[Job]:
    """The rows of a query that nobody else holds, locked."""
    locked = query.with_for_update(skip_locked=True)
    return session.scalars(locked, execution_options={"populate_existing": True}).all()


def _update(session: Session, job: Job, **values: Any) -> Job:
    """Write a row that this transaction holds."""
    statement = update(Job).where(Job.id == job.id, Job.status == job.status, Job.attempt == job.attempt)
    updated = returned(session, statement.values(revised(**values)))
    if updated is None:
        raise IllegalMove(f"The job {job.id} was changed by another transaction.")
    return updated


def _move(
    session: Session, job: Job, to: Status, *, reason: Reason | None = None, message: str | None = None, **values: Any
) -> Job:
    """Change the state of a row that this transaction holds; the database writes it down (`events.Type.STATUS`).

    Raises:
        IllegalMove: the move does not stand in ALLOWED.
    """
    before = Status(job.status)
    if to not in ALLOWED[before]:
        raise IllegalMove(f"A job that is {before} cannot become {to}.")
    told = message or (reason.sentence if reason else None)
    if to in TERMINAL:
        values["finished_at"] = now()
    if to == Status.QUEUED:
        values["turn"] = lanes.back(job)
    moved = _update(session, job, status=to, reason=reason, message=told, **values)
    if before == Status.QUEUED:
        lanes.close(session, lanes.of(moved))
    news.tell(session, moved)
    if to in TERMINAL:
        metrics.after_commit(session, metrics.RUNS.inc, queue=moved.queue, outcome=to, reason=reason or "")
    return moved


def _end(session: Session, job: Job, to: Status, *, until: float | None = None, **values: Any) -> Job:
    """End the attempt of a running job that this transaction holds; it ran `until` then, or now."""
    before = job.ran_seconds
    ran = Job.ran_seconds + ((now() if until is None else until) - Job.attempt_started_at)
    ended = _move(session, job, to, lease_until=None, ran_seconds=ran, pause_requested=False, **values)
    seconds, queue = ended.ran_seconds - before, ended.queue
    metrics.after_commit(session, metrics.RUN_SECONDS.observe, seconds, queue=queue, outcome=to)
    if to == Status.QUEUED:
        metrics.after_commit(session, metrics.RETRIES.inc, queue=queue, reason=values.get("reason") or "given_back")
    return ended


def _requeue(session: Session, job: Job, *, until: float | None = None, **values: Any) -> Job:
    """End an attempt that is not the last: the job waits for the next one, unless it was to be cancelled or paused."""
    if job.cancel_requested:
        return _end(session, job, Status.CANCELLED, reason=Reason.CANCELLED_BY_USER, until=until)
    if job.pause_requested:
        return _end(session, job, Status.PAUSED, until=until, **{"message": PAUSED, **values})
    return _end(session, job, Status.QUEUED, until=until, **values)


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


def _forget_after(session: Session, job: Job, epoch: int, step: int, best: Mapping[str, Any] | None) -> None:
    """Drop what was recorded beyond a place: it will be lived again. `best` is the best epoch up to there."""
    session.execute(sa.delete(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.step > step))
    _forget_steps(session, job.id, step + 1)
    session.execute(sa.delete(Epoch).where(Epoch.job_id == job.id, Epoch.epoch > epoch))
    job.best = None if best is None else dict(best)
    job.epoch = session.scalar(select(func.max(Epoch.epoch)).where(Epoch.job_id == job.id)) or 0
    session.flush()


def _forget_steps(session: Session, job_id: str, first_step: int) -> None:
    """Drop the numbers of all steps from `first_step` on."""
    session.execute(sa.delete(StepChunk).where(StepChunk.job_id == job_id, StepChunk.first_step >= first_step))
    reaching = select(StepChunk).where(StepChunk.job_id == job_id, StepChunk.last_step >= first_step)
    for chunk in session.scalars(reaching):
        keep = 4 * (first_step - chunk.first_step)  # bytes: float32
        chunk.last_step, chunk.loss, chunk.grad_norm = first_step - 1, chunk.loss[:keep], chunk.grad_norm[:keep]
    session.flush()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _told(reason: Reason, message: str | None) -> str:
    if not message:
        return reason.sentence
    cleaned = clean(message, events.MAX_MESSAGE)
    return cleaned if reason in SAYS_WHAT_TO_DO else f"{cleaned} {reason.sentence}"


# Last, because it hides the built-in name within this module.


def list(
    session: Session,
    *,
    status: str | None = None,
    queue: str | None = None,
    tag: tuple[str, str] | None = None,
    name: str | None = None,
    limit: int = 20,
    after: str | None = None,
    tenant: str | None = None,
) -> tuple[Sequence[Job], bool]:
    """Jobs older than the job `after`, newest first, and whether there are more. `tag` is a key and its value."""
    query = select(Job).order_by(Job.id.desc()).limit(limit + 1)
    for column, wanted in ((Job.tenant, tenant), (Job.status, status), (Job.queue, queue), (Job.name, name)):
        if wanted is not None:
            query = query.where(column == wanted)
    if after is not None:
        query = query.where(Job.id < after)
    if tag is not None:
        query = query.where(_tagged(session, *tag))
    rows = session.scalars(query).all()
    return rows[:limit], len(rows) > limit


def _tagged(session: Session, key: str, value: str) -> ColumnElement[bool]:
    if session.get_bind().dialect.name == "postgresql":
        return Job.tags.op("->>")(key) == value
    # A JSON path could not hold every key: '$."a\"b"' has no escapes in SQLite.
    each = func.json_each(Job.tags).table_valued("key", "value")
    return select(sa.literal(1)).select_from(each).where(each.c.key == key, each.c.value == value).exists()
