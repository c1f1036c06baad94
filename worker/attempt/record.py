"""Writes the events of a trainer to the database: many in one transaction, fenced by the attempt's lease."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

import sqlalchemy as sa
from loopline.files.counting import counted
from sqlalchemy.orm import Session

from services.jobs import attempts, events, progress
from services.jobs.events import Level, Line
from services.jobs.leases import Lease
from services.orm import Event as EventRow
from services.orm import Job
from services.searches.comparison import Answer, Comparison
from services.states import PERMANENT, Kind, Reason
from services.training.epochs import Epoch
from services.training.measures import DEFAULTS
from services.training.messages import (
    Best,
    CheckpointDeleted,
    CheckpointSaved,
    DeviceMemory,
    End,
    EpochEnded,
    Event,
    Failed,
    Finished,
    FoldProgress,
    FoldStarted,
    Log,
    Note,
    Ready,
    RolledBack,
    Started,
    Steps,
    Stopped,
    StopReason,
    as_dict,
)
from worker.gpu import advice

log = logging.getLogger(__name__)

MAX_EPOCH_LINES = 500
SHOWN = (
    *(f"{split}_{name}" for name in ("loss", *DEFAULTS) for split in ("train", "validation")),
    "lr",
    "grad_norm_mean",
    "seconds",
)
"""Of an epoch's numbers those that the log has."""

Trace = tuple[int, int]


@dataclass(frozen=True)
class Epochs:
    """Neighbouring epochs, ascending, that are written together."""

    records: list[Epoch]
    best: Best | None
    """With all of them."""


@dataclass(frozen=True)
class Record:
    """What is written in one transaction: events in their order, the log's lines, and the end if it has come."""

    job: Job
    """As it was claimed."""
    events: Sequence[Event]
    lines: Sequence[Line]
    end: End | None
    retry_seconds: float
    recorded: int = 0
    """Number of checkpoint events in this record and the records before it."""
    comparison: Comparison | None = None
    """Of a trial whose search stops trials early."""
    pruned_because: str | None = None
    """Why the search stopped the trial, if it did."""

    def write(self, session: Session) -> Answer | None:
        """Write it. If a trial has reached a rung: whether it goes on.

        Raises:
            LeaseLost: another attempt, or nobody, owns the job now.
        """
        lease = Lease.of(self.job)
        for event in merged(self.events):
            _apply(session, lease, event)
        if self.lines:
            events.log(session, lease, self.lines)
        answer = self._answer(session, lease)
        if self.end is not None:
            self._end(session, lease, self.end)
        return answer

    @property
    def rung(self) -> EpochEnded | None:
        """The last rung that a trial has reached with these events."""
        if self.comparison is None:
            return None
        reached = [each for each in self.events if isinstance(each, EpochEnded) and each.epoch in self.comparison.rungs]
        return reached[-1] if reached else None

    def _answer(self, session: Session, lease: Lease) -> Answer | None:
        if self.comparison is None or (reached := self.rung) is None:
            return None
        answer = self.comparison.answer(session, reached.record)
        if answer.goes_on:
            data = {"epoch": answer.epoch, "value": answer.value}
            events.note(session, lease, events.Type.RUNG, answer.message, data=data)
        return answer

    def _end(self, session: Session, lease: Lease, end: End) -> None:
        match end:
            case Finished(result, files):
                attempts.succeed(session, lease, result, [as_dict(file) for file in files])
                log.info("%s: attempt %d succeeded", lease.job_id, lease.attempt)
            case Stopped(reason, result, files):
                offered = {} if files is None else {"result": result, "files": [as_dict(file) for file in files]}
                self._stopped(session, lease, reason, offered)
            case Failed(advice.DEVICE_LOST, message):
                lost = f"The GPU of {self.job.worker} failed during attempt {lease.attempt} ({message})."
                log.warning("%s: %s", lease.job_id, lost)
                attempts.lose(session, lease, lost)
            case Failed(code, message):
                why = Reason(code) if code in set(Reason) else Reason.TRAINER_CRASHED
                self._failed(session, lease, why, message)

    def _failed(self, session: Session, lease: Lease, why: Reason, message: str) -> None:
        log.warning("%s: attempt %d failed (%s): %s", lease.job_id, lease.attempt, why, message)
        retry = why not in PERMANENT
        attempts.fail(session, lease, why, message, retry=retry, retry_seconds=self.retry_seconds)

    def _stopped(self, session: Session, lease: Lease, reason: StopReason, offered: Mapping[str, Any]) -> None:
        log.info("%s: attempt %d stopped (%s)", lease.job_id, lease.attempt, reason)
        if reason is StopReason.CANCEL:
            attempts.cancelled(session, lease, **offered)
        elif reason is StopReason.PRUNED:
            attempts.pruned(session, lease, self.pruned_because, **offered)
        elif reason is StopReason.PAUSE:
            attempts.paused(session, lease)
        elif reason is StopReason.TIME_LIMIT:
            ran = f"limits.max_runtime_seconds ({self.job.max_runtime_seconds:g} s)"
            less = "predict fewer sequences" if self.job.kind == Kind.PREDICT else "train fewer epochs"
            limit = f"The job ran for {ran}: raise it, or {less}."
            attempts.fail(session, lease, Reason.TIME_LIMIT, limit, retry=False, **offered)
        else:
            attempts.give_back(session, lease)


