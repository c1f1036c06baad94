"""What an epoch of a job comes to, counted before anything is trained. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from services.training.files.summary import DatasetSummary
from services.training.spec import tasks, windows
from services.training.spec.fields import Forecast, NextStep, Spec
from services.training.spec.footprint import Footprint, footprint
from services.training.spec.widths import widths

EVALUATION_BATCH = 256
"""Evaluation takes at least so many samples at a time (`loop.py`)."""


@dataclass(frozen=True)
class Pace:
    """Seconds that parts of the work took on a machine that we measured (`benchmarks/estimates.py`). Only their
    proportions matter: an estimate is scaled by what earlier jobs took."""

    update: float
    """The optimizer, and what else an update takes however small it is."""
    step: float
    """A time step of a layer in one direction, forward and backward, however small it is."""
    number: float
    """Each parameter at each time step of a sample: a multiplication and an addition, forward and backward."""
    weight: float
    """Each parameter in an update."""


PACES = {
    "cpu": Pace(update=1.0e-3, step=5e-5, number=1.2e-10, weight=2e-8),
    "cuda": Pace(update=1.5e-3, step=20e-6, number=5e-13, weight=1e-11),
}
FORWARD_ONLY = 1 / 3
"""Of the work of a sample in training, what it takes in evaluation."""
MANY_WINDOWS = 1000


@dataclass(frozen=True)
class Effort:
    """An epoch of a job in numbers. Where a split is by time, content or many groups, its parts are about as large."""

    samples: Mapping[str, int]
    """How many each part has: `train`, `validation` and `test`. Of a forecast they are windows."""
    steps_per_epoch: int
    """Updates of the weights."""
    epochs: int
    """Of all folds and the final model together, at most."""
    length: float
    """Time steps that are read of a sample, about the mean."""
    longest: int
    """Time steps that are read of the longest sample."""
    need: Footprint

    layers: int
    """Recurrent layers, those of both directions counted."""
    batch_size: int
    accumulation_steps: int

    def seconds(self, pace: Pace) -> float:
        """What an epoch would take at this pace."""
        train, validation = self.samples["train"], self.samples.get("validation", 0)
        batches = self.steps_per_epoch * self.accumulation_steps
        evaluated = math.ceil(validation / max(self.batch_size, EVALUATION_BATCH))
        launched = self.length * self.layers * pace.step
        computed = self.length * self.need.parameters * pace.number
        return (
            self.steps_per_epoch * (pace.update + self.need.parameters * pace.weight)
            + batches * launched
            + train * computed
            + FORWARD_ONLY * (evaluated * launched + validation * computed)
        )


def effort(spec: Spec, summary: DatasetSummary) -> Effort:
    """What an epoch of this job comes to. `spec` was checked against the data set (`check_data`)."""
    need, trained = footprint(spec, summary), tasks.as_trained(spec, summary)
    t, folds = spec.training, spec.data.split.folds
    read = widths(spec.data, trained)
    length = (read.longest + read.shortest) / 2
    samples = windows.counts(spec, summary)
    batches = math.ceil(samples["train"] / t.batch_size)
    if t.bptt_steps is not None and not is_joined(spec):
        batches *= math.ceil(length / t.bptt_steps)
    if is_joined(spec):
        length = t.bptt_steps or 1  # a sample is a window of the one text
    return Effort(
        samples=samples,
        steps_per_epoch=math.ceil(batches / t.accumulation_steps),
        epochs=t.epochs * (1 if folds is None else folds + 1),
        length=length,
        longest=read.longest,
        need=need,
        layers=spec.architecture.num_layers * (2 if spec.architecture.bidirectional else 1),
        batch_size=t.batch_size,
        accumulation_steps=t.accumulation_steps,
    )


def is_joined(spec: Spec) -> bool:
    """Whether all texts are one, which is read window by window."""
    return isinstance(spec.task, NextStep) and bool(spec.task.joined)


def cheaper(spec: Spec, samples: Mapping[str, int]) -> str | None:
    """How a forecast that takes a window at every step would cost less, if its windows are many."""
    task = spec.task
    if not isinstance(task, Forecast) or task.stride != 1 or samples["train"] < MANY_WINDOWS:
        return None
    if (stride := tasks.widest_stride(task)) == 1:
        return None
    return (
        f"An epoch trains on about {samples['train']:,} windows, and each begins one step after the one before: "
        f"`task.stride: {stride}` takes a window every {stride} steps, so an epoch takes {stride} times less."
    )
