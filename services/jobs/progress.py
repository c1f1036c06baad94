"""What an attempt records while it trains (epochs, steps, checkpoints), and how it is read again.

Every write of a worker is fenced (`leases.py`): an attempt that was replaced gets LeaseLost and changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from services.db import Query, now, rowcount
from services.errors import CheckpointNotFound
from services.jobs import events, series
from services.jobs.leases import Lease, owned
from services.orm import Checkpoint, Epoch, Job, StepChunk
from services.states import Kind
from services.text import clean

CHUNK_STEPS = 2048
"""A chunk of steps grows to at most this many before the next one is begun."""


@dataclass(frozen=True)
class Steps:
    """Per-step numbers of a job, thinned out."""

    step: Sequence[int]
    loss: Sequence[float | None]
    grad_norm: Sequence[float | None]
    total: int
    """How many steps are recorded."""
    fold: Sequence[int] | None = None
    """Of each step, if the job has folds."""


def epochs(session: Session, job_id: str, after: int = 0, limit: int = 1000) -> Sequence[dict[str, Any]]:
    """The records of epochs after `after`, ascending, at most `limit`."""
    query = select(Epoch.record).where(Epoch.job_id == job_id, Epoch.epoch > after).order_by(Epoch.epoch).limit(limit)
    return session.scalars(query).all()


def steps(
    session: Session,
    job_id: str,
    points: int = 500,
    fold: int | None = None,
    *,
    first: int = 1,
    last: int | None = None,
) -> Steps:
    """Loss and gradient norm of the steps from `first` to `last`, at most `points` (2 or more) of them: the first, the
    last, and of each stretch between the least and the greatest of both. Of one fold, or of the whole job."""
    asked_for = {"job_id": job_id, "first": first, "last": last, "many": points * series.STEPS_PER_PEAK, "fold": fold}
    query = _chunks(from_begin=first <= 1, to_end=last is None, of_fold=fold is not None)
    chunks = query.rows(session.connection(), **asked_for)
    if not chunks:
        return Steps([], [], [], 0)
    parts = [series.part(chunk.first_step, chunk.loss, chunk.grad_norm, chunk.peaks) for chunk in chunks]
    step, loss, grad_norm = (np.concatenate(each) for each in zip(*parts, strict=True))
    end = chunks[-1].last_step if last is None else last
    asked = slice(*np.searchsorted(step, [first, end + 1]))
    total = sum(max(min(chunk.last_step, end) - max(chunk.first_step, first) + 1, 0) for chunk in chunks)
    if not total:  # between two folds
        return Steps([], [], [], 0)
    chosen = series.thin_all((loss[asked], grad_norm[asked]), max(points, 2))
    folds = None
    if any(chunk.fold for chunk in chunks):
        each = np.repeat([chunk.fold for chunk in chunks], [len(part[0]) for part in parts])
        folds = each[asked][chosen].tolist()
    numbers = series.plain(loss[asked][chosen]), series.plain(grad_norm[asked][chosen])
    return Steps(step[asked][chosen].tolist(), *numbers, total, folds)


@cache
def _chunks(*, from_begin: bool, to_end: bool, of_fold: bool) -> Query:
    """The chunks with the steps from `first` to `last` of a job. If these are `many` steps, a chunk that lies within
    comes with its peaks alone. So a run of a million steps costs little more than a short one."""
    job_id, fold = sa.bindparam("job_id", type_=sa.Text()), sa.bindparam("fold", type_=sa.Integer())
    first, last, many = (sa.bindparam(name, type_=sa.BigInteger()) for name in ("first", "last", "many"))
    of_job, places = StepChunk.job_id == job_id, (StepChunk.first_step, StepChunk.last_step, StepChunk.fold)
    newest = (
        select(StepChunk.last_step).where(of_job).order_by(StepChunk.first_step.desc()).limit(sa.literal_column("1"))
    )
    end: Any = newest.scalar_subquery()
    if not to_end:
        end = sa.case((end < last, end), else_=last)
    is_inside = (StepChunk.first_step >= first) & (StepChunk.last_step <= end)
    thinned = sa.and_(end - first >= many, is_inside, StepChunk.peaks.is_not(None))
    if of_fold:  # nobody knows yet how many steps are of this fold
        thinned = sa.false()
    numbers = [
        sa.case((sa.not_(thinned), column)).label(column.key) for column in (StepChunk.loss, StepChunk.grad_norm)
    ]
    query = select(*places, sa.case((thinned, StepChunk.peaks)).label("peaks"), *numbers)
    query = query.where(of_job, StepChunk.last_step >= first).order_by(StepChunk.first_step)
    if not from_begin:  # read none of the chunks before the one that has it
        earlier = select(func.max(StepChunk.first_step)).where(of_job, StepChunk.first_step <= first)
        query = query.where(StepChunk.first_step >= func.coalesce(earlier.scalar_subquery(), 0))
    if not to_end:
        query = query.where(StepChunk.first_step <= last)
    return Query(query.where(StepChunk.fold == fold) if of_fold else query, binary=True)


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


def started(
    session: Session,
    lease: Lease,
    *,
    epochs: int,
    steps_per_epoch: int,
    info: Mapping[str, Any],
    best: Mapping[str, Any] | None = None,
    fold: Mapping[str, Any] | None = None,
) -> Job:
    """The trainer has begun; `info` is what it said (device, threads, parameters, resumed_from). Which epoch is the
    best so far, here and below, is for the trainer to say. `fold` is the `FoldProgress` of a job with folds, whose
    epochs and steps, here and below, are numbered over all of them.

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
        steps=epochs * steps_per_epoch if fold is None else fold["total_steps"],
        step=resumed["step"],
        trainer={**info, "steps_per_epoch": steps_per_epoch},
        **({} if fold is None else {"fold": dict(fold)}),
    )
    has_dropped = _forget_after(session, job, resumed["epoch"], resumed["step"], best)
    if (there := info.get("checkpoints")) is not None:
        gone = (Checkpoint.job_id == job.id, Checkpoint.step.not_in(there))
        session.execute(sa.delete(Checkpoint).where(*gone))
    if resumed["step"] and job.kind == Kind.PREDICT:
        place = f"Attempt {job.attempt} goes on after {resumed['step']:,} sequences."
        events.add(session, job, events.Type.RESUMED, place, data={"sequences": resumed["step"]})
    elif resumed["step"]:
        place = f"Attempt {job.attempt} goes on from step {resumed['step']} ({_epoch(resumed['epoch'], fold)})."
        events.add(session, job, events.Type.RESUMED, place, data=resumed)
    elif has_dropped:
        again = f"Attempt {job.attempt} begins again at the first step: there is no checkpoint."
        events.add(session, job, events.Type.RESUMED, again, data=resumed)
    return job


