"""Windows of series: what a forecast reads and predicts, and that no window knows what comes later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loopline.files.schema import Schema
from loopline.files.sequences import Column
from numpy.typing import NDArray

from services.errors import DatasetInvalid
from services.training import windows
from services.training.data import batches_of, in_order
from services.training.files.npz import Arrays
from services.training.loop import Run
from services.training.preparing import prepare
from services.training.windows import PARTS, Forecasting, Windows
from tests.properties import examples
from tests.training.building import forecast_spec, hourly, same, trained, weights_of, without_rows

CPU = torch.device("cpu")


def parts_of(prepared: Forecasting) -> dict[str, Windows]:
    found = {name: getattr(prepared, name) for name in PARTS}
    return {name: part for name, part in found.items() if part is not None}


def prepared(arrays: Arrays, **changes: Any) -> Forecasting:
    found = prepare(arrays, forecast_spec(arrays, **changes))
    assert isinstance(found, Forecasting)
    return found


def gathered(part: Windows) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """x, targets and what the head reads beside, of all windows in order."""
    batches = list(batches_of(part, in_order(len(part), 5), CPU))
    beside = [batch.static for batch in batches if batch.static is not None]
    return (
        torch.cat([batch.x for batch in batches]).numpy(),
        torch.cat([batch.y for batch in batches]).numpy(),
        torch.cat(beside).numpy() if beside else np.empty(0),
    )


@st.composite
def many(draw: st.DrawFn) -> tuple[Arrays, dict[str, Any]]:
    """Series of several lengths, and a spec that fits them."""
    lookback, horizon = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(20, 40), min_size=1, max_size=3))
    arrays = hourly(lengths, timed=draw(st.booleans()), gaps=draw(st.booleans()), seed=draw(st.integers(0, 99)))
    changes = {
        "task": {"name": "forecast", "lookback": lookback, "horizon": horizon, "stride": draw(st.integers(1, 3))},
        "data": {
            "scaling": draw(st.sampled_from(["none", "standard", "minmax", "robust"])),
            "missing": draw(st.sampled_from(["forward", "drop", "mean"])),
            "split": {"method": "time", "validation": 0.25, "test": 0.25},
        },
    }
    if changes["data"]["scaling"] != "none" and draw(st.booleans()):
        changes["data"]["scaling_over"] = "per_sequence"
    return arrays, changes


@examples(30)
@given(many())
def test_no_window_crosses_a_border_between_parts_or_series(case: tuple[Arrays, dict[str, Any]]) -> None:
    arrays, changes = case
    try:
        found = prepared(arrays, **changes)
    except DatasetInvalid:  # gaps may leave a part without windows
        return
    periods = windows.periods_of(arrays, forecast_spec(arrays, **changes).data.split)
    latest = -1
    for name, part in parts_of(found).items():
        row, first = part.first // part.longest, part.first % part.longest
        last = first + part.horizon - 1
        assert (first - part.lookback >= 0).all()
        assert (first >= periods[name].begin[row]).all()
        assert (last < periods[name].end[row]).all()
        if arrays.times is not None:  # the same borders in all series
            assert arrays.times[row, first].min() > latest
            latest = max(latest, int(arrays.times[row, last].max()))


@examples(20)
@given(many())
def test_padding_never_changes_a_window(case: tuple[Arrays, dict[str, Any]]) -> None:
    arrays, changes = case
    behind = np.arange(arrays.x.shape[1]) >= arrays.lengths[:, None]
    spoiled = replace(arrays, x=np.where(behind[:, :, None], np.float32(1e9), arrays.x))
    longer = replace(
        arrays,
        x=np.pad(spoiled.x, ((0, 0), (0, 7), (0, 0)), constant_values=-3.0),
        y=np.empty((len(arrays), arrays.x.shape[1] + 7, 0), np.float32),
        times=None if arrays.times is None else np.pad(arrays.times, ((0, 0), (0, 7))),
    )
    try:
        expected = prepared(arrays, **changes)
    except DatasetInvalid:
        return
    for other in (spoiled, longer):
        found = prepared(other, **changes)
        assert found.target_scaling == expected.target_scaling
        for name, part in parts_of(expected).items():
            for one, two in zip(gathered(part), gathered(getattr(found, name)), strict=True):
                assert np.array_equal(one, two)


def test_a_window_is_the_steps_before_and_the_steps_after() -> None:
    arrays = hourly([30, 30], known=("wind",))
    found = prepared(
        arrays, task={"name": "forecast", "lookback": 4, "horizon": 3, "stride": 2}, data={"scaling": "none"}
    )
    assert (found.input_size, found.output_size, found.static_size) == (3, 3, 3)
    part = found.train
    assert isinstance(part, Windows)
    x, y, beside = gathered(part)
    shift, scale = found.target_scaling.shift, found.target_scaling.scale
    assert shift is not None
    assert scale is not None
    assert part.first.tolist() == [*range(4, 19, 2), *(30 + first for first in range(4, 19, 2))]
    for place, first in enumerate(part.first.tolist()):
        row, step = divmod(first, 30)
        assert np.array_equal(x[place], arrays.x[row, step - 4 : step])
        assert np.array_equal(beside[place], arrays.x[row, step : step + 3, 2])
        assert y[place, :3] == pytest.approx((arrays.x[row, step : step + 3, 0] - shift[0]) / scale[0], rel=1e-5)
        assert y[place, 3] == row


def test_steps_are_in_memory_once_and_windows_share_them() -> None:
    task = {"name": "forecast", "lookback": 100, "horizon": 5, "calendar": "none"}
    found = prepared(hourly([400]), task=task)
    parts = list(parts_of(found).values())
    assert len(parts) == 3
    assert all(part.x.data_ptr() == parts[0].x.data_ptr() for part in parts)
    assert parts[0].x.shape == (400, 3)


def test_values_of_whole_series_and_weights_go_with_each_window() -> None:
    arrays = replace(
        hourly([30, 30]),
        static=np.array([[10.0], [20.0]]),
        static_columns=(Column("height"),),
        weights=np.array([1.0, 3.0]),
    )
    found = prepared(arrays, data={"scaling": "none"})
    assert isinstance(found.train, Windows)
    _, y, beside = gathered(found.train)
    assert beside[:, 0].tolist() == [10.0 if series == 0 else 20.0 for series in y[:, -1]]
    assert found.train.weights is not None
    assert sorted(set(found.train.weights.tolist())) == [0.5, 1.5]


@pytest.mark.parametrize("over", ["train", "per_sequence"])
def test_what_only_the_test_period_has_changes_nothing_that_is_trained(over: str) -> None:
    arrays = hourly([60, 50], known=("wind",))
    changes: dict[str, Any] = {"data": {"scaling_over": over, "missing_mask": True, "missing": "forward"}}
    split = forecast_spec(arrays, **changes).data.split
    border = windows.periods_of(arrays, split)["test"].begin
    inside = np.arange(arrays.x.shape[1]) >= border[:, None]
    planted = replace(arrays, x=np.where(inside[:, :, None], np.float32(1e4), arrays.x))
    planted.x[[0, 1], border + 1] = np.nan
    runs = []
    for each in (arrays, planted):
        spec = forecast_spec(each, **changes)
        run = Run(spec, prepare(each, spec))
        records = trained(run)
        runs.append((weights_of(run), [record["validation_loss"] for record in records], run.data.card()))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]


def test_each_series_can_have_a_scale_of_its_own() -> None:
    arrays = hourly([40, 40])
    arrays.x[1] *= 1000.0
    found = prepared(arrays, data={"scaling_over": "per_sequence", "split": {"validation": 0.25, "test": 0.25}})
    assert isinstance(found.train, Windows)
    steps = found.train.x.view(2, 40, 3)[:, :20]
    assert torch.allclose(steps.mean(dim=1), torch.zeros(2, 3), atol=1e-5)
    assert torch.allclose(steps.std(dim=1, correction=0), torch.ones(2, 3), atol=1e-5)
    targets = found.train.y.view(2, 40)[:, :20]
    assert torch.allclose(targets.mean(dim=1), torch.zeros(2), atol=1e-5)
    fitted = found.forecast["fit"]["outputs"]
    assert fitted["ids"] == ["a", "b"]
    assert fitted["shift"][1][0] == pytest.approx(arrays.x[1, :20, 0].mean(), rel=1e-6)


def test_a_split_by_group_tests_on_other_series() -> None:
    found = prepared(hourly([20] * 8), data={"split": {"method": "group", "validation": 0.25, "test": 0.25}})
    series = [set((part.first // part.longest).tolist()) for part in parts_of(found).values()]
    assert [len(each) for each in series] == [4, 2, 2]
    assert not set.intersection(*series)


def test_windows_with_gaps_are_left_out_and_counted() -> None:
    arrays = hourly([40])
    arrays.x[0, 10, 1] = np.nan  # a feature: matters to look-backs
    arrays.x[0, 15, 0] = np.nan  # the target: matters to look-backs and horizons
    task = {"name": "forecast", "lookback": 3, "horizon": 2}
    split = {"method": "time", "validation": 0.25, "test": 0.25}
    dropped = prepared(arrays, task=task, data={"missing": "drop", "split": split})
    assert isinstance(dropped.train, Windows)
    assert dropped.train.first.tolist() == [3, 4, 5, 6, 7, 8, 9, 10]
    assert dropped.left_out == {"train": 8, "validation": 0, "test": 0}
    filled = prepared(arrays, task=task, data={"missing": "forward", "split": split})
    assert isinstance(filled.train, Windows)
    assert set(range(3, 19)) - set(filled.train.first.tolist()) == {14, 15}


@pytest.mark.parametrize("missing", ["forward", "mean", "drop"])
def test_a_series_without_rows_is_as_one_whose_rows_are_empty(missing: str) -> None:
    empty = hourly([60, 60], known=("wind",))
    gap = [12, 13, 30, 51]
    empty.x[:, gap] = np.nan
    changes: dict[str, Any] = {
        "task": {"name": "forecast", "lookback": 3, "horizon": 2},
        "data": {"missing": missing, "missing_mask": missing != "drop"},
    }
    expected, found = (prepared(each, **changes) for each in (empty, without_rows(empty, *gap)))
    assert found.left_out == expected.left_out
    assert found.left_out["train"] > 0
    assert found.left_out["test"] > 0
    for name, part in parts_of(expected).items():
        other = getattr(found, name)
        assert np.array_equal(other.when, part.when)
        for one, two in zip(gathered(part), gathered(other), strict=True):
            assert not np.isnan(one).any()
            assert np.array_equal(one, two)
            ahead = part.first[:, None] % 60 + np.arange(2)
            assert not np.isin(ahead, gap).any()


def test_missing_months_and_numbers_are_added_where_they_lack() -> None:
    months = np.arange("2020-01", "2022-01", dtype="datetime64[M]").astype("datetime64[ns]").astype(np.int64)
    numbers = np.arange(24) * 0.1
    for times in (months, numbers):
        whole = replace(hourly([24]), times=times[None], ends=times[-1:])
        found = windows.on_grid(without_rows(whole, 3, 4, 17))
        assert found.times is not None
        assert np.allclose(found.times, times, rtol=1e-12)
        assert np.flatnonzero(np.isnan(found.x[0]).all(axis=1)).tolist() == [3, 4, 17]
        assert found.lengths.tolist() == [24]


def test_missing_values_are_refused_unless_something_is_said_of_them() -> None:
    arrays = hourly([40])
    arrays.x[0, 10, 1] = np.nan
    spec = forecast_spec(hourly([40]), data={"missing": "refuse"})
    with pytest.raises(DatasetInvalid, match=r"values of heat are missing: set data\.missing to forward"):
        prepare(arrays, spec)


def test_a_period_without_room_for_a_window_is_refused() -> None:
    arrays = hourly([40])
    spec = forecast_spec(arrays, task={"name": "forecast", "lookback": 4, "horizon": 6}, data={"split": {"test": 0.1}})
    with pytest.raises(DatasetInvalid, match="the test period has no room for a window"):
        prepare(arrays, spec)


def test_whole_numbers_at_each_step_can_be_forecast() -> None:
    arrays = hourly([40])
    counts = (np.arange(40) % 5)[None, :, None]
    schema = Schema(order="hour", target=("count",))
    found = prepared(replace(arrays, y=counts, schema=schema, targets=("count",)))
    assert found.forecast["targets"] == ["count"]
    assert found.input_size == 4
