"""Forecasts from loss to result: the formulas, what stands beside a result, and that runs go on and are compared."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from services.training import advice, forecasts, run
from services.training.gate.paired import Scores
from services.training.gate.scores import in_blocks
from services.training.gate.verdict import Retraining
from services.training.loop import Run, evaluate
from services.training.measures import MEASURES
from services.training.messages import Finished, Note, SavedModel
from services.training.preparing import prepare
from services.training.spec.fields import MAE, MSE, Huber, Loss, Pinball
from services.training.tasks.forecast import Forecast, Units
from services.training.tasks.task import Judged
from services.training.windows import Forecasting, Windows
from tests.properties import examples
from tests.training.building import (
    check_that_it_resumes_exactly,
    events,
    forecast_spec,
    hourly,
    trained,
)

QUANTILES = (0.1, 0.5, 0.9)
CPU = torch.device("cpu")


def task(quantiles: tuple[float, ...] = ()) -> Forecast:
    """Two targets of two series, three steps ahead."""
    units = Units(
        np.array([[5.0, -1.0], [50.0, 0.0]]), np.array([[2.0, 1.0], [20.0, 3.0]]), np.array([[0.5, 0.0], [4.0, 2.0]])
    )
    return Forecast(3, 2, quantiles, units)


def answers(quantiles: int = 1, samples: int = 20, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and targets as training has them."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(samples, 6 * quantiles, generator=generator)
    future = torch.randn(samples, 6, generator=generator)
    series = (torch.arange(samples) % 2).float()
    return outputs, torch.cat((future, series[:, None]), dim=1)


@pytest.mark.parametrize(
    ("loss", "plain"),
    [(MSE(), F.mse_loss), (MAE(), F.l1_loss), (Huber(delta=0.7), lambda a, b: F.huber_loss(a, b, delta=0.7))],
)
def test_losses_are_those_of_torch(loss: Loss, plain: Any) -> None:
    outputs, targets = answers()
    assert torch.allclose(task().loss(loss, targets, 6)(outputs, targets), plain(outputs, targets[:, :-1]))
    each = task().losses_of_each(loss, targets, 6)(outputs, targets)
    assert each.shape == (20,)
    assert torch.allclose(each.mean(), plain(outputs, targets[:, :-1]))


def test_the_pinball_loss_is_the_quantile_loss() -> None:
    outputs, targets = answers(3)
    found = task(QUANTILES).loss(Pinball(), targets, 18)(outputs, targets)
    expected = []
    for row in range(20):
        for value in range(6):
            for place, level in enumerate(QUANTILES):
                error = float(targets[row, value] - outputs[row, value * 3 + place])
                expected.append(level * error if error > 0 else (level - 1) * error)
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_median_of_answers_that_cross_is_the_middle_one() -> None:
    outputs = torch.tensor([[3.0, 1.0, 2.0] * 6])
    assert task(QUANTILES).points(outputs).tolist() == [[2.0] * 6]
    assert task(QUANTILES).ordered(outputs).tolist() == [[1.0, 2.0, 3.0] * 6]


@pytest.mark.parametrize("quantiles", [(), QUANTILES])
def test_metrics_are_those_of_numpy_in_the_unit_of_the_data(quantiles: tuple[float, ...]) -> None:
    judge = task(quantiles)
    outputs, targets = answers(len(quantiles) or 1)
    assert judge.units is not None
    points = judge.points(outputs).numpy().reshape(20, 3, 2).astype(np.float64)
    actual = targets[:, :-1].numpy().reshape(20, 3, 2).astype(np.float64)
    series = np.arange(20) % 2
    shift, scale, naive = (each[series][:, None] for each in (judge.units.shift, judge.units.scale, judge.units.naive))
    points, actual = points * scale + shift, actual * scale + shift
    errors = np.abs(points - actual)
    there = np.broadcast_to(naive > 0, errors.shape)
    expected = {
        "mae": errors.mean(),
        "rmse": np.sqrt((errors**2).mean()),
        "smape": (2 * errors / (np.abs(points) + np.abs(actual))).mean(),
        "mase": (errors[there] / np.broadcast_to(naive, errors.shape)[there]).mean(),
    }
    assert judge.metrics(outputs, targets) == pytest.approx(expected, rel=1e-6)
    assert judge.metrics_of_kept(judge.kept(outputs), targets, 0) == pytest.approx(expected, rel=1e-6)
    details = judge.details(outputs, targets, ("load", "heat"), None)
    steps = details["horizon"]
    assert steps["step"] == [1, 2, 3]
    assert details["targets"]["name"] == ["load", "heat"]
    assert details["targets"]["mae"] == pytest.approx(errors.mean(axis=(0, 1)), rel=1e-6)
    assert details["targets"]["mase"][1] == pytest.approx((errors / np.where(there, naive, np.inf))[1::2, :, 1].mean())
    assert steps["mae"] == pytest.approx(errors.mean(axis=(0, 2)), rel=1e-6)
    assert steps["rmse"] == pytest.approx(np.sqrt((errors**2).mean(axis=(0, 2))), rel=1e-6)


def test_the_share_below_each_quantile_is_counted() -> None:
    outputs = torch.tensor([[-1.0, 0.0, 1.0] * 6] * 4)
    targets = torch.tensor([[-2.0] * 7, [-0.5] * 7, [0.5] * 7, [2.0] * 7])
    targets[:, -1] = 0.0
    found = task(QUANTILES).details(outputs, targets, ("load", "heat"), None)["quantiles"]
    assert found == {"quantile": [0.1, 0.5, 0.9], "share_below": [0.25, 0.5, 0.75]}


def test_a_constant_series_has_no_mase() -> None:
    judge = Forecast(3, 2, (), Units(np.zeros((2, 2)), np.ones((2, 2)), np.zeros((2, 2))))
    assert judge.metrics(*answers())["mase"] is None
    zeros = torch.zeros(4, 6), torch.zeros(4, 7)
    assert judge.metrics(*zeros)["smape"] == 0.0


@pytest.mark.parametrize(
    ("loss", "quantiles"), [(MSE(), ()), (MAE(), ()), (Huber(delta=0.5), ()), (Pinball(), QUANTILES)]
)
def test_the_sums_of_the_gate_make_the_metrics_and_the_loss(loss: Loss, quantiles: tuple[float, ...]) -> None:
    judge = task(quantiles)
    outputs, targets = answers(len(quantiles) or 1)
    expected = judge.metrics(outputs, targets)
    expected["loss"] = float(judge.loss(loss, targets, 0)(outputs, targets))
    judged = Judged(*judge.in_unit(outputs, targets))
    for metric, value in expected.items():
        scores = judge.scores(metric, loss, judged)
        assert scores.sums.shape[0] == 20
        assert float(scores.value(scores.sums.sum(axis=0))) == pytest.approx(value, rel=1e-5), metric


@examples(50)
@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 50))
def test_a_naive_forecast_repeats_the_values_of_a_season_before(season: int, horizon: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((2, 20, 2))
    y[rng.random(y.shape) < 0.2] = np.nan
    first = np.sort(rng.choice(np.concatenate((np.arange(2, 20 - horizon), np.arange(22, 40 - horizon))), 8))
    part = Windows(
        x=torch.zeros(40, 1),
        lengths=None,
        y=torch.from_numpy(y.reshape(40, 2)),
        first=first,
        longest=20,
        horizon=horizon,
    )
    found = forecasts.naive(part, season).numpy().reshape(8, horizon, 2)
    for window, place in enumerate(first.tolist()):
        row, step = divmod(place, 20)
        for ahead in range(horizon):
            back = step + ahead - season * (ahead // season + 1)
            if back < 0:
                back = step - 1
            for target in range(2):
                known = [v for v in y[row, : back + 1, target] if not np.isnan(v)]
                assert found[window, ahead, target] == (known[-1] if known else 0.0)


def finished(one: Run, directory: Path, retraining: Retraining | None = None) -> tuple[dict[str, Any], list[Note]]:
    events = list(run.finish(one, directory, retraining))
    result = next(event.result for event in events if isinstance(event, Finished))
    return result, [event for event in events if isinstance(event, Note)]


def test_a_result_has_the_naive_forecasts_and_each_step_beside_it(tmp_path: Path) -> None:
    arrays = hourly([200], known=("heat",))
    task = {"name": "forecast", "lookback": 24, "horizon": 3, "calendar": "none"}
    spec = forecast_spec(arrays, task=task, training={"epochs": 1})
    one = Run(spec, prepare(arrays, spec))
    trained(one)
    result, notes = finished(one, tmp_path)
    assert set(result["metrics"]) == {
        f"{split}_{name}" for split in ("validation", "test") for name in ("loss", "mase", "smape", "mae", "rmse")
    }
    plain = result["baseline"]
    everything = {plain["answer"]: plain["metrics"], **plain["others"]}
    assert set(everything) == {"the last value", "the value 24 steps before", "the value 168 steps before"}
    assert plain["metric"] == "test_mase"
    assert plain["metrics"]["test_mase"] == min(each["test_mase"] for each in everything.values())
    assert isinstance(one.data, Forecasting)
    assert isinstance(one.data.test, Windows)
    part = one.data.test
    actual = np.stack([arrays.x[0, first : first + 3, 0] for first in part.first.tolist()])
    last = arrays.x[0, part.first - 1, 0][:, None]
    assert everything["the last value"]["test_mae"] == pytest.approx(np.abs(actual - last).mean(), rel=1e-5)
    ends = 200 - 30 - 30
    scale = np.abs(arrays.x[0, 24:ends, 0] - arrays.x[0, : ends - 24, 0]).mean()
    assert everything["the last value"]["test_mase"] == pytest.approx(np.abs(actual - last).mean() / scale, rel=1e-5)
    steps = result["details"]["test"]["horizon"]
    assert np.mean(steps["mae"]) == pytest.approx(result["metrics"]["test_mae"])
    assert len(steps["mase"]) == len(steps["step"]) == 3
    told = [note for note in notes if note.type == "baseline"]
    assert len(told) == (0 if plain["is_beaten"] else 1)
    card = json.loads((tmp_path / "model.json").read_text())
    assert card["format"] == "loopline-model/4"
    assert (card["forecast"]["targets"], card["forecast"]["known_future"]) == (["load"], ["heat"])
    assert card["static_size"] == 3


def test_a_model_that_knows_nothing_does_not_beat_the_last_value_and_says_so(tmp_path: Path) -> None:
    arrays = hourly([120])
    spec = forecast_spec(arrays, training={"epochs": 1, "optimizer": {"name": "sgd", "lr": 1e-9}})
    one = Run(spec, prepare(arrays, spec))
    trained(one)
    result, notes = finished(one, tmp_path)
    assert not result["baseline"]["is_beaten"]
    assert "The model does not beat its baseline: test_mase is" in result["baseline"]["message"]
    assert [note.type for note in notes] == ["baseline", "advice"]


def test_a_forecast_without_a_known_future_is_told_of_the_calendar() -> None:
    def told(calendar: str = "none", **changes: Any) -> list[str]:
        arrays = hourly([120], **changes)
        prepared = prepare(arrays, forecast_spec(arrays, task={"calendar": calendar}))
        assert isinstance(prepared, Forecasting)
        return list(advice.of_calendar(prepared))

    assert told() == [
        "The forecast knows nothing of the next steps: set task.calendar to [hour, weekday], or raise task.lookback."
    ]
    assert told("auto") == told(known=("wind",)) == told(timed=False) == []


@pytest.mark.parametrize("quantiles", [None, list(QUANTILES)])
def test_a_run_goes_on_exactly_from_any_update(tmp_path: Path, quantiles: list[float] | None) -> None:
    arrays = hourly([40, 60], known=("wind",), gaps=True)
    changes = {
        "task": {"name": "forecast", "lookback": 4, "horizon": 3, "quantiles": quantiles},
        "training": {"batch_size": 16, "epochs": 2},
    }
    spec = forecast_spec(arrays, **changes)
    check_that_it_resumes_exactly(lambda: Run(spec, prepare(arrays, spec)), tmp_path, after=3)


def test_a_forecast_learns_a_wave() -> None:
    arrays = hourly([400])
    noise = np.random.default_rng(1).standard_normal(400) * 0.3
    arrays.x[0, :, 0] = 5.0 + np.sin(np.arange(400) * 2 * np.pi / 24) + noise
    spec = forecast_spec(
        arrays,
        architecture={"hidden_size": 16},
        task={"name": "forecast", "lookback": 24, "horizon": 12},
        training={"epochs": 15, "batch_size": 16, "lr_schedule": "constant"},
    )
    one = Run(spec, prepare(arrays, spec))
    trained(one)
    assert one.data.test is not None
    assert isinstance(one.data, Forecasting)
    mase = evaluate(one, one.data.test)["mase"]
    plain = forecasts.baseline(one, {"test_loss": 0.0, "test_mase": mase})
    assert plain["is_beaten"]
    assert plain["answer"] == "the value 24 steps before"


def retrained(arrays: Any, directory: Path, baselines: dict[str, SavedModel | None], **changes: Any) -> dict[str, Any]:
    """A retraining of a model of its own; the entry of its result."""
    spec = forecast_spec(arrays, retrain={"model": "load", "warm_start": "production"}, **changes)
    retraining = Retraining(spec, arrays, CPU, baselines)
    one = Run(spec, retraining.data, initial=retraining.initial)
    trained(one)
    result, _ = finished(one, directory, retraining)
    entry: dict[str, Any] = result["retrain"]
    return entry


@pytest.mark.parametrize("over", ["train", "per_sequence"])
def test_a_retrained_forecast_is_compared_window_by_window(tmp_path: Path, over: str) -> None:
    arrays = hourly([120, 120])
    data = {"data": {"scaling_over": over}}
    retrained(arrays, tmp_path / "1", {"warm_start": None, "against": None}, **data)
    saved = SavedModel("load@1", str(tmp_path / "1"))
    again = retrained(arrays, tmp_path / "2", {"warm_start": saved, "against": saved}, **data)
    gate = again["gate"]
    assert again["warm_start"] == "load@1"
    assert (gate["metric"], gate["against"]) == ("mase", "load@1")
    assert gate["samples"] == 2 * (18 - 3 + 1)
    assert gate["comparison"]["samples"] == 6  # blocks of a horizon: windows overlap, and series move together
    before = json.loads((tmp_path / "1" / "model.json").read_text())
    assert gate["comparison"]["old"] == pytest.approx(before["metrics"]["test_mase"], rel=1e-4)
    assert again["drift"] is not None
    assert not again["drift"]["shifted"]


def test_windows_within_a_horizon_are_one_block_in_all_series() -> None:
    part = Windows(
        x=torch.zeros(120, 1),
        lengths=None,
        y=torch.zeros(120, 1),
        first=np.concatenate((np.arange(20, 30, 2), np.arange(80, 90, 2))),
        longest=60,
        horizon=4,
        stride=2,
        when=np.tile(np.arange(20, 30, 2), 2),
    )
    assert part.blocks is not None
    assert part.blocks.tolist() == [0, 0, 1, 1, 2] * 2
    scores = in_blocks(Scores(np.ones((10, 2)), lambda sums: sums[..., 0]), part.blocks)
    assert scores.sums.tolist() == [[4.0, 4.0], [4.0, 4.0], [2.0, 2.0]]


def test_a_model_with_another_horizon_is_no_match(tmp_path: Path) -> None:
    arrays = hourly([120])
    retrained(arrays, tmp_path / "1", {"warm_start": None, "against": None})
    saved = SavedModel("load@1", str(tmp_path / "1"))
    other = {"task": {"name": "forecast", "lookback": 7, "horizon": 4}}
    found = retrained(arrays, tmp_path / "2", {"warm_start": saved, "against": saved}, **other)
    assert found["warm_start"] is None
    assert found["gate"]["reason"] == "not_comparable"
    assert "forecasts something else (horizon is 3 there, 4 here)" in found["gate"]["message"]


def test_a_model_with_another_look_back_is_compared(tmp_path: Path) -> None:
    arrays = hourly([120])
    retrained(arrays, tmp_path / "1", {"warm_start": None, "against": None})
    saved = SavedModel("load@1", str(tmp_path / "1"))
    other = {"task": {"name": "forecast", "lookback": 9, "horizon": 3}}
    found = retrained(arrays, tmp_path / "2", {"warm_start": None, "against": saved}, **other)
    before = json.loads((tmp_path / "1" / "model.json").read_text())
    assert found["gate"]["comparison"]["old"] == pytest.approx(before["metrics"]["test_mase"], rel=1e-4)


def test_the_metrics_of_forecasts_are_rows_of_the_table() -> None:
    assert {name for name, measure in MEASURES.items() if "forecasts" in measure.judges} == {
        "loss",
        "mase",
        "smape",
        "mae",
        "rmse",
    }


def test_a_table_that_lacks_rows_is_trained_on_and_an_event_counts_them(tmp_path: Path) -> None:
    rows = [f"2024-01-{1 + hour // 24:02} {hour % 24:02}:00,{math.sin(hour / 4):.3f}" for hour in range(120)]
    kept = [row for hour, row in enumerate(rows) if hour not in (20, 21, 110)]
    (tmp_path / "load.csv").write_text("\n".join(["hour,load", *kept, ""]))
    spec = {
        "task": {"name": "forecast", "horizon": 3, "lookback": 6},
        "architecture": {"cell": "rnn", "hidden_size": 4},
        "training": {"epochs": 1},
        "data": {"dataset": "load", "missing": "forward"},
    }
    order = {"spec": spec, "data": str(tmp_path / "load.csv"), "directory": str(tmp_path), "resume": None}
    told = [*events({**order, "device": "cpu"})]
    added, left_out = [event for event in told if event["event"] == "note" and event["type"] == "missing"]
    assert added["message"].startswith("3 rows were missing between the 117 of the data, whose usual step is 1 hour.")
    assert added["data"] == {"added": 3, "given": 117}
    assert left_out["data"]["left_out"] == {"train": 4, "validation": 0, "test": 3}
    assert told[-1]["event"] == "finished"
