"""What a forecast reads of the calendar: by hand, and the same of tables, files and arrays."""

from __future__ import annotations

import csv
import json
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopline import InputInvalid, load
from loopline.files import calendar, formats, store
from loopline.files.build import build
from loopline.files.grids import Step
from loopline.files.inference import infer
from loopline.files.schema import Schema
from loopline.prediction.answers import Forecast

from services.training.files import reading
from services.training.files.npz import Limits
from tests.client.prediction.cases import Case, Trained, numbers

START = datetime(2024, 1, 1)  # a Monday
SECOND = 10**9
MINUTE, HOUR, DAY, WEEK = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND, 7 * 86_400 * SECOND
SCHEMA = {"order": "time", "target": ["load"]}


def at(*moments: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(moments, "datetime64[ns]").astype(np.int64)


def shares(name: str, *moments: str) -> list[float]:
    """The share of the turn of the first terms."""
    first = calendar.fourier_terms(at(*moments), [name], np.float64)[:, :2]
    return [round(float(each), 9) for each in np.arctan2(first[:, 0], first[:, 1]) / (2 * np.pi) % 1]


def test_the_fourier_terms_of_a_time_are_those_computed_by_hand() -> None:
    assert shares("hour", "2024-02-29T00:00", "2024-02-29T06:00", "1969-12-31T18:30") == [
        *(0.0, 0.25, round(18.5 / 24, 9)),
    ]
    # A Thursday and a Monday; the night before a Monday is still Sunday.
    assert shares("weekday", "1970-01-01", "2024-01-01", "2024-01-07T23:59", "1969-12-28") == [
        *(round(3 / 7, 9), 0.0, round(6 / 7, 9), round(6 / 7, 9)),
    ]
    assert shares("yearday", "2024-01-01", "2024-02-29", "2023-03-01T12:00", "1968-12-31") == [
        *(0.0, round(59 / 366, 9), round(59.5 / 365, 9), round(365 / 366, 9)),
    ]
    found = calendar.fourier_terms(at("2024-02-29T08:00"), ["hour"], np.float64)
    third = 2 * np.pi / 3
    assert found[0].tolist() == pytest.approx(
        [np.sin(third), np.cos(third), np.sin(2 * third), np.cos(2 * third), 0.0, 1.0], abs=1e-12
    )
    names = [column.name for column in calendar.columns(["weekday", "yearday"])]
    assert len(names) == calendar.fourier_terms(at("2024-02-29"), ["weekday", "yearday"]).shape[1] == 10
    assert (names[0], names[1], names[-1]) == (
        *("calendar.weekday.sin1", "calendar.weekday.cos1", "calendar.yearday.cos2"),
    )


@pytest.mark.parametrize(
    ("step", "steps", "names"),
    [
        (Step(HOUR), 60 * 24, ["hour", "weekday"]),
        (Step(HOUR), 3 * 366 * 24, ["hour", "weekday", "yearday"]),
        (Step(HOUR), 3 * 24, ["hour"]),
        (Step(HOUR), 71, []),
        (Step(15 * MINUTE), 21 * 96, ["hour", "weekday"]),
        (Step(SECOND // 2), 10, []),
        (Step(DAY), 400, ["weekday"]),
        (Step(DAY), 1100, ["weekday", "yearday"]),
        (Step(WEEK), 160, ["yearday"]),
        (Step(1, True), 36, ["yearday"]),
        (Step(1, True), 35, []),
        (Step(12, True), 100, []),
        (Step(1.5), 10_000, []),
        (None, 10_000, []),
    ],
)
def test_a_calendar_is_suggested_by_the_step_and_the_length(step: Step | None, steps: int, names: list[str]) -> None:
    assert calendar.suggested(step, steps) == names
    assert calendar.suggested(step, steps, stride=5) == names
    assert calendar.suggested(step, steps, ["hour"]) == [name for name in names if name != "hour"]


def test_what_windows_show_in_part_only_is_not_suggested() -> None:
    long = 4 * 366 * 24
    assert calendar.suggested(Step(HOUR), long, stride=24) == ["yearday"]
    assert calendar.suggested(Step(HOUR), long, stride=6) == ["yearday"]
    assert calendar.suggested(Step(HOUR), long, stride=7) == ["hour", "yearday"]
    assert calendar.suggested(Step(15 * MINUTE), 4 * long, stride=25) == ["hour", "weekday", "yearday"]
    assert calendar.suggested(Step(DAY), 30, stride=7) == []


@pytest.mark.parametrize(
    ("step", "name", "strides", "skipped"),
    [
        (Step(HOUR), "hour", [1, 5, 7, 23, 25], False),
        (Step(HOUR), "hour", [2, 6, 9, 24, 28], True),
        (Step(HOUR), "weekday", [5, 23], False),
        (Step(HOUR), "weekday", [7, 24], True),
        (Step(7 * HOUR), "hour", [1, 5, 7, 23], False),  # steps come to each hour of a day in 7 days
        (Step(7 * HOUR), "hour", [2, 3, 12, 24], True),
        (Step(7 * HOUR), "weekday", [5, 7, 23], False),  # to 24 hours of a week
        (Step(7 * HOUR), "weekday", [2, 24], True),
        (Step(5 * HOUR), "weekday", [7, 24], True),
        (Step(12 * HOUR), "hour", [1, 3, 7], False),  # all steps are at two hours
        (Step(12 * HOUR), "hour", [2, 24], True),
        (Step(36 * HOUR), "hour", [2], True),
        (Step(DAY), "hour", [1, 2, 7], False),
        (Step(DAY), "weekday", [2, 3, 5], False),
        (Step(DAY), "weekday", [7, 14], True),
        (Step(MINUTE), "hour", [5, 59, 60], False),  # each hour of the day is shown, if not each minute
        (Step(MINUTE), "hour", [120, 1440], True),
        (Step(15 * MINUTE), "hour", [4, 25], False),
        (Step(15 * MINUTE), "weekday", [4], False),
        (Step(15 * MINUTE), "weekday", [8, 96], True),
        (Step(SECOND // 10), "hour", [3, 10], False),
        (Step(HOUR), "yearday", [24], False),
        (Step(1, True), "hour", [12], False),
        (None, "hour", [24], False),
    ],
)
def test_windows_skip_hours_that_other_steps_have(
    step: Step | None, name: str, strides: list[int], skipped: bool
) -> None:
    assert {stride: calendar.skips(step, name, stride) for stride in strides} == dict.fromkeys(strides, skipped)


def rows(hours: int = 96, zone: str = "") -> dict[str, list[Any]]:
    rng = np.random.default_rng(1)
    times = [START + timedelta(hours=hour) for hour in range(hours)]
    loads = 5 + np.sin(np.arange(hours) / 4) + rng.normal(0, 0.1, hours)
    return {"time": [f"{time:%Y-%m-%d %H:%M}{zone}" for time in times], "load": loads.tolist()}


def written(columns: dict[str, list[Any]], path: Path) -> Path:
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(columns)
        lines.writerows(zip(*columns.values(), strict=True))
    return path


def trained_on(path: Path, folder: Path, schema: dict[str, Any] = SCHEMA, **changes: Any) -> Trained:
    arrays = reading.read(path, Limits(max_bytes=1 << 30, plain_labels=False), schema)
    return Trained.of_case(Case(lambda: arrays, {"training": {"epochs": 1}, **changes}), folder)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch", "numpy"])
def test_a_table_a_file_and_an_array_with_its_end_are_answered_alike(tmp_path: Path, backend: Any) -> None:
    case = trained_on(written(rows(), tmp_path / "loads.csv"), tmp_path / "model")
    model = load(case.folder, backend)
    assert model.card["forecast"]["calendar"] == ["hour"]
    assert [column.name for column in model.features] == ["load"]
    assert model.card["forecast"]["zoned"] is False
    asked = rows(30)
    by_table = model.predict(asked)
    assert isinstance(by_table, Forecast)
    assert by_table.times is not None
    assert by_table.times[0][0] == START + timedelta(hours=30)
    x, last = np.array(asked["load"])[:, None], START + timedelta(hours=29)
    for end in (
        *(last, "2024-01-02 05:00", np.datetime64("2024-01-02T05"), [last], [str(last)]),
        np.array([last], "datetime64[s]"),
    ):
        answer = model.predict(x, end=end)
        np.testing.assert_allclose(numbers(answer), numbers(by_table), rtol=1e-5)
        assert isinstance(answer, Forecast)
        assert answer.times == by_table.times
    answer = model.predict(written(asked, tmp_path / "asked.csv"))
    np.testing.assert_allclose(numbers(answer), numbers(by_table), rtol=1e-5)
    table = formats.read(tmp_path / "loads.csv", tmp_path)
    store.write(tmp_path / "stored", build(table, infer(table, Schema(order="time", target=("load",))).schema))
    whole = model.predict(tmp_path / "stored")
    np.testing.assert_allclose(numbers(whole), numbers(model.predict(tmp_path / "loads.csv")), rtol=1e-5)
    midnight = model.predict(x[:24], end=date(2024, 1, 2))
    later = model.predict(x[:24], end="2024-01-02 06:00")
    assert np.abs(numbers(midnight) - numbers(later)).max() > 1e-4
    several = model.predict([x, x[4:]], end=[last, "2024-01-02 06:00"])
    np.testing.assert_allclose(numbers(several)[0], numbers(by_table)[0], rtol=1e-5)
    assert isinstance(several, Forecast)
    assert several.times is not None
    assert several.times[1][0] == START + timedelta(hours=31)


def asked_with(x: Any, *ends: Any) -> list[dict[str, Any]]:
    return [{"x": x, "end": end} for end in ends]


LAST = START + timedelta(hours=29)


def test_times_with_a_zone_are_read_in_utc_as_in_training(tmp_path: Path) -> None:
    case = trained_on(written(rows(zone="+02:00"), tmp_path / "loads.csv"), tmp_path / "model")
    model = load(case.folder)
    assert model.card["forecast"]["zoned"] is True
    by_table = model.predict(rows(30, "+02:00"))
    assert isinstance(by_table, Forecast)
    assert by_table.times is not None
    assert by_table.times[0][0] == datetime(2024, 1, 2, 4, tzinfo=UTC)
    utc = {**rows(30), "time": [START + timedelta(hours=hour - 2) for hour in range(30)]}
    aware = {**utc, "time": [time.replace(tzinfo=UTC) for time in utc["time"]]}
    new_york = {**utc, "time": [f"{time - timedelta(hours=5):%Y-%m-%dT%H:%M}-05:00" for time in utc["time"]]}
    x = np.array(utc["load"])[:, None]
    table = formats.read(written(aware, tmp_path / "aware.csv"), tmp_path)
    store.write(tmp_path / "stored", build(table, infer(table, Schema(order="time", target=("load",))).schema))
    for asked in (
        *({"x": aware}, {"x": new_york}, {"x": written(new_york, tmp_path / "asked.csv")}, {"x": tmp_path / "stored"}),
        *asked_with(x, "2024-01-02 05:00+02:00", "2024-01-02T03:00Z", ["2024-01-01T22:00-05:00"]),
        *asked_with(x, LAST.replace(hour=3, tzinfo=UTC), LAST.replace(tzinfo=timezone(timedelta(hours=2)))),
    ):
        answer = model.predict(**asked)
        np.testing.assert_allclose(numbers(answer), numbers(by_table), rtol=1e-5)
        assert isinstance(answer, Forecast)
        assert answer.times == by_table.times
    table = formats.read(written(utc, tmp_path / "utc.csv"), tmp_path)
    store.write(tmp_path / "local", build(table, infer(table, Schema(order="time", target=("load",))).schema))
    for asked in (
        *({"x": utc}, {"x": written(rows(30), tmp_path / "asked.csv")}, {"x": tmp_path / "local"}),
        *asked_with(x, "2024-01-02 03:00", date(2024, 1, 2), np.datetime64("2024-01-02T03"), LAST),
    ):
        with pytest.raises(InputInvalid, match="the model was trained on times with a zone, and these have none: writ"):
            model.predict(**asked)
    with pytest.raises(InputInvalid, match="end: some of these times have a zone and others have none"):
        model.predict([x, x], end=["2024-01-02T03:00Z", "2024-01-02T03:00"])


def test_times_with_a_zone_are_refused_where_training_had_none(tmp_path: Path) -> None:
    case = trained_on(written(rows(), tmp_path / "loads.csv"), tmp_path / "model")
    model = load(case.folder)
    x = np.array(rows(30)["load"])[:, None]
    zoned = [
        *({"x": rows(30, "Z")}, {"x": written(rows(30, "+02:00"), tmp_path / "asked.csv")}),
        *asked_with(x, "2024-01-02T05:00:00Z", "2024-01-02T07:00+02:00", LAST.replace(tzinfo=UTC)),
    ]
    for asked in zoned:
        with pytest.raises(
            InputInvalid, match="the model was trained on times without a zone, and these have one, so "
        ):
            model.predict(**asked)
    card = json.loads((case.folder / "model.json").read_text())
    del card["forecast"]["zoned"]  # as an older version wrote it
    (case.folder / "model.json").write_text(json.dumps(card))
    older = load(case.folder)
    for asked in zoned:
        answer = older.predict(**asked)
        assert isinstance(answer, Forecast)
        assert answer.times is not None
        assert answer.times[0][0].tzinfo is UTC
    np.testing.assert_allclose(numbers(older.predict(rows(30))), numbers(model.predict(rows(30))))


def test_what_is_known_ahead_goes_before_the_calendar(tmp_path: Path) -> None:
    columns = {**rows(), "wind": np.random.default_rng(2).normal(0, 1, 96).tolist()}
    schema = {**SCHEMA, "known_future": ["wind"]}
    case = trained_on(written(columns, tmp_path / "loads.csv"), tmp_path / "model", schema)
    model = load(case.folder)
    assert (model.card["forecast"]["known_future"], model.card["forecast"]["calendar"]) == (["wind"], ["hour"])
    asked = {name: values[:30] for name, values in columns.items()}
    asked["load"] = [*asked["load"][:27], None, None, None]
    names = [column.name for column in model.features]
    x = np.array([columns[name][:27] for name in names]).T
    future = np.array(columns["wind"][27:30])[:, None]
    expected = model.predict(x, future=future, end="2024-01-02 02:00")
    np.testing.assert_allclose(numbers(model.predict(asked)), numbers(expected), rtol=1e-5)
    np.testing.assert_allclose(
        numbers(model.predict(x, future=future, end="2024-01-02 02:00")),
        numbers(load(case.folder, "numpy").predict(asked)),
        rtol=1e-4,
    )


def test_steps_without_times_are_refused_with_the_way_out(tmp_path: Path) -> None:
    case = trained_on(written(rows(), tmp_path / "loads.csv"), tmp_path / "model")
    model = load(case.folder)
    x = np.array(rows(30)["load"])[:, None]
    np.save(tmp_path / "x.npy", x[None])
    lacks = (
        "the model reads the hour of each step, and the steps have no times: give end, the time of the last step of "
        "each sequence, or a table with dates or times in the column `time`"
    )
    for given in (x, tmp_path / "x.npy", {"load": rows(30)["load"]}, {**rows(30), "time": list(range(30))}):
        with pytest.raises(InputInvalid) as error:
            model.predict(given)
        assert lacks in str(error.value)
    for end, sentence in (
        ("soon", "end: 'soon' is no date or time such as 2024-03-31 23:00"),
        ("9999-12-31", "'9999-12-31' is no date or time"),
        ("0001-01-01T00:00+14:00", "is no date or time"),
        (np.datetime64("NaT"), "is no date or time"),
        ([3], "'3' is no date or time"),
        (3, "end: give the time of the last step of each sequence, 1 in all"),
        ([START, START], "1 in all"),
        ({"a": 1}, "1 in all"),
    ):
        with pytest.raises(InputInvalid) as error:
            model.predict(x, end=end)
        assert sentence in str(error.value)
    with pytest.raises(InputInvalid, match="lengths, static, future, ids and end are for arrays and texts"):
        model.predict(rows(30), end=START)


def test_a_model_without_times_has_no_end(tmp_path: Path) -> None:
    columns = {**rows(), "time": list(range(96))}
    case = trained_on(written(columns, tmp_path / "loads.csv"), tmp_path / "model")
    model = load(case.folder)
    assert "calendar" not in model.card["forecast"]
    with pytest.raises(InputInvalid, match="the model knows no time between two steps: leave end out"):
        model.predict(np.ones((30, 1)), end=START)
