"""The task of a spec: whether it fits the data set, and what it leaves to the data set. Imports no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from loopline.files import calendar
from loopline.files.counting import counted
from loopline.files.gaps import of_rows

from services.errors import Problem
from services.training.files.summary import Columns, DatasetSummary, SeriesSummary, TextSummary
from services.training.spec.fields import Classification, Forecast, NextStep, Regression, Spec, Tagging
from services.training.tasks import known

SHARES = {"validation": 0.15, "test": 0.15}
"""Of a forecast, where a spec has none."""
TRAINING_OF_FORECASTS: Mapping[str, Any] = {
    "epochs": 30,
    "batch_size": 32,
    "optimizer": {"name": "adam", "lr": 3e-3},
    "lr_schedule": {"name": "cosine"},
    "early_stopping": {"patience": 8},
}
"""Of `training`, what a forecast has where a spec says nothing of it. docs/forecasting.md has the reasons."""
HIDDEN_OF_FORECASTS = {"hidden_size": 64}
ENOUGH_WINDOWS = 8_000
"""So many windows are enough: more of them overlap, and say the same again."""
SHARES_OF_TEXT = {"validation": 0.1, "test": 0.1}
TEXT = {"by": "characters", "lowercase": False}
"""How next_step reads texts, where a spec says nothing of it."""
BPTT_STEPS = 64
LEAST_VOCABULARY = 2
"""What is unknown, and an entry: the vocabulary itself is known when the text is read."""
TARGETS: Mapping[str, tuple[str, ...]] = {
    "classification": ("classes", "multilabel"),
    "regression": ("values", "classes", "multilabel"),
    "tagging": ("tags",),
}
"""By task, the targets of data sets that it can be trained on."""
INSTEAD = {"classes": "classification", "multilabel": "classification", "tags": "tagging", "values": "regression"}
"""By targets, the task that fits them."""
SPLITS_OF_SERIES = ("time", "group", "given")
LOOKBACKS = 3
"""So many horizons are read at least if nothing is said."""
MOST_OF_SERIES = 4
"""A look-back that nobody chose is at most the longest series divided by this."""


def defaults(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a document whose defaults are others for its task than those of `fields.py`."""
    task, data = document.get("task"), document.get("data")
    name = task.get("name") if isinstance(task, Mapping) else task
    if name not in ("forecast", "next_step") or not isinstance(data, Mapping):
        return {}
    split = data.get("split")
    is_given = isinstance(split, Mapping) and split.get("method") == "given"
    if name == "next_step":
        return {"data": {"text": TEXT, "split": {} if is_given else SHARES_OF_TEXT}}
    found = {"data": {"scaling": "standard", "split": {"method": "time", **({} if is_given else SHARES)}}}
    training = document.get("training")
    said = training if isinstance(training, Mapping) else {}
    left_out = {key: value for key, value in TRAINING_OF_FORECASTS.items() if key not in said}
    network = {"architecture": HIDDEN_OF_FORECASTS} if isinstance(document.get("architecture"), Mapping) else {}
    return {**found, "training": left_out, **network}


def forecast(spec: Spec) -> Forecast | None:
    """The task, if it is a forecast."""
    return spec.task if isinstance(spec.task, Forecast) else None


def window(task: Forecast) -> tuple[int, int]:
    """The look-back and the horizon of a resolved forecast."""
    assert task.lookback is not None, "resolved() fills it in"  # noqa: S101
    assert task.horizon is not None, "resolved() fills it in"  # noqa: S101
    return task.lookback, task.horizon


def calendar_of(task: Forecast) -> list[str]:
    """What a resolved forecast reads of the calendar, in order; nothing of `auto`."""
    return [] if isinstance(task.calendar, str) else calendar.in_order(task.calendar)