def fold_started(session: Session, lease: Lease, fold: Mapping[str, Any]) -> Job:
    """The next fold has begun. No epoch of it has ended yet, so none is the best.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    job = owned(session, lease, fold=dict(fold), epochs=fold["total_epochs"], steps=fold["total_steps"], best=None)
    events.add(session, job, events.Type.FOLD, _began(fold), data={"fold": fold["number"], "folds": fold["folds"]})
    return job


def _began(fold: Mapping[str, Any]) -> str:
    if fold["number"] > fold["folds"]:
        return f"The training of the final model begins: {fold['epochs']} epochs on all samples outside the test."
    return f"Fold {fold['number']} of {fold['folds']} begins."


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
    place = {"epoch": epoch, "step": step}
    events.add(session, job, events.Type.ROLLED_BACK, message, events.Level.WARNING, {**(data or {}), **place})
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
    of_job = [{"job_id": job.id, "epoch": row["epoch"], "fold": row.get("fold") or 0, "record": row} for row in rows]
    session.execute(sa.insert(Epoch), of_job)
    job.best = None if best is None else dict(best)
    session.flush()
    return job


def record_steps(
    session: Session,
    lease: Lease,
    first_step: int,
    loss: Sequence[float | None],
    grad_norm: Sequence[float | None],
    fold: int = 0,
) -> Job:
    """Keep the numbers of neighbouring steps of one fold from `first_step` on (1 is the first of the job), in the place
    of all that was recorded from there on.

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
            StepChunk.fold == fold,
            StepChunk.last_step == first_step - 1,
            StepChunk.first_step > last_step - CHUNK_STEPS,
        )
    )
    if before is None:
        _keep_peaks(session, job.id, first_step)
        place = {"job_id": job.id, "first_step": first_step, "last_step": last_step, "fold": fold}
        session.execute(sa.insert(StepChunk).values(**place, loss=new[0], grad_norm=new[1]))
    else:
        before.last_step, before.loss, before.grad_norm = last_step, before.loss + new[0], before.grad_norm + new[1]
        before.peaks = None
        session.flush()
    return job


