"""The task of a spec: whether it fits the data set, and what it leaves to the data set. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from services.errors import Problem
from services.training.files.summary import Columns, DatasetSummary, SeriesSummary
from services.training.spec.fields import Classification, Forecast, Regression, Spec, Tagging
from services.training.tasks import known

SHARES = {"validation": 0.15, "test": 0.15}
"""Of a forecast, where a spec has none."""
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
    """The fields of a document's `data` whose defaults are others for its task than those of `fields.py`."""
    task, data = document.get("task"), document.get("data")
    if (task.get("name") if isinstance(task, Mapping) else task) != "forecast" or not isinstance(data, Mapping):
        return {}
    split = data.get("split")
    is_given = isinstance(split, Mapping) and split.get("method") == "given"
    return {"data": {"scaling": "standard", "split": {"method": "time", **({} if is_given else SHARES)}}}


def forecast(spec: Spec) -> Forecast | None:
    """The task, if it is a forecast."""
    return spec.task if isinstance(spec.task, Forecast) else None


def window(task: Forecast) -> tuple[int, int]:
    """The look-back and the horizon of a resolved forecast."""
    assert task.lookback is not None, "resolved() fills it in"  # noqa: S101
    assert task.horizon is not None, "resolved() fills it in"  # noqa: S101
    return task.lookback, task.horizon


def problems(spec: Spec, summary: DatasetSummary) -> Iterator[Problem]:
    """Why the task does not fit the data set, if it does not."""
    task = spec.task
    if isinstance(task, Forecast):
        yield from _of_forecast(spec, task, summary)
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
    if series.irregular is not None:
        yield Problem(
            "/task",
            f"a forecast needs equal steps in time, and {series.irregular}: add the missing rows with empty values and "
            "set data.missing to forward, or remove the rows in between",
        )
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
    """The spec with what a forecast leaves to the data set filled in."""
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
    return task.model_copy(update={"horizon": horizon, "lookback": lookback, "season": list(season)})


def default_loss(spec: Spec, summary: DatasetSummary) -> str:
    """The name of the loss where a spec has none."""
    task = spec.task
    if isinstance(task, Forecast) and task.quantiles:
        return "pinball"
    if isinstance(task, Regression):
        return "mse"
    return known.named(summary.target).losses[summary.target][0]


def named(spec: Spec, summary: DatasetSummary) -> Classification | Regression | Tagging | Forecast:
    """The task of a spec that has its loss."""
    if (task := forecast(spec)) is not None:
        return task
    name = INSTEAD[known.chosen(summary.target, spec.training.loss).name]
    kinds: dict[str, type[Classification | Regression | Tagging]] = {
        "classification": Classification,
        "regression": Regression,
        "tagging": Tagging,
    }
    return kinds[name]()


def as_trained(spec: Spec, summary: DatasetSummary) -> DatasetSummary:
    """The data set as a job with this spec sees it: a forecast sees windows of series."""
    task, series = forecast(spec), summary.series
    if task is None or series is None:
        return summary
    lookback, horizon = window(_resolved(task, summary, series))
    windows = max(1, (series.steps - summary.samples * (lookback + horizon - 1)) // task.stride)
    return summary.model_copy(
        update={
            "samples": windows,
            "features": series.columns,
            "max_length": lookback,
            "min_length": lookback,
            "static": _beside(summary, horizon * len(series.known_future)),
            "target": known.SERIES,
            "classes": None,
            "class_counts": None,
            "target_dim": horizon * len(series.targets) * len(task.quantiles or (1,)),
            "given_split": None if spec.data.split.method == "time" else summary.given_split,
        }
    )


def _beside(summary: DatasetSummary, known_future: int) -> Columns | None:
    """What the head reads beside the steps: values of whole series, and numbers that are known ahead of time."""
    static = summary.static or Columns(numbers=0, categories=[], gaps=0)
    if not known_future:
        return summary.static
    return static.model_copy(update={"numbers": static.numbers + known_future})