def _apply(session: Session, lease: Lease, event: Event | Epochs) -> None:
    match event:
        case Started(epochs, steps, best=best, fold=fold):
            info, sizes = event.info(), {"epochs": epochs, "steps_per_epoch": steps}
            progress.started(session, lease, **sizes, info=info, best=_document(best), fold=_document(fold))
        case FoldStarted(fold):
            progress.fold_started(session, lease, as_dict(fold))
        case Steps(first, loss, grad_norm, fold=number):
            progress.record_steps(session, lease, first, loss, grad_norm, number)
        case EpochEnded(record, best):
            progress.record_all(session, lease, [record], best=_document(best))
        case Epochs(records, best):
            progress.record_all(session, lease, records, best=_document(best))
        case CheckpointSaved(epoch, step, is_best, files, fold=number):
            written = [as_dict(file) for file in files]
            progress.checkpoint(session, lease, epoch=epoch, step=step, best=is_best, files=written, fold=number)
        case CheckpointDeleted(step):
            progress.drop_checkpoint(session, lease, step)
        case RolledBack(epoch, step, best, message, data):
            was = _document(best)
            progress.rolled_back(session, lease, epoch=epoch, step=step, message=message, data=data, best=was)
        case Note(type, level, message, data):
            events.note(session, lease, type, message, level=Level(level), data=data)
        case Log("warning" | "error" as level, message):
            events.note(session, lease, events.Type.WARNING, message, level=Level(level))
        case Log() | Ready() | DeviceMemory() | Finished() | Stopped() | Failed():
            pass
        case _:
            assert_never(event)


def _document(part: Best | FoldProgress | None) -> dict[str, Any] | None:
    return None if part is None else as_dict(part)


def merged(events: Sequence[Event]) -> list[Event | Epochs]:
    """The same events with neighbouring steps in one, and ascending epochs in one: of a run with short epochs there are
    hundreds in a transaction.

    Steps, epochs and all else keep their own order, and go round each other: nobody sees the transaction half done. An
    event that changes the place of the run stays where it is among all.
    """
    done: list[Event | Epochs] = []
    steps: list[Steps] = []
    epochs: list[list[EpochEnded]] = []
    for event in events:
        match event:
            case Steps():
                if steps and _follows(steps[-1], event):  # these lists are ours
                    steps[-1].loss.extend(event.loss)
                    steps[-1].grad_norm.extend(event.grad_norm)
                else:
                    steps.append(replace(event, loss=[*event.loss], grad_norm=[*event.grad_norm]))
            case EpochEnded():
                if epochs and epochs[-1][-1].epoch < event.epoch:
                    epochs[-1].append(event)
                else:
                    epochs.append([event])
            case Started() | FoldStarted() | RolledBack():
                done += [*steps, *map(_together, epochs), event]
                steps, epochs = [], []
            case _:
                done.append(event)
    return [*done, *steps, *map(_together, epochs)]