def _keep_peaks(session: Session, job_id: str, first_step: int) -> None:
    """The last chunk before this step grows no more: keep its peaks."""
    earlier = select(StepChunk).where(StepChunk.job_id == job_id, StepChunk.first_step < first_step)
    if (done := session.scalar(earlier.order_by(StepChunk.first_step.desc()).limit(1))) is not None:
        done.peaks = series.peaks(done.loss, done.grad_norm)
        session.flush()


def checkpoint(
    session: Session,
    lease: Lease,
    *,
    epoch: int,
    step: int,
    best: bool,
    files: Sequence[Mapping[str, Any]],
    fold: int = 0,
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
    row = {"job_id": job.id, "step": step, "epoch": epoch, "fold": fold, "best": best, "attempt": job.attempt}
    session.execute(sa.insert(Checkpoint).values(**row, files=[dict(file) for file in files], created_at=now()))
    if job.kind == Kind.PREDICT:  # a piece of the answers, of which there may be hundreds
        job.step = step
    else:
        _tell_checkpoint(session, job, epoch, step, best=best, files=files, fold=fold)
    if step > job.checkpoint_step:
        job.checkpoint_step, job.lost = step, 0
    session.flush()
    return job


def _tell_checkpoint(
    session: Session, job: Job, epoch: int, step: int, *, best: bool, files: Sequence[Mapping[str, Any]], fold: int
) -> None:
    size = sum(file["bytes"] for file in files)
    where = _epoch(epoch, {"number": fold} if fold else None)
    message = f"Checkpoint at step {step} ({where}), {size / 1e6:.1f} MB{', of the best epoch' if best else ''}."
    events.add(
        session, job, events.Type.CHECKPOINT, message, data={"step": step, "epoch": epoch, "best": best, "bytes": size}
    )


def drop_checkpoint(session: Session, lease: Lease, step: int) -> Job:
    """Forget a checkpoint whose files are gone, or are about to go.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    job = owned(session, lease)
    session.execute(sa.delete(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.step == step))
    return job


def _forget_after(session: Session, job: Job, epoch: int, step: int, best: Mapping[str, Any] | None) -> bool:
    """Drop what was recorded beyond a place: it will be lived again. `best` is the best epoch up to there. Returns
    whether a step or an epoch began beyond it."""
    session.execute(sa.delete(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.step > step))
    steps = _forget_steps(session, job.id, step + 1)
    epochs = rowcount(session.execute(sa.delete(Epoch).where(Epoch.job_id == job.id, Epoch.epoch > epoch)))
    job.best = None if best is None else dict(best)
    job.epoch = session.scalar(select(func.max(Epoch.epoch)).where(Epoch.job_id == job.id)) or 0
    session.flush()
    return steps + epochs > 0


def _forget_steps(session: Session, job_id: str, first_step: int) -> int:
    """Drop the numbers of all steps from `first_step` on; returns how many chunks are gone."""
    beyond = sa.delete(StepChunk).where(StepChunk.job_id == job_id, StepChunk.first_step >= first_step)
    gone = rowcount(session.execute(beyond))
    reaching = select(StepChunk).where(StepChunk.job_id == job_id, StepChunk.last_step >= first_step)
    for chunk in session.scalars(reaching):
        keep = 4 * (first_step - chunk.first_step)  # bytes: float32
        chunk.last_step, chunk.loss, chunk.grad_norm = first_step - 1, chunk.loss[:keep], chunk.grad_norm[:keep]
        chunk.peaks = None
    session.flush()
    return gone


def _epoch(epoch: int, fold: Mapping[str, Any] | None) -> str:
    return f"epoch {epoch}" if fold is None else f"epoch {epoch}, fold {fold['number']}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
