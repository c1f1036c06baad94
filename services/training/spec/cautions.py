"""What is allowed in a spec and rarely meant: sentences for a dry run. Imports no torch.

`rules.py` has what is refused, and `files/suspicions.py` what may be wrong with the data itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from loopline.files import calendar

from services.training.files.summary import DatasetSummary
from services.training.spec import tasks
from services.training.spec.effort import Effort
from services.training.spec.fields import Forecast, Spec
from services.training.spec.footprint import NUMBER
from services.training.tasks import known

USUAL_RATES = {"adam": (1e-5, 3e-2), "adamw": (1e-5, 3e-2), "rmsprop": (1e-5, 5e-2), "sgd": (1e-4, 2.0)}
"""By optimizer, the learning rates between which nearly all published recurrent networks were trained."""
FAR_BACK = 400
"""Steps that gradients seldom reach further than, even in an LSTM."""
FEW_OF_CLASS = 5
MOST_NAMED = 5
WITHOUT_VALIDATION = (
    "training.early_stopping watches the training split, because there is no validation split, so it cannot notice "
    "that the model learns by heart. Set data.split.validation to a share such as 0.2."
)


def of_spec(spec: Spec) -> Iterator[str]:
    """What the spec alone shows."""
    optimizer = spec.training.optimizer
    low, high = USUAL_RATES[optimizer.name]
    if not low <= optimizer.lr <= high:
        side = "high" if optimizer.lr > high else "low"
        yield (
            f"training.optimizer.lr is {optimizer.lr:g}, which is {side} for {optimizer.name}: usual are {low:g} to "
            f"{high:g}."
        )
    if spec.training.early_stopping is not None and spec.data.split.validation == 0.0:
        yield WITHOUT_VALIDATION


def of_data(spec: Spec, summary: DatasetSummary, counted: Effort) -> Iterator[str]:
    """What the spec shows beside its data set. `spec` was checked against it (`check_data`)."""
    t, split, trained = spec.training, spec.data.split, tasks.as_trained(spec, summary)
    train = counted.samples["train"]
    if t.early_stopping is not None and split.validation != 0.0 and not counted.samples["validation"]:
        yield WITHOUT_VALIDATION
    yield from _too_long(spec, counted)
    yield from _hours_left_out(spec, summary)
    yield from _rare_classes(trained)
    if trained.texts is None:
        yield from _too_many_parameters(trained, counted)
    if t.batch_size * t.accumulation_steps >= train > 1 and t.bptt_steps is None:
        yield (
            f"An epoch is a single update, because a batch holds all {train:,} training samples: lower "
            "training.batch_size if the model learns too slowly."
        )
    warmup, updates = getattr(t.lr_schedule, "warmup_steps", 0), counted.steps_per_epoch * t.epochs
    if warmup >= updates:
        yield (
            f"The learning rate never reaches its full value: training.lr_schedule.warmup_steps is {warmup:,}, and the "
            f"run has {updates:,} steps."
        )


def _too_long(spec: Spec, counted: Effort) -> Iterator[str]:
    if spec.training.bptt_steps is not None or counted.longest <= FAR_BACK:
        return
    way_out = "put several steps into one with data.patch, or read fewer with data.stride or data.max_length"
    if isinstance(spec.task, Forecast):
        way_out = "lower task.lookback"
    elif spec.architecture.pooling == "none":
        way_out = "train in windows with training.bptt_steps"
    yield (
        f"The network reads sequences of up to {counted.longest:,} steps, and gradients seldom reach further back than "
        f"some {FAR_BACK} steps: {way_out}."
    )


def _hours_left_out(spec: Spec, summary: DatasetSummary) -> Iterator[str]:
    task, series = spec.task, summary.series
    if not isinstance(task, Forecast) or series is None:
        return
    left_out = [name for name in tasks.calendar_of(task) if calendar.skips(series.usual_step, name, task.stride or 1)]
    if left_out:
        yield (
            f"Windows that are {task.stride:,} steps apart (task.stride) begin at a few hours or days only, and those "
            f"of the test may begin at others, of which the model learns nothing (task.calendar has "
            f"{' and '.join(left_out)}): leave task.stride out, or set task.calendar to none."
        )


def _rare_classes(trained: DatasetSummary) -> Iterator[str]:
    if trained.class_counts is None or known.named(trained.target).by_step:
        return
    pairs = zip(trained.classes or (), trained.class_counts, strict=True)
    rare = [f"{name} ({count})" for name, count in pairs if count < FEW_OF_CLASS]
    if rare:
        more = f" and {len(rare) - MOST_NAMED:,} more" if len(rare) > MOST_NAMED else ""
        yield (
            f"Some classes have fewer than {FEW_OF_CLASS} samples: {', '.join(rare[:MOST_NAMED])}{more}. A model can "
            "hardly learn them, and their scores are chance: give more samples, or join classes."
        )


def _too_many_parameters(trained: DatasetSummary, counted: Effort) -> Iterator[str]:
    values = round(trained.bytes / NUMBER * counted.samples["train"] / max(1, trained.samples))
    if counted.need.parameters > values:
        yield (
            f"The network has {counted.need.parameters:,} parameters, and the training samples have about {values:,} "
            "values: it may learn them by heart. Watch the validation loss, or lower architecture.hidden_size."
        )
