"""A forecast that reads the calendar: what its windows have, what it is told, and that without one all is as before."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopline.files import calendar
from loopline.files.grids import Step
from loopline.files.sequences import Column

from services.errors import DatasetInvalid, SpecInvalid
from services.training import checkpoint
from services.training.files import npz
from services.training.gate import reference
from services.training.gate.verdict import Retraining
from services.training.loop import Run
from services.training.messages import Finished, SavedModel
from services.training.preparing import prepare
from services.training.run import finish
from services.training.spec import Spec, cautions, check_data, parse, stored
from services.training.spec.effort import effort
from services.training.spec.footprint import footprint
from services.training.windows import Forecasting, Windows
from tests.training.building import (
    check_that_it_resumes_exactly,
    forecast_spec,
    hourly,
    trained,
    without_rows,
)

CPU = torch.device("cpu")


def spec_with(arrays: npz.Arrays, names: Any = "auto", **changes: Any) -> Spec:
    return forecast_spec(arrays, task={"calendar": names}, **changes)


def test_windows_have_the_calendar_of_their_steps() -> None:
    arrays = hourly([100, 90])
    found = prepare(arrays, spec_with(arrays, ["weekday", "hour"], data={"scaling": "none", "target_scaling": "none"}))
    assert isinstance(found, Forecasting)
    assert isinstance(found.train, Windows)
    assert found.forecast["calendar"] == ["hour", "weekday"]
    assert found.forecast["known_future"] == []
    assert found.train.x.shape == (200, 3 + 12)
    assert found.train.known is not None
    for row, length in enumerate((100, 90)):
        assert arrays.times is not None
        expected = calendar.fourier_terms(arrays.times[row, :length], ["hour", "weekday"])
        for part in (found.train.x[:, 3:], found.train.known):
            np.testing.assert_allclose(part.view(2, 100, 12)[row, :length], expected, atol=1e-6)
    [piece] = found.train.pieces([np.array([0])], CPU)
    assert piece.static is not None
    first = int(found.train.first[0])
    expected = calendar.fourier_terms(arrays.times[0, first : first + 3], ["hour", "weekday"])
    np.testing.assert_allclose(piece.static[0], expected.ravel(), atol=1e-6)


def test_rows_that_were_added_have_their_own_calendar() -> None:
    arrays = without_rows(hourly([100]), 30, 31)
    found = prepare(arrays, spec_with(arrays, "hour", data={"scaling": "none"}))
    assert isinstance(found.train, Windows)
    expected = calendar.fourier_terms(np.arange(100) * 3_600_000_000_000, ["hour"])
    np.testing.assert_allclose(found.train.x[:, 3:], expected, atol=1e-6)


def test_the_default_follows_from_the_step_and_the_length_and_is_told() -> None:
    def chosen(arrays: npz.Arrays, names: Any = "auto") -> Any:
        task = spec_with(arrays, names).task
        assert task is not None
        return task.model_dump()["calendar"]

    assert chosen(hourly([100])) == ["hour"]
    assert chosen(hourly([600])) == ["hour", "weekday"]
    assert chosen(hourly([60])) == chosen(hourly([100], timed=False)) == chosen(hourly([100]), "none") == "none"
    assert chosen(hourly([100]), []) == "none"
    assert chosen(hourly([60]), "yearday") == ["yearday"]
    assert chosen(hourly([60]), ["weekday", "hour", "hour"]) == ["hour", "weekday"]
    named = hourly([600], known=("hour",))
    assert chosen(replace(named, features=(Column("load"), Column("heat"), Column("hour")))) == ["weekday"]


@pytest.mark.parametrize(
    ("apart", "unit"), [(1, "h"), (36, "h"), (15, "m"), (1500, "ms"), (7, "D"), (10_000, "D"), (1, "M"), (12, "M")]
)
def test_a_summary_says_the_step_as_a_value_and_an_older_one_in_words(apart: int, unit: str) -> None:
    arrays = hourly([12])
    times = np.datetime64("2024-01-01", unit) + np.arange(12) * apart
    found = npz.summarise(replace(arrays, times=times.astype("datetime64[ns]").astype(np.int64)[None])).series
    assert found is not None
    assert found.usual_step is not None
    assert found.usual_step == Step(apart, True) if unit == "M" else not found.usual_step.in_months
    said = json.loads(found.model_dump_json())
    assert type(found).model_validate(said).usual_step == found.usual_step
    older = {name: value for name, value in said.items() if name not in ("usual", "in_months")}
    assert type(found).model_validate(older).usual_step == found.usual_step


def test_steps_of_numbers_have_no_calendar_in_a_summary_of_any_version() -> None:
    arrays = hourly([12])
    found = npz.summarise(replace(arrays, times=np.arange(12.0)[None])).series
    assert found is not None
    assert found.usual_step == Step(1.0)
    assert not found.usual_step.is_time
    older = {name: value for name, value in found.model_dump().items() if name not in ("usual", "in_months")}
    assert type(found).model_validate(older).usual_step is None


def test_a_calendar_that_cannot_be_read_is_a_problem_of_the_spec() -> None:
    with pytest.raises(SpecInvalid, match="reads the hour of each step, and the steps of this data set have no dates"):
        spec_with(hourly([100], timed=False), "hour")
    with pytest.raises(SpecInvalid) as error:
        parse({"task": {"name": "forecast", "calendar": ["day"]}, "architecture": {"cell": "gru"}, "data": {}})
    assert any("yearday" in problem.detail for problem in error.value.problems)
    own = hourly([100])
    own = replace(own, features=(Column("load"), Column("heat"), Column("calendar.hour.sin1")))
    with pytest.raises(
        DatasetInvalid, match=r"has a column calendar\.hour\.sin1 of its own, so rename it, or set task"
    ):
        prepare(own, spec_with(own, "hour"))


def test_a_stride_that_shows_a_part_of_the_hours_is_warned_of() -> None:
    arrays = hourly([100])
    summary = npz.summarise(arrays)

    def warned(stride: int, names: Any) -> list[str]:
        task = {"name": "forecast", "stride": stride, "calendar": names}
        spec = forecast_spec(arrays, task=task)
        return [each for each in cautions.of_data(spec, summary, effort(spec, summary)) if "task.stride" in each]

    assert warned(5, "hour") == warned(6, "yearday") == warned(6, "auto") == []
    [sentence] = warned(6, "hour")
    assert sentence.startswith("Windows that are 6 steps apart (task.stride) begin at a few hours or days only")


def test_the_parameters_are_known_before() -> None:
    arrays = hourly([100], known=("wind",))
    spec = spec_with(arrays, ["hour", "yearday"])
    run = Run(spec, prepare(arrays, spec))
    there = sum(parameter.numel() for parameter in run.model.parameters())
    assert footprint(spec, npz.summarise(arrays)).parameters == there


def test_the_only_column_is_forecast_although_the_calendar_stands_beside_it() -> None:
    both = hourly([100])
    arrays = replace(both, x=both.x[:, :, :1], features=both.columns[:1], targets=(), y=both.y[:, :, :0])
    spec = spec_with(arrays, ["hour", "weekday"])
    found = prepare(arrays, spec)
    assert found.target_names == ("load",)
    run = Run(spec, found)
    assert run.data.output_size > 0


def test_the_memory_of_the_calendar_is_counted() -> None:
    arrays = hourly([100, 100])
    spec = spec_with(arrays, ["hour", "yearday"])
    found = prepare(arrays, spec)
    assert isinstance(found.train, Windows)
    counted = footprint(spec, npz.summarise(arrays))
    assert counted.prepared == found.train.x.nbytes
    assert counted.data == arrays.x.nbytes + found.train.x.nbytes


def test_nothing_is_read_of_the_calendar_by_a_spec_of_an_older_version() -> None:
    arrays = hourly([100])
    plain = spec_with(arrays, "none")
    document = plain.document()
    assert document["task"].pop("calendar") == "none"
    older = check_data(stored(document), npz.summarise(arrays))
    assert older == plain
    assert checkpoint.essence(older.document()) == checkpoint.essence(document)
    assert checkpoint.essence(spec_with(arrays).document())["task"]["calendar"] == ["hour"]
    assert stored(spec_with(arrays).document()) == spec_with(arrays)


def test_a_run_with_a_calendar_goes_on_exactly(tmp_path: Path) -> None:
    arrays = hourly([80, 100], gaps=True)
    spec = spec_with(arrays, training={"batch_size": 16, "epochs": 2})
    check_that_it_resumes_exactly(lambda: Run(spec, prepare(arrays, spec)), tmp_path, after=3)


def kept(arrays: npz.Arrays, folder: Path, names: Any, baselines: Any, *, older: bool = False) -> dict[str, Any]:
    """A retraining; the entry of its result. `older`: the model is then as an older version wrote it."""
    spec = spec_with(arrays, names, retrain={"model": "load", "warm_start": "production"})
    retraining = Retraining(spec, arrays, CPU, baselines)
    one = Run(spec, retraining.data, initial=retraining.initial)
    trained(one)
    told = finish(one, folder, retraining)
    result = next(event.result for event in told if isinstance(event, Finished))
    list(told)
    if older:
        card = json.loads((folder / "model.json").read_text())
        del card["spec"]["task"]["calendar"]
        (folder / "model.json").write_text(json.dumps(card))
    entry: dict[str, Any] = result["retrain"]
    return entry


def test_a_model_without_a_calendar_is_compared_with_one_that_has_it(tmp_path: Path) -> None:
    arrays = hourly([120])
    kept(arrays, tmp_path / "1", "none", {"warm_start": None, "against": None}, older=True)
    saved = SavedModel("load@1", str(tmp_path / "1"))
    again = kept(arrays, tmp_path / "2", "auto", {"warm_start": saved, "against": saved})
    before, card = (json.loads((tmp_path / each / "model.json").read_text()) for each in ("1", "2"))
    assert (before["format"], card["format"]) == ("loopline-model/4", "loopline-model/7")
    assert card["forecast"]["calendar"] == card["spec"]["task"]["calendar"] == ["hour"]
    assert again["gate"]["comparison"]["old"] == pytest.approx(before["metrics"]["test_mase"], rel=1e-4)
    assert again["warm_start"] is None
    assert 'task.calendar is none there, and ["hour"] here' in again["gate"]["message"]
    newer = SavedModel("load@2", str(tmp_path / "2"))
    warm = kept(arrays, tmp_path / "3", "auto", {"warm_start": newer, "against": newer})
    assert warm["warm_start"] == "load@2"
    assert warm["gate"]["comparison"]["old"] == pytest.approx(card["metrics"]["test_mase"], rel=1e-4)
    untimed = hourly([120], timed=False)
    alone = kept(untimed, tmp_path / "4", "auto", {"warm_start": newer, "against": newer})
    assert alone["warm_start"] is None
    assert "reads the calendar" in alone["gate"]["message"]


def test_the_look_at_the_columns_of_a_model_copies_no_series(tmp_path: Path) -> None:
    kept(hourly([120]), tmp_path / "1", "auto", {"warm_start": None, "against": None})
    found = reference.load("load@1", str(tmp_path / "1"))
    arrays = hourly([50_000])
    tracemalloc.start()
    try:
        reference.check_input(found, arrays)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < arrays.x.nbytes


def test_a_model_of_times_with_a_zone_is_not_compared_on_times_without_one(tmp_path: Path) -> None:
    zoned = replace(hourly([120]), zoned=True)
    kept(zoned, tmp_path / "1", "auto", {"warm_start": None, "against": None})
    assert json.loads((tmp_path / "1" / "model.json").read_text())["forecast"]["zoned"] is True
    saved = SavedModel("load@1", str(tmp_path / "1"))
    baselines = {"warm_start": saved, "against": saved}
    assert kept(zoned, tmp_path / "2", "auto", baselines)["warm_start"] == "load@1"
    assert kept(replace(zoned, zoned=None), tmp_path / "3", "auto", baselines)["warm_start"] == "load@1"
    other = kept(replace(zoned, zoned=False), tmp_path / "4", "auto", baselines)
    assert other["warm_start"] is None
    assert (
        "reads times in UTC, because they had a zone, and those of this data set have none"
        in (other["gate"]["message"])
    )


def test_what_only_the_test_period_has_changes_no_scaling_of_the_calendar() -> None:
    arrays = hourly([100])
    spec = spec_with(arrays, ["hour", "yearday"])
    found = prepare(arrays, spec)
    assert arrays.times is not None
    moved = arrays.times.copy()
    moved[:, 90:] += 400 * 86_400 * 10**9  # the last steps are those of another year
    fitted = [prepare(replace(arrays, times=each), spec).preprocessing.document() for each in (arrays.times, moved)]
    assert fitted[0]["features"] == fitted[1]["features"] == found.preprocessing.document()["features"]