def problems(spec: Spec, summary: DatasetSummary) -> Iterator[Problem]:
    """Why the task does not fit the data set, if it does not."""
    task = spec.task
    if isinstance(task, Forecast):
        yield from _of_forecast(spec, task, summary)
    elif isinstance(task, NextStep):
        yield from _of_next_step(spec, task, summary)
    elif summary.target == known.TEXT:
        yield Problem(
            "/task",
            "this data set has texts without labels, so a model can only learn how they go on: set task to next_step, "
            "or upload the file with its labels (--target NAME, or a tab and the label in each line)",
        )
    elif known.named(summary.target).of_series and summary.series is not None and not summary.series.targets:
        yield Problem("/task", _no_target(summary))
    elif known.named(summary.target).of_series:
        yield Problem(
            "/task",
            "this data set is a series without a target for each sequence, so its next steps can be forecast: set task "
            "to {name: forecast, horizon: 24}, or upload the file with its target column (--target NAME)",
        )
    elif task is not None and summary.target not in TARGETS[task.name]:
        what = known.named(summary.target).words
        yield Problem(
            "/task",
            f"{task.name} needs {_wanted(task.name)}, and the targets of this data set are {what}: set task to "
            f"{INSTEAD[summary.target]}, or upload the file with another target column",
        )
    elif isinstance(task, Regression) and (why := known.named(summary.target).refusal("mse", summary)) is not None:
        yield Problem("/task", why.replace("mse needs", "regression needs").replace("cross_entropy", "classification"))
    elif isinstance(task, Classification) and _loss(spec) in ("mse", "mae", "huber"):
        yield Problem("/training/loss", f"{_loss(spec)} is for values: leave the loss out, or set task to regression")
    elif isinstance(task, Regression) and _loss(spec) in ("cross_entropy", "bce"):
        yield Problem(
            "/training/loss", f"{_loss(spec)} is for classes and labels: use mse, mae or huber, or leave it out"
        )
    if _loss(spec) == "pinball" and not (isinstance(task, Forecast) and task.quantiles):
        yield Problem(
            "/training/loss", "pinball is for the quantiles of a forecast: set task.quantiles, or leave the loss out"
        )


def _no_target(summary: DatasetSummary) -> str:
    """What to do about steps in an order if no column is named to be predicted."""
    out = "the data set names no target column: upload the file with --target NAME, or give data.schema.target with it"
    if summary.samples == 1:
        return (
            f"{out}. It is one series of {counted(summary.max_length, 'step')}, so name a column of numbers to "
            "forecast; if its rows belong to several sequences, also name the column that says to which (--group NAME)"
        )
    return (
        f"{out}. It has {counted(summary.samples, 'sequence')}, so name a column with a class or a value for each "
        "sequence, or a column of numbers to forecast"
    )


def _of_next_step(spec: Spec, task: NextStep, summary: DatasetSummary) -> Iterator[Problem]:
    if summary.texts is None:
        instead = f"set task to {INSTEAD[summary.target]}" if summary.target in INSTEAD else ""
        if summary.series is not None:
            instead = "set task to {name: forecast, horizon: 1} to predict the next values"
        yield Problem("/task", f"next_step is for texts, and this data set has numbers or words of a table: {instead}")
        return
    for name in ("class_weights", "label_smoothing"):
        if getattr(spec.training.loss, name, None):
            yield Problem(
                f"/training/loss/{name}",
                "would make the loss another number than that of the perplexity: leave it out",
            )
    if spec.retrain is not None:
        yield Problem(
            "/retrain",
            "the gate cannot compare language models, because another text has another vocabulary: leave it out, and "
            "give the model a version when the job has succeeded (`loopline models register`)",
        )
    split = spec.data.split
    if not _is_joined(task, summary):
        return
    if split.method not in ("random", "time"):
        yield Problem(
            "/data/split/method",
            f"{split.method} is for separate texts, and these are joined to one, which is divided by place: leave it "
            "out, or set task.joined to false",
        )
    for name in SHARES:
        if getattr(split, name) == "given":
            yield Problem(
                f"/data/split/{name}",
                "the data set marks whole texts, and these are joined to one: give a fraction such as 0.1, or set "
                "task.joined to false",
            )


def _is_joined(task: NextStep, summary: DatasetSummary) -> bool:
    if task.joined is not None:
        return task.joined
    has_more = summary.groups or summary.static is not None or summary.given_split is not None
    return summary.target == known.TEXT and not has_more


def _wanted(name: str) -> str:
    return {"classification": "classes or labels", "regression": "values", "tagging": "a class for each step"}[name]


def _loss(spec: Spec) -> str | None:
    return spec.training.loss.name if spec.training.loss else None


