"""Gathers what a card says of a run: what is known of it, and a few answers of its model beside what is true.

The answers cost little however large a part is: they are to rows that are spread evenly over it, and to at most
MOST_STEPS time steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.training.card.facts import Examples, Facts, Forecasted, Values
from services.training.loop import Run, answers_to
from services.training.parts import Part
from services.training.tasks.forecast import Forecast
from services.training.windows import Windows

MOST_SAMPLES = 300
MOST_STEPS = 30_000
MOST_TARGETS = 4
WINDOWS = 4
SEASONS = 2
"""Before a forecast at least so many times its horizon are shown."""
LEAST_PAST, MOST_PAST = 24, 200


def facts_of(run: Run, model: Mapping[str, Any], *, has_onnx: bool) -> Facts:
    """What a card says of a run with this model.json. The run must have its best weights, unless the model is
    incomplete: then nobody asks it anything."""
    data = run.data
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    return Facts(
        model=model,
        epochs=run.state.history,
        parameters=sum(each.numel() for each in run.parameters),
        samples={name: len(part) for name, part in parts.items() if part is not None},
        made_at=datetime.now(UTC),
        has_onnx=has_onnx,
        examples=examples_of(run) if model.get("complete", True) else None,
    )


def examples_of(run: Run) -> Examples | None:
    """Of the test split, or else of validation; None of other tasks than forecast and regression, and without either
    split. The run must have its best weights."""
    splits = (("test", run.data.test), ("validation", run.data.validation))
    split, part = next(((name, part) for name, part in splits if part is not None), ("", None))
    if isinstance(part, Windows):
        return Examples(split, forecasts=_forecasts(run, part))
    if part is not None and run.data.task.scales_targets:
        return Examples(split, values=_values(run, part))
    return None


def _values(run: Run, part: Part) -> Values:
    rows = _spread(len(part), max(1, min(MOST_SAMPLES, MOST_STEPS // int(part.steps.max()))))
    outputs, targets = answers_to(run, part, rows), part.targets(torch.from_numpy(part.places(rows))).cpu()
    predicted, actual = run.data.task.in_unit(outputs, targets, run.data.target_scaling)
    names = run.data.target_names or ("the target",)
    names = tuple(names) if len(names) == run.data.output_size else tuple(map(str, range(run.data.output_size)))
    few = slice(MOST_TARGETS)
    return Values(names[few], actual.double()[:, few].tolist(), predicted.double()[:, few].tolist())


def _forecasts(run: Run, part: Windows) -> tuple[Forecasted, ...]:
    task = run.data.task
    assert isinstance(task, Forecast)  # noqa: S101
    rows = _spread(len(part), WINDOWS)
    outputs, targets = task.in_unit(
        task.ordered(answers_to(run, part, rows)), part.targets(torch.from_numpy(rows)).cpu()
    )
    return tuple(
        _forecasted(run, part, task, int(row), *pair) for row, *pair in zip(rows, outputs, targets, strict=True)
    )


def _forecasted(run: Run, part: Windows, task: Forecast, row: int, output: Any, target: Any) -> Forecasted:
    quantiles = output.view(task.horizon, task.width, -1)[:, 0]  # (horizon, quantiles) of the first target
    median = task.quantiles.index(0.5) if task.quantiles else 0
    moment = None if part.when is None else part.when[row]
    return Forecasted(
        target=str(run.data.target_names[0]),
        when=str(moment.astype("datetime64[s]")).replace("T", " ") if isinstance(moment, np.datetime64) else None,
        past=_past(part, task, int(part.first[row])),
        actual=target[:-1].view(task.horizon, task.width)[:, 0].tolist(),
        predicted=quantiles[:, median].tolist(),
        low=quantiles[:, 0].tolist() if len(task.quantiles) > 1 else None,
        high=quantiles[:, -1].tolist() if len(task.quantiles) > 1 else None,
    )


def _past(part: Windows, task: Forecast, first: int) -> list[float]:
    """The values before a forecast: no more than the network reads, and as many as a picture has room for."""
    assert task.units is not None  # noqa: S101
    steps = min(part.lookback, MOST_PAST, max(LEAST_PAST, SEASONS * task.horizon))
    series = first // part.longest
    scaled = part.y[first - steps : first, 0].double().cpu().numpy()
    return [float(value) for value in scaled * task.units.scale[series, 0] + task.units.shift[series, 0]]


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """At most so many of the numbers up to `count`, each from the middle of an equal share."""
    chosen = min(count, most)
    return (2 * np.arange(chosen, dtype=np.int64) + 1) * count // (2 * chosen)
