"""The naive forecasts, which a forecast has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.training import rivals
from services.training.loop import Run
from services.training.measures import SPLITS
from services.training.tasks.forecast import Forecast
from services.training.windows import Forecasting, Windows

COMPARED_BY = ("mase", "mae")
"""The first one that is defined says whether a baseline is beaten: a constant series has no mase."""


def naive(part: Windows, season: int) -> Tensor:
    """The values of a season before as a forecast, scaled: (windows, horizon * targets). Of season 1 it is the last
    value. A missing value is the one before it; where a season before there is nothing yet, it is the last value."""
    values = part.y.cpu().numpy().reshape(-1, part.longest, part.y.shape[1])
    steps = np.arange(part.longest)[:, None]
    there = np.maximum.accumulate(np.where(np.isnan(values), 0, steps), axis=1)
    filled = np.nan_to_num(np.take_along_axis(values, there, axis=1)).reshape(-1, part.y.shape[1])
    ahead = np.arange(part.horizon) % season - season
    back = np.where(part.first[:, None] % part.longest + ahead >= 0, ahead, -1)
    found = filled[part.first[:, None] + back]  # (windows, horizon, targets)
    return torch.from_numpy(found.reshape(len(part), -1))


def baseline(run: Run, metrics: Mapping[str, float | None]) -> dict[str, Any]:
    """As `baseline.of`: the better one of the naive forecasts. `others` has the metrics of all of them."""
    data, task = _of(run)
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    judged = [split for split in SPLITS if f"{split}_loss" in metrics]
    found = {
        season: {
            f"{split}_{name}": value
            for split in reversed(judged)
            for name, value in _metrics(task, parts[split], season).items()
        }
        for season in (1, *data.seasons)
    }
    name = next((each for each in COMPARED_BY if metrics.get(f"{judged[0]}_{each}") is not None), COMPARED_BY[-1])
    metric = f"{judged[0]}_{name}"
    plain = {words(season): each for season, each in found.items()}
    return rivals.compared(metrics, plain, metric, {each: f"always answering with {each}" for each in plain})


def words(season: int) -> str:
    """The naive forecast in words."""
    return "the last value" if season == 1 else f"the value {season:,} steps before"


def _of(run: Run) -> tuple[Forecasting, Forecast]:
    assert isinstance(run.data, Forecasting)  # noqa: S101
    assert isinstance(run.data.task, Forecast)  # noqa: S101
    return run.data, run.data.task


def _metrics(task: Forecast, part: Any, season: int) -> dict[str, float | None]:
    return task.metrics_of_kept(naive(part, season), part.targets(torch.arange(len(part))).cpu(), 0)
