"""What the calendar gains for a forecast of hourly demand: the test `mase` with and without it, and of naive forecasts.

The demand is made here: a profile of working days and one of weekends, a season of the year, and noise from hour to
hour. Its times are in UTC. Everything that is not said below is a default of forecasts. docs/forecasting.md has the
table. Four trainings take three minutes of one core.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

START = datetime(2023, 1, 2, tzinfo=UTC)  # a Monday
DAYS = (365, 60)
DAY, WEEK = "the value 24 steps before", "the value 168 steps before"
NOISE = 4.0
"""The standard deviation of the noise, in the unit of the demand, whose mean is about 75."""


def demand(days: int) -> list[tuple[str, str]]:
    """The time and the demand of each hour of so many days."""
    hours = np.arange(24 * days)
    hour, day = hours % 24, hours // 24
    working = 60 + 25 * np.exp(-(((hour - 8) / 2.5) ** 2)) + 30 * np.exp(-(((hour - 19) / 3) ** 2))
    weekend = 55 + 15 * np.exp(-(((hour - 14) / 5) ** 2))
    year = 1 + 0.15 * np.cos(2 * np.pi * hours / (24 * 365.25))
    noise = NOISE * np.random.default_rng(0).standard_normal(len(hours))
    loads = np.where(day % 7 < 5, working, weekend) * year + noise
    times = [START + timedelta(hours=each) for each in hours.tolist()]
    return [(time.isoformat(), f"{load:.2f}") for time, load in zip(times, loads.tolist(), strict=True)]


def scores(days: int, clock: str, folder: Path) -> dict[str, float]:
    """The test `mase` of a model of so many days with this `task.calendar`, and that of each naive forecast."""
    import torch
    from loopline.files import formats, store
    from loopline.files.build import build
    from loopline.files.inference import infer
    from loopline.files.schema import Schema

    from services.training import run
    from services.training.messages import Finished, Order
    from services.training.spec import parse

    torch.set_num_threads(1)
    folder.mkdir()
    path, data = folder / "demand.csv", folder / "data"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("time", "load"), *demand(days)])
    table = formats.read(path, folder)
    store.write(data, build(table, infer(table, Schema(order="time", target=("load",))).schema))
    spec = {
        "task": {"name": "forecast", "horizon": 24, "lookback": 168, "calendar": clock},
        "architecture": {"cell": "gru"},
        "data": {"dataset": "demand"},
    }
    *_, end = run.events(Order(parse(spec).document(), str(data), str(folder), device="cpu"))
    assert isinstance(end, Finished), end
    plain = end.result["baseline"]
    naive = {plain["answer"]: plain["metrics"], **plain["others"]}
    return {"model": end.result["metrics"]["test_mase"], **{words: each["test_mase"] for words, each in naive.items()}}


def rows() -> Iterator[dict[str, Any]]:
    for days in DAYS:
        with tempfile.TemporaryDirectory(prefix="loopline-bench-") as folder:
            found, without = (scores(days, clock, Path(folder) / clock) for clock in ("auto", "none"))
        others = {"the model with `calendar: none`": without["model"], WEEK: found[WEEK], DAY: found[DAY]}
        for words, other in others.items():
            yield {
                "what": f"hourly demand of {days} days: test mase of the model with its calendar, beside {words}",
                "ours": f"{found['model']:.2f}",
                "other": f"{other:.2f}",
                "ratio": other / found["model"],
                "at_least": 1.0 if days == max(DAYS) else None,
            }