def _follows(before: Steps, event: Steps) -> bool:
    many = len(before.loss) + len(event.loss)
    follows = event.first_step == before.last_step + 1 and event.fold == before.fold
    return follows and many <= progress.CHUNK_STEPS


def _together(epochs: Sequence[EpochEnded]) -> Epochs:
    return Epochs([one.record for one in epochs], epochs[-1].best)


def log_lines(event: Event) -> list[Line]:
    """The lines that an event puts into the job's log and the worker's."""
    match event:
        case Log(level, message):
            return [Line(Level(level), message)]
        case Failed(traceback=str(traceback)):
            return [Line(Level.ERROR, line) for line in traceback.splitlines()]
    return []


def progress_lines(event: Event, epochs: int, folds: int | None = None) -> list[Line]:
    """The lines of a run's course in the job's log; the worker's has its own (`reporting.write_event`).

    Of a run of many epochs about MAX_EPOCH_LINES are written, evenly spaced, so that they crowd out nothing else.
    """
    every = math.ceil(epochs / MAX_EPOCH_LINES)
    match event:
        case Started(sequences=int(sequences), resumed_from=resumed, device=device, details=details):
            place = f", going on after {resumed.step:,}" if resumed else ""
            how = f"on {device} with {details.get('backend')}"
            return [Line(Level.INFO, f"Predicting {how}: {counted(sequences, 'sequence')}{place}.")]
        case Started(epochs, steps, resumed):
            place = f", going on after epoch {resumed.epoch} (step {resumed.step})" if resumed else ""
            many = f"{counted(epochs, 'epoch')} of {counted(steps, 'step')}"
            return [Line(Level.INFO, f"Training on {_machine(event)}: {many}{place}.")]
        case EpochEnded(numbers, epoch=epoch) if epoch == 1 or epoch % every == 0:
            metrics_text = ", ".join(
                f"{name} {value:.4g}" for name in SHOWN if (value := numbers.get(name)) is not None
            )
            return [Line(Level.INFO, f"{_place(event, epochs, folds)}: {metrics_text}")]
        case FoldStarted(fold):
            name = "the final model" if fold.number > fold.folds else f"fold {fold.number} of {fold.folds}"
            return [Line(Level.INFO, f"Training {name}: at most {counted(fold.epochs, 'epoch')}.")]
        case RolledBack(message=message):
            return [Line(Level.WARNING, message)]
        case Finished({"best_epoch": best, "epochs": trained}):
            return [Line(Level.INFO, f"Training ended after {counted(trained, 'epoch')}; the best was epoch {best}.")]
        case Finished({"sequences": sequences, "rows": rows}):
            return [Line(Level.INFO, f"Answered {counted(sequences, 'sequence')}, in {counted(rows, 'row')}.")]
        case Stopped(reason):
            return [Line(Level.INFO, f"The trainer stopped ({reason}).")]
    return []


def _machine(event: Started) -> str:
    """Where it trains, and what computes its layers: `cpu with compiled layers (AVX2), 1 thread`."""
    if event.device != "cpu":
        return event.device
    engine = str(event.details.get("engine", ""))
    layers = f" with {engine.replace('compiled', 'compiled layers').replace('torch', 'PyTorch')}" if engine else ""
    return f"cpu{layers}, {counted(event.threads, 'thread')}"


def _place(event: EpochEnded, epochs: int, folds: int | None) -> str:
    if event.fold:
        name = "final model" if folds is not None and event.fold > folds else f"fold {event.fold}"
        return f"{name}, epoch {event.record.get('fold_epoch')}"
    return f"epoch {event.epoch} of {epochs}"


def trace(session: Session, lease: Lease) -> Trace:
    """What only the writes of this attempt can change: the number of log lines, and its own newest event.

    When the answer to a commit was lost, this tells whether it took place. Writes that leave no such trace may be done
    twice without harm.
    """
    lines = session.scalar(sa.select(Job.log_lines).where(Job.id == lease.job_id))
    newest = sa.select(sa.func.max(EventRow.id)).where(
        EventRow.job_id == lease.job_id,
        EventRow.attempt == lease.attempt,
        EventRow.type.not_in([events.Type.STATUS, events.Type.REQUEST]),
    )
    return lines or 0, session.scalar(newest) or 0