def _of_forecast(spec: Spec, task: Forecast, summary: DatasetSummary) -> Iterator[Problem]:
    series = summary.series
    if series is None:
        what = known.named(summary.target).words
        yield Problem(
            "/task",
            "a forecast needs a column of numbers with a value for each step, and the target of this data set is "
            f"{what}: upload the table again, and name the column of numbers (--target NAME) and the column of times "
            "(--order NAME)",
        )
        return
    if not series.targets:
        yield Problem(
            "/task",
            "the data set does not say which column of numbers to forecast: upload the file with --target NAME, or "
            "give data.schema.target with a file",
        )
        return
    if both := [name for name in series.targets if name in series.known_future]:
        yield Problem("/task", f"{both[0]} is to be forecast, so it cannot be known ahead of time (known_future)")
    if calendar_of(task) and (series.usual_step is None or not series.usual_step.is_time):
        yield Problem(
            "/task/calendar",
            f"reads the {' and the '.join(calendar_of(task))} of each step, and the steps of this data set have no "
            "dates or times: upload the file with the column that has them (--order NAME), or set task.calendar to "
            "none",
        )
    yield from _of_gaps(spec, series)
    yield from _of_quantiles(spec, task)
    yield from _of_preparation(spec, series)
    method = spec.data.split.method
    if method not in SPLITS_OF_SERIES:
        yield Problem(
            "/data/split/method",
            f"{method} puts windows that overlap into several parts, so the test has been seen in training: use time, "
            "or group to test on other series",
        )
    for name in SHARES:
        if method == "time" and getattr(spec.data.split, name) == "given":
            yield Problem(
                f"/data/split/{name}",
                "the data set marks whole series, and the method time divides each of them: give a fraction such as "
                "0.15, or set data.split.method to given",
            )
    lookback, horizon = window(_resolved(task, summary, series))
    if summary.max_length < lookback + horizon:
        yield Problem(
            "/task",
            f"a window of {lookback:,} + {horizon:,} steps (lookback and horizon) is longer than the longest series, "
            f"which has {summary.max_length:,}: lower task.lookback or task.horizon, or give longer series",
        )


def _of_gaps(spec: Spec, series: SeriesSummary) -> Iterator[Problem]:
    """Steps that are not equal, unless the rows that are missing are to be added."""
    if series.irregular is not None and (spec.data.missing == "refuse" or not series.absent):
        yield Problem(*of_rows(series.irregular, series.absent))


def _of_quantiles(spec: Spec, task: Forecast) -> Iterator[Problem]:
    if task.quantiles is None:
        return
    if task.quantiles != sorted(set(task.quantiles)):
        yield Problem("/task/quantiles", f"must rise, each one once; got {task.quantiles}")
    if 0.5 not in task.quantiles:
        yield Problem("/task/quantiles", "must have 0.5, the median: it is the forecast that metrics judge")
    if _loss(spec) not in (None, "pinball"):
        yield Problem(
            "/training/loss",
            f"{_loss(spec)} knows no quantiles: use pinball, or leave the loss or task.quantiles out",
        )


def _of_preparation(spec: Spec, series: SeriesSummary) -> Iterator[Problem]:
    data = spec.data
    for name, instead in (
        ("max_length", "task.lookback says how many steps are read"),
        ("stride", "task.stride says how far apart windows are"),
        ("patch", "a forecast reads single steps"),
    ):
        if getattr(data, name) not in (None, 1):
            yield Problem(f"/data/{name}", f"does not act on forecasts, because {instead}: leave it out")
    if data.missing == "linear":
        yield Problem(
            "/data/missing",
            "linear draws a line to a later value, which a forecast must not know: use forward, or drop to leave out "
            "the windows with missing values",
        )


def resolved(spec: Spec, summary: DatasetSummary) -> Spec:
    """The spec with what a forecast, or next_step, leaves to the data set filled in."""
    if isinstance(spec.task, NextStep) and summary.texts is not None:
        joined, split, training = _is_joined(spec.task, summary), spec.data.split, spec.training
        if joined:
            split = split.model_copy(update={"method": "time"})
        if training.bptt_steps is None:
            training = training.model_copy(update={"bptt_steps": BPTT_STEPS})
        data = spec.data.model_copy(update={"split": split})
        named = spec.task.model_copy(update={"joined": joined})
        return spec.model_copy(update={"task": named, "training": training, "data": data})
    if (task := forecast(spec)) is None or summary.series is None:
        return spec
    return spec.model_copy(update={"task": _resolved(task, summary, summary.series)})


