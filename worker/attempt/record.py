"""Writes down what a trainer said: many events in one transaction, fenced by the attempt's lease."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.jobs import attempts, events, progress
from services.jobs.events import Level, Line
from services.jobs.leases import Lease
from services.orm import Event as EventRow
from services.orm import Job
from services.states import PERMANENT, Reason
from services.training.measures import DEFAULTS
from worker.gpu import advice

log = logging.getLogger(__name__)

ENDS = frozenset({"finished", "stopped", "failed"})
PLACES = frozenset({"started", "rolled_back"})
"""Change the place from which the run is told."""

MAX_EPOCH_LINES = 500
SHOWN = (
    *(f"{split}_{name}" for name in ("loss", *DEFAULTS) for split in ("train", "validation")),
    "lr",
    "grad_norm_mean",
    "seconds",
)
"""Of an epoch's numbers those that the log has."""

Event = dict[str, Any]
Trace = tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """What is written in one transaction: events in their order, the log's lines, and the end if it has come."""

    job: Job
    """As it was claimed."""
    events: Sequence[Event]
    lines: Sequence[Line]
    end: Event | None
    retry_seconds: float
    heard: int = 0
    """How many events about checkpoints the attempt has told of with this batch and those before it."""

    def write(self, session: Session) -> None:
        """Raises LeaseLost when the job is another's to write."""
        lease = Lease.of(self.job)
        for event in merged(self.events):
            _apply(session, lease, event)
        if self.lines:
            events.log(session, lease, self.lines)
        if self.end is not None:
            self._end(session, lease, self.end)

    def _end(self, session: Session, lease: Lease, end: Event) -> None:
        match end:
            case {"event": "finished", "result": result, "files": files}:
                attempts.succeed(session, lease, result, files)
                log.info("%s: attempt %d succeeded", lease.job_id, lease.attempt)
            case {"event": "stopped", "reason": reason}:
                offered = {"result": end["result"], "files": end["files"]} if "files" in end else {}
                self._stopped(session, lease, reason, offered)
            case {"event": "failed", "reason": advice.DEVICE_LOST, "message": message}:
                told = f"The GPU of {self.job.worker} failed during attempt {lease.attempt} ({message})."
                log.warning("%s: %s", lease.job_id, told)
                attempts.lose(session, lease, told)
            case {"event": "failed", "reason": reason, "message": message}:
                why = Reason(reason) if reason in set(Reason) else Reason.TRAINER_CRASHED
                self._failed(session, lease, why, message)
            case _:
                told = f"The trainer sent a last event that is not whole: {end!r:.200}."
                self._failed(session, lease, Reason.TRAINER_CRASHED, told)

    def _failed(self, session: Session, lease: Lease, why: Reason, message: str) -> None:
        log.warning("%s: attempt %d failed (%s): %s", lease.job_id, lease.attempt, why, message)
        retry = why not in PERMANENT
        attempts.fail(session, lease, why, message, retry=retry, retry_seconds=self.retry_seconds)

    def _stopped(self, session: Session, lease: Lease, reason: str, offered: Mapping[str, Any]) -> None:
        log.info("%s: attempt %d stopped (%s)", lease.job_id, lease.attempt, reason)
        if reason == "cancel":
            attempts.cancelled(session, lease, **offered)
        elif reason == "pause":
            attempts.paused(session, lease)
        elif reason == "time_limit":
            ran = f"limits.max_runtime_seconds ({self.job.max_runtime_seconds:g} s)"
            limit = f"The job ran for {ran}: raise it, or train fewer epochs."
            attempts.fail(session, lease, Reason.TIME_LIMIT, limit, retry=False, **offered)
        else:
            attempts.give_back(session, lease)


