"""How many windows of its series each part of a forecast gets, counted before anything is prepared. Imports no torch.

`services/training/windows.py` finds the windows themselves.
"""

from __future__ import annotations

from services.training.files.summary import DatasetSummary
from services.training.spec import tasks
from services.training.spec.fields import Forecast, Spec
from services.training.spec.rules import counts_of_split


def counts(spec: Spec, summary: DatasetSummary) -> dict[str, int]:
    """The windows of each part, or the samples if the spec is of another task. `spec` was checked against the data set.

    Exact for a single series, and for series of one length with the same times, if no window is left out because of
    missing values. Other series count as if each had the mean length.
    """
    trained, series = tasks.as_trained(spec, summary), summary.series
    if not isinstance(spec.task, Forecast) or series is None:
        return {"validation": 0, "test": 0, **counts_of_split(spec, trained)}
    rows = series.steps + (0 if spec.data.missing == "refuse" else series.absent)
    length = rows // summary.samples
    if spec.data.split.method != "time":
        each = _between(spec.task, 0, length)
        of_series = counts_of_split(spec, trained.model_copy(update={"samples": summary.samples}))
        found = {"validation": 0, "test": 0, **{name: count * each for name, count in of_series.items()}}
    else:
        first, second = _borders(spec, rows, summary.samples, timed=series.step is not None)
        periods = {"train": (0, first), "validation": (first, second), "test": (second, length)}
        found = {name: summary.samples * _between(spec.task, *period) for name, period in periods.items()}
    return {**found, "train": max(1, found["train"])}


def _borders(spec: Spec, rows: int, series: int, *, timed: bool) -> tuple[int, int]:
    """The first step of validation and of the test in a series of the mean length. With times the borders are drawn
    through the rows of all series together, else through each series."""
    if not timed:
        rows, series = rows // series, 1
    validation, test = (
        share if isinstance(share, float) else fallback
        for share, fallback in ((spec.data.split.validation, 0.2), (spec.data.split.test, 0.0))
    )
    second = rows - round(test * rows)
    return (second - round(validation * rows)) // series, second // series


def _between(task: Forecast, begin: int, end: int) -> int:
    """The windows of a series that predict steps from `begin` up to `end`: no horizon crosses a border."""
    lookback, horizon = tasks.window(task)
    return len(range(max(lookback, begin), end - horizon + 1, task.stride or 1))