def _resolved(task: Forecast, summary: DatasetSummary, series: SeriesSummary) -> Forecast:
    season = series.seasons if task.season is None else task.season
    horizon = task.horizon or min(season[0] if season else 1, max(1, summary.max_length // MOST_OF_SERIES))
    lookback = task.lookback
    if lookback is None:
        wanted = max([LOOKBACKS * horizon, *season])
        lookback = max(1, min(wanted, max(horizon, summary.max_length // MOST_OF_SERIES)))
    stride = task.stride or _stride(series.steps - summary.samples * (lookback + horizon - 1), horizon, season)
    window = {"horizon": horizon, "lookback": lookback, "stride": stride}
    names = calendar_of(task)
    if task.calendar == "auto":
        names = calendar.suggested(series.usual_step, summary.max_length, series.known_future, stride)
    return task.model_copy(update={**window, "season": list(season), "calendar": names or "none"})


def _stride(windows: int, horizon: int, season: Sequence[int]) -> int:
    """The steps between two of so many windows: at most the horizon, so each step is predicted. It has no factor in
    common with a season, except 1."""
    least = min(horizon, max(1, math.ceil(windows / ENOUGH_WINDOWS)))
    downward = range(least - 1, 0, -1)
    return _without_factors(itertools.chain(range(least, horizon + 1), downward), season)


def widest_stride(task: Forecast) -> int:
    """The most steps between two windows of a resolved forecast with which each step is still predicted, and windows
    start at every place of a season."""
    return _without_factors(range(window(task)[1], 0, -1), task.season or ())


def _without_factors(strides: Iterable[int], season: Sequence[int]) -> int:
    """The first of these that has no factor in common with a season."""
    return next(each for each in strides if all(math.gcd(each, steps) == 1 for steps in season))


def default_loss(spec: Spec, summary: DatasetSummary) -> str:
    """The name of the loss where a spec has none."""
    task = spec.task
    if isinstance(task, Forecast) and task.quantiles:
        return "pinball"
    if isinstance(task, Regression):
        return "mse"
    return known.named(summary.target).losses[summary.target][0]


def named(spec: Spec, summary: DatasetSummary) -> Classification | Regression | Tagging | Forecast | NextStep:
    """The task of a spec that has its loss."""
    if isinstance(spec.task, Forecast | NextStep):
        return spec.task
    name = INSTEAD[known.chosen(summary.target, spec.training.loss).name]
    kinds: dict[str, type[Classification | Regression | Tagging]] = {
        "classification": Classification,
        "regression": Regression,
        "tagging": Tagging,
    }
    return kinds[name]()


def as_trained(spec: Spec, summary: DatasetSummary) -> DatasetSummary:
    """The data set as a job with this spec sees it: a forecast sees windows of series, and next_step texts alone."""
    if isinstance(spec.task, NextStep) and summary.texts is not None:
        return _texts_alone(resolved(spec, summary), summary, summary.texts)
    task, series = forecast(spec), summary.series
    if task is None or series is None:
        return summary
    task = _resolved(task, summary, series)
    lookback, horizon = window(task)
    windows = max(1, (series.steps - summary.samples * (lookback + horizon - 1)) // (task.stride or 1))
    added = len(calendar.columns(calendar_of(task)))
    inputs = summary.inputs
    if inputs is not None:
        inputs = inputs.model_copy(update={"numbers": inputs.numbers + added})
    return summary.model_copy(
        update={
            "samples": windows,
            "features": series.columns + added,
            "inputs": inputs,
            "max_length": lookback,
            "min_length": lookback,
            "static": _beside(summary, horizon * (len(series.known_future) + added)),
            "target": known.SERIES,
            "classes": None,
            "class_counts": None,
            "target_dim": horizon * len(series.targets) * len(task.quantiles or (1,)),
            "given_split": None if spec.data.split.method == "time" else summary.given_split,
        }
    )


def _texts_alone(spec: Spec, summary: DatasetSummary, texts: TextSummary) -> DatasetSummary:
    alone = {"target": known.TEXT, "classes": None, "class_counts": None, "target_dim": LEAST_VOCABULARY}
    alone |= {"static": None, "inputs": None}
    if not (isinstance(spec.task, NextStep) and spec.task.joined):
        return summary.model_copy(update=alone)
    characters, words = (count + summary.samples for count in (texts.characters, texts.words))  # with line breaks
    joined = texts.model_copy(
        update={"characters": characters, "words": words, "longest_in_words": words, "shortest_in_words": words}
    )
    windows = -(
        -(words if spec.data.text and spec.data.text.by == "words" else characters) // (spec.training.bptt_steps or 1)
    )
    lengths = {"max_length": characters, "min_length": characters, "samples": windows}
    return summary.model_copy(update={**alone, **lengths, "texts": joined, "given_split": None, "groups": []})


def _beside(summary: DatasetSummary, known_future: int) -> Columns | None:
    """What the head reads beside the steps: values of whole series, and numbers that are known ahead of time."""
    static = summary.static or Columns(numbers=0, categories=[], gaps=0)
    if not known_future:
        return summary.static
    return static.model_copy(update={"numbers": static.numbers + known_future})
