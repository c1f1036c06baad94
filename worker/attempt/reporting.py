"""Writes the trainer's events into the worker's log, by the logger `trainer`, with the ids of job, attempt and request.

The trainer itself writes no log: it does not know the request, and its supervisor receives every event anyway.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from services import metrics
from services.jobs.events import MAX_LINE, Level, Line
from services.text import clean
from services.training.messages import (
    CheckpointSaved,
    DeviceMemory,
    EpochEnded,
    Event,
    Failed,
    Finished,
    Note,
    RolledBack,
    Started,
    Steps,
    Stopped,
)
from worker.attempt.output import MAX_LINES

LEVELS: dict[str, int] = {
    Level.OUTPUT: logging.INFO,
    Level.INFO: logging.INFO,
    Level.WARNING: logging.WARNING,
    Level.ERROR: logging.ERROR,
}

log = logging.getLogger("trainer")


def write_lines(lines: Sequence[Line]) -> None:
    """Lines that the job's log gets, in the worker's too: the newest MAX_LINES of a batch, and how many came before."""
    if len(lines) > MAX_LINES:
        log.info("… %d lines of the job's log are omitted", len(lines) - MAX_LINES)
    for line in lines[-MAX_LINES:]:
        log.log(LEVELS.get(line.level, logging.INFO), "%s", clean(line.text, MAX_LINE))


def write_event(event: Event) -> None:
    """A line for an event that begins or ends a run; epochs and checkpoints, of which there may be many, at debug."""
    match event:
        case Started(sequences=int(sequences), device=device):
            log.info("predicting begins on %s: %d sequences", device, sequences)
        case Started(epochs, steps, device=device):
            place = event.resumed_from.step if event.resumed_from else 0
            log.info("training begins on %s at step %s: %s epochs of %s steps", device, place, epochs, steps)
        case EpochEnded(record):
            log.debug("epoch %s: train_loss %s", event.epoch, record.get("train_loss"))
        case CheckpointSaved(step=step):
            log.debug("checkpoint at step %s", step)
        case Note(level=level, message=message):
            log.log(LEVELS[level], "%s", message)
        case RolledBack(message=message):
            log.warning("%s", message)
        case Finished({"best_epoch": best, "epochs": epochs}):
            log.info("training ended after %s epochs; the best was %s", epochs, best)
        case Finished({"sequences": sequences}):
            log.info("all %s sequences are answered", sequences)
        case Stopped(reason):
            log.info("training stopped: %s", reason)
        case Failed(reason, message):
            log.error("training failed: %s: %s", reason, message)


class Gauges:
    """What the gauges of this worker process show of the run that it trains: docs/metrics.md."""

    def __init__(self) -> None:
        self._device: str | None = None
        self._shown: list[tuple[metrics.Gauge, dict[str, str]]] = []

    def update(self, event: Event) -> None:
        """Show the numbers of an event."""
        match event:
            case Started(device=device):
                self._device = device
            case Steps(loss=losses):
                self._show(metrics.LOSS, losses[-1], kind="step")
            case EpochEnded(numbers):
                self._show(metrics.EPOCH, event.epoch)
                self._show(metrics.LOSS, numbers.get("train_loss"), kind="train")
                self._show(metrics.LOSS, numbers.get("validation_loss"), kind="validation")
                self._show(metrics.SAMPLES_PER_SECOND, numbers.get("samples_per_second"))
            case DeviceMemory(memory):
                for kind in ("allocated", "reserved", "peak"):
                    self._show(metrics.GPU_MEMORY, memory.get(kind), kind=kind)

    def reset(self) -> None:
        """The run is over: its numbers are no longer shown."""
        for gauge, kind in self._shown:
            self._show(gauge, float("nan") if gauge in (metrics.LOSS, metrics.EPOCH) else 0.0, **kind)

    def _show(self, gauge: metrics.Gauge, value: Any, **kind: str) -> None:
        if self._device is not None and isinstance(value, int | float):
            gauge.set(value, device=self._device, **kind)
            if (gauge, kind) not in self._shown:
                self._shown.append((gauge, kind))