def _apply(session: Session, lease: Lease, event: Mapping[str, Any]) -> None:
    match event:
        case {"event": "started", "epochs": epochs, "steps_per_epoch": steps, **info}:
            best = info.pop("best", None)
            progress.started(session, lease, epochs=epochs, steps_per_epoch=steps, info=info, best=best)
        case {"event": "steps", "first_step": first, "loss": loss, "grad_norm": grad_norm}:
            progress.record_steps(session, lease, first, loss, grad_norm)
        case {"event": "epochs", "records": records}:
            progress.record_all(session, lease, records, best=event.get("best"))
        case {"event": "checkpoint", "epoch": epoch, "step": step, "best": best, "files": files}:
            progress.checkpoint(session, lease, epoch=epoch, step=step, best=best, files=files)
        case {"event": "checkpoint_deleted", "step": step}:
            progress.drop_checkpoint(session, lease, step)
        case {"event": "rolled_back", "epoch": epoch, "step": step, "message": message}:
            best, data = event.get("best"), event.get("data")
            progress.rolled_back(session, lease, epoch=epoch, step=step, message=message, data=data, best=best)
        case {"event": "note", "type": type, "message": message}:
            level = event.get("level", Level.INFO)
            events.note(session, lease, type, message, level=level, data=event.get("data"))
        case {"event": "log", "message": message, "level": Level.WARNING | Level.ERROR as level}:
            events.note(session, lease, events.Type.WARNING, message, level=level)
        case {"event": "log" | "ready" | "device"}:
            pass
        case _:
            log.warning("%s: the trainer sent an event of an unknown kind: %.200r", lease.job_id, event)


def merged(events: Sequence[Event]) -> list[Event]:
    """The same events with neighbouring steps in one, and ascending epochs in one: of a run with short epochs there are
    hundreds in a transaction.

    Steps, epochs and all else keep their own order, and go round each other: nobody sees the transaction half done. An
    event that changes the place of the run stays where it is among all.
    """
    done: list[Event] = []
    steps: list[Event] = []
    epochs: list[Event] = []
    for event in events:
        kind = event["event"]
        if kind == "steps":
            before = steps[-1] if steps else None
            if before is not None and _follows(before, event):
                before["loss"] += event["loss"]
                before["grad_norm"] += event["grad_norm"]
            else:
                steps.append({**event, "loss": [*event["loss"]], "grad_norm": [*event["grad_norm"]]})
        elif kind == "epoch":
            if epochs and epochs[-1]["records"][-1]["epoch"] < event["record"]["epoch"]:
                epochs[-1]["records"].append(event["record"])
                epochs[-1]["best"] = event.get("best")
            else:
                epochs.append({"event": "epochs", "records": [event["record"]], "best": event.get("best")})
        elif kind in PLACES:
            done += [*steps, *epochs, event]
            steps, epochs = [], []
        else:
            done.append(event)
    return [*done, *steps, *epochs]


def _follows(before: Event, event: Event) -> bool:
    many = len(before["loss"])
    return bool(
        event["first_step"] == before["first_step"] + many and many + len(event["loss"]) <= progress.CHUNK_STEPS
    )


def log_lines(event: Mapping[str, Any]) -> list[Line]:
    """The lines that an event puts into the job's log and the worker's."""
    match event:
        case {"event": "log", "message": message}:
            level = event.get("level")
            return [Line(level if level in set(Level) else Level.INFO, str(message))]
        case {"event": "failed", "traceback": str(traceback)}:
            return [Line(Level.ERROR, line) for line in traceback.splitlines()]
    return []


def progress_lines(event: Mapping[str, Any], epochs: int) -> list[Line]:
    """The lines of a run's course in the job's log; the worker's has its own (`voice.tell`).

    Of a run of many epochs about MAX_EPOCH_LINES are told, evenly spaced, so that they crowd out nothing else.
    """
    every = math.ceil(epochs / MAX_EPOCH_LINES)
    match event:
        case {"event": "started", "device": device, "epochs": epochs, "steps_per_epoch": steps}:
            resumed = event.get("resumed_from")
            place = f", going on after epoch {resumed['epoch']} (step {resumed['step']})" if resumed else ""
            return [Line(Level.INFO, f"Training on {device}: {epochs} epochs of {steps} steps{place}.")]
        case {"event": "epoch", "record": {"epoch": int(epoch), **numbers}} if epoch == 1 or epoch % every == 0:
            told = ", ".join(f"{name} {_number(numbers[name])}" for name in SHOWN if name in numbers)
            return [Line(Level.INFO, f"epoch {epoch} of {epochs}: {told}")]
        case {"event": "rolled_back", "message": message}:
            return [Line(Level.WARNING, str(message))]
        case {"event": "finished", "result": {"best_epoch": best, "epochs": trained}}:
            return [Line(Level.INFO, f"Training ended after {trained} epochs; the best was epoch {best}.")]
        case {"event": "stopped", "reason": reason}:
            return [Line(Level.INFO, f"Training stopped ({reason}).")]
    return []


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "undefined"


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
