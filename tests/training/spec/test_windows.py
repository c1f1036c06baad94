"""The windows of a forecast are counted before the job as its preparation finds them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.preparing import prepare
from services.training.spec.effort import effort
from services.training.windows import Forecasting
from tests.properties import examples
from tests.training.building import forecast_spec, hourly, without_rows


def counted_and_found(arrays: Arrays, **changes: Any) -> tuple[dict[str, int], dict[str, int]]:
    """The windows of each part, those among them that are left out because of missing values."""
    spec = forecast_spec(arrays, **changes)
    prepared = prepare(arrays, spec)
    assert isinstance(prepared, Forecasting)
    found = {name: len(rows) + prepared.left_out[name] for name, rows in prepared.rows.items()}
    return dict(effort(spec, npz.summarise(arrays)).samples), found


def test_ninety_days_by_the_hour() -> None:
    defaults = {"name": "forecast", "lookback": None, "horizon": 24, "calendar": "auto"}
    counted, found = counted_and_found(hourly([2160]), task=defaults)
    assert counted == found == {"train": 1321, "validation": 301, "test": 301}


@examples(40)
@given(st.data())
def test_series_of_one_length_are_counted_exactly(data: st.DataObject) -> None:
    arrays = hourly([data.draw(st.integers(40, 90))] * data.draw(st.integers(1, 3)), timed=data.draw(st.booleans()))
    task = {
        "name": "forecast",
        "lookback": data.draw(st.integers(1, 9)),
        "horizon": data.draw(st.integers(1, 4)),
        "stride": data.draw(st.integers(1, 4)),
        "calendar": "none",
    }
    shares = st.sampled_from([0.15, 0.2, 0.25, 0.3])
    split = {"method": "time", "validation": data.draw(shares), "test": data.draw(shares)}
    counted, found = counted_and_found(arrays, task=task, data={"split": split})
    assert counted == found


def test_rows_that_are_added_are_counted() -> None:
    counted, found = counted_and_found(without_rows(hourly([200]), 50, 51, 52))
    assert counted == found


@pytest.mark.parametrize("method", ["group", "given"])
def test_whole_series_are_counted(method: str) -> None:
    arrays, split = hourly([60] * 6), {"method": "given", "validation": "given", "test": "given"}
    if method == "given":
        arrays = replace(arrays, split=np.array([0, 0, 0, 1, 2, 2], np.int8))
    shares = {"method": "group", "by": "place", "validation": 0.2, "test": 0.3}
    counted, found = counted_and_found(arrays, data={"split": split if method == "given" else shares})
    assert counted == found


def test_series_of_several_lengths_are_counted_about() -> None:
    counted, found = counted_and_found(hourly([100, 80, 120]))
    assert sum(counted.values()) == pytest.approx(sum(found.values()), rel=0.1)
