"""Tables and files with the columns of the data set are answered as the arrays that training made of them."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from loopline import InputInvalid, load
from loopline.files import store
from loopline.files.inspection import inspect
from loopline.files.schema import Schema
from loopline.prediction.answers import Classification, Forecast, Tags
from loopline.prediction.loading import TrainedModel

from services.training.files import reading
from services.training.files.npz import Limits
from tests.client.prediction.cases import Case, Trained, numbers
from tests.client.prediction.tables import QUICK, Columns, from_file, walks, without, written
from tests.training.building import hourly, texts

START = datetime(2024, 1, 1)


def answers_alike(case: Trained, model: TrainedModel, given: Any) -> Any:
    """Checks that a table of all sequences is answered as their arrays."""
    answer = model.predict(given)
    expected = model.predict(**case.asked(model, np.arange(len(case.arrays))))
    np.testing.assert_allclose(numbers(answer), numbers(expected), rtol=1e-5, atol=1e-6)
    if case.arrays.groups is not None:
        assert answer.ids == tuple(case.arrays.groups.tolist())
    return answer


@dataclass(frozen=True)
class Frame:
    """Like a table of pandas or polars: it shows its columns as an Arrow stream."""

    table: pa.Table

    def __arrow_c_stream__(self, schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(schema)


def test_rows_of_steps_are_answered_in_any_format(walking: tuple[Trained, TrainedModel], tmp_path: Path) -> None:
    case, model = walking
    columns = without(walks(), "activity")
    table = pa.table(columns)
    pa.parquet.write_table(table, tmp_path / "walks.parquet")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    (tmp_path / "walks.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for given in (
        *(table, columns, Frame(table), {"extra": np.zeros(len(rows)), **columns}, walks()),
        *(written(columns, tmp_path / "walks.csv"), str(tmp_path / "walks.parquet"), tmp_path / "walks.jsonl"),
        table.take(np.random.default_rng(1).permutation(len(rows))),
    ):
        answer = answers_alike(case, model, given)
        assert isinstance(answer, Classification)
        assert answer.ids[:2] == ("w00", "w01")
        assert answer.warnings == ()


def test_a_table_that_does_not_fit_is_refused_as_at_an_upload(walking: tuple[Trained, TrainedModel]) -> None:
    _, model = walking
    columns = without(walks(), "activity")
    for given, sentence in (
        (without(columns, "speed"), "there is no column `speed`; the columns are"),
        *(
            (pa.table(columns).append_column(name, pa.array(columns["speed"])), f"column {name}: several columns have")
            for name in ("mode", "speed")
        ),
        ({**without(columns, "speed"), "sped": columns["speed"]}, "there is no column `speed`; did you mean `sped`?"),
        (
            {**columns, "speed": ["fast"] * len(columns["speed"])},
            "`speed` has words ('fast'), and the model takes it as",
        ),
        ({**columns, "speed": [1e300] * len(columns["speed"])}, "`speed` is 1e+300, and a network computes with"),
        (
            {**columns, "weight": list(range(len(columns["speed"])))},
            "`weight` has another value than earlier in the same",
        ),
        ({**columns, "walk": [None] * len(columns["speed"])}, "`walk` is empty; every row needs the sequence"),
        ({name: values[:0] for name, values in columns.items()}, "the file has no row"),
        ({"speed": [1.0, 2.0], "mode": ["flat"]}, "this is no table"),
        ({"speed": [object()]}, "row 1: `speed` is <object object"),
        ({}, "the file has no"),
        ("no such file.csv", "no such file.csv: there is no such file"),
    ):
        with pytest.raises(InputInvalid) as error:
            model.predict(given)
        assert sentence in str(error.value)
    with pytest.raises(InputInvalid, match="a table has columns for them"):
        model.predict(columns, ids=["a"])


@pytest.mark.parametrize("row", [1, 3])
def test_what_is_no_number_is_named_with_its_row_and_column(walking: tuple[Trained, TrainedModel], row: int) -> None:
    columns = without(walks(), "activity")
    for value in ("1,500", "NaN", True):
        speeds = [None, 1500, 1.5, *columns["speed"][3:]]
        speeds[row - 1] = value
        with pytest.raises(InputInvalid, match=rf"^row {row}: `speed` is {value!r}, which is not a number: give"):
            walking[1].predict({**columns, "speed": speeds})


def test_a_word_of_another_type_than_those_before_it_is_named(walking: tuple[Trained, TrainedModel]) -> None:
    columns = without(walks(), "activity")
    with pytest.raises(InputInvalid, match=r"^row 2: `mode` is a number \(7\), and in row 1 it is a text: give one"):
        walking[1].predict({**columns, "mode": [columns["mode"][0], 7, *columns["mode"][2:]]})


def test_words_that_training_does_not_have_are_answered_with_a_warning(walking: tuple[Trained, TrainedModel]) -> None:
    _, model = walking
    columns = without(walks(), "activity")
    columns["mode"] = ["swim", *columns["mode"][1:-1], 7]
    columns["mode"] = [str(word) for word in columns["mode"]]
    answer = model.predict(columns)
    assert answer.warnings == (
        f"row 1 and row {len(columns['mode'])}: `mode` has words that are not in training ('7', 'swim'): "
        "the model takes them as unknown",
    )


def test_without_names_all_rows_are_one_sequence(walking: tuple[Trained, TrainedModel]) -> None:
    case, model = walking
    columns = {name: values[: case.arrays.lengths[0]] for name, values in walks().items()}
    answer = model.predict(without(columns, "walk", "second", "activity"))
    np.testing.assert_allclose(numbers(answer), numbers(model.predict(columns)), rtol=1e-5)
    assert answer.warnings == (
        "there is no column `walk`, which names sequences: all rows are taken as one",
        "there is no column `second`, which orders steps: rows are taken as they come",
    )


def test_rows_that_are_sequences_are_answered(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    columns: Columns = {f"x_{step}": rng.normal(size=30).tolist() for step in range(6)}
    columns |= {f"mode_{step}": rng.choice(["a", "b", "c"], 30).tolist() for step in range(6)}
    columns |= {"age": rng.integers(20, 60, 30).tolist(), "height": rng.normal(170, 9, 30).tolist()}
    path = written(columns, tmp_path / "wide.csv")
    case, model = from_file(path, tmp_path / "model", {"target": ["height"], "static": ["age"]})
    answers_alike(case, model, without(columns, "height"))
    assert list(next(iter(model.predict(path).rows()))) == ["id", "height"]
    shorter = model.predict(without(columns, "height", "x_5", "mode_5"))
    assert "fewer than any in training (6)" in shorter.warnings[0]
    columns["mode_0"] = ["z"] * 30
    assert "`mode_0` has words that are not in training ('z')" in model.predict(columns).warnings[0]


def test_lists_and_a_folder_of_files_are_answered(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(3, 8, 20)
    lists = {"x": [rng.normal(size=size).tolist() for size in sizes], "label": ["a", "b"] * 10}
    pa.parquet.write_table(pa.table(lists), tmp_path / "lists.parquet")
    case, model = from_file(tmp_path / "lists.parquet", tmp_path / "1", {"target": ["label"]})
    answers_alike(case, model, pa.table({"x": lists["x"]}))
    folder = tmp_path / "files"
    for number, values in enumerate(lists["x"]):
        target = folder / "ab"[number % 2]
        target.mkdir(parents=True, exist_ok=True)
        written({"x": values, "z": values[::-1]}, target / f"f{number:02d}.csv")
    case, model = from_file(Path(shutil.make_archive(str(folder), "zip", folder)), tmp_path / "2", {})
    whole = answers_alike(case, model, folder)
    answers_alike(case, model, folder.with_suffix(".zip"))
    alone = numbers(model.predict(folder / "a" / "f00.csv"))[0]
    assert any(np.allclose(alone, row, rtol=1e-5) for row in numbers(whole))


def test_ts_npy_and_npz_files_are_answered(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(20, 5, 2)).round(4)
    lines = [
        ":".join(",".join(map(str, x[row, :, dimension])) for dimension in range(2)) + f":{'ab'[row % 2]}"
        for row in range(20)
    ]
    head = "@problemName p\n@timeStamps false\n@univariate false\n@dimensions 2\n@classLabel true a b\n@data\n"
    (tmp_path / "x.ts").write_text(head + "\n".join(lines) + "\n")
    case, model = from_file(tmp_path / "x.ts", tmp_path / "model", {})
    answers_alike(case, model, tmp_path / "x.ts")
    np.save(tmp_path / "x.npy", x)
    answers_alike(case, model, tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", x=x, lengths=np.full(20, 5), y=np.zeros(20))
    answers_alike(case, model, tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", y=x)
    with pytest.raises(InputInvalid, match="there is no array x; there are y"):
        model.predict(tmp_path / "y.npz")
    np.savez(tmp_path / "o.npz", x=np.array([object()]))
    with pytest.raises(InputInvalid, match="the arrays cannot be read"):
        model.predict(tmp_path / "o.npz")


def test_an_npz_that_takes_far_more_memory_than_its_size_is_refused(tmp_path: Path) -> None:
    x = np.random.default_rng(4).normal(size=(20, 5, 2))
    np.savez(tmp_path / "train.npz", x=x, y=np.arange(20) % 2)
    _, model = from_file(tmp_path / "train.npz", tmp_path / "model", {})
    with zipfile.ZipFile(tmp_path / "packed.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        content = io.BytesIO()
        np.save(content, np.zeros((1 << 17, 16, 2)))
        archive.writestr("x.npy", content.getvalue())
    assert (tmp_path / "packed.npz").stat().st_size < 100_000
    with pytest.raises(InputInvalid, match="unpacks to more than 300 times its size"):
        model.predict(tmp_path / "packed.npz")
    with zipfile.ZipFile(tmp_path / "header.npz", "w") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40, 16, 2)}
        )
        archive.writestr("x.npy", header.getvalue())
    with pytest.raises(InputInvalid, match="another size than its header says"):
        model.predict(tmp_path / "header.npz")


def test_texts_are_answered_from_a_file(tmp_path: Path) -> None:
    arrays = texts(40)
    assert arrays.texts is not None
    (tmp_path / "train.txt").write_text(
        "".join(f"{y}\t{text}\n" for y, text in zip(["no", "yes"] * 20, arrays.texts, strict=True))
    )
    case, model = from_file(tmp_path / "train.txt", tmp_path / "model", {})
    (tmp_path / "asked.txt").write_text("".join(f"{text}\n" for text in arrays.texts))
    answers_alike(case, model, tmp_path / "asked.txt")
    answers_alike(case, model, {"text": arrays.texts.tolist()})
    answers_alike(case, model, arrays.texts.tolist())


def test_tags_have_the_times_of_their_steps(tmp_path: Path) -> None:
    columns = walks()
    columns["time"] = [START + timedelta(seconds=place) for place in range(len(columns["walk"]))]
    columns["activity"] = ["still" if (speed or 0) < 0.5 else "moves" for speed in columns["speed"]]
    schema = {"group": ["walk"], "order": "time", "target": ["activity"], "features": ["speed"]}
    path = written(columns, tmp_path / "walks.csv")
    case, model = from_file(path, tmp_path / "model", schema, data={"missing": "mean"})
    answer = answers_alike(case, model, without(columns, "activity"))
    assert isinstance(answer, Tags)
    rows = list(answer.rows())
    assert [row["time"] for row in rows] == columns["time"]
    assert [row["id"] for row in rows] == columns["walk"]
    assert answer.to_dict()["rows"][0]["time"] == "2024-01-01T00:00:00"


def loads(hours: int = 80, *, seed: int = 0) -> Columns:
    """The load of two places by the hour, with a wind that is known ahead of time."""
    rng = np.random.default_rng(seed)
    found: Columns = {name: [] for name in ("place", "time", "load", "wind")}
    for place in ("north", "south"):
        for hour in range(hours):
            found["place"].append(place)
            found["time"].append(START + timedelta(hours=hour))
            found["load"].append(float(5 + np.sin(hour / 4) + rng.normal(0, 0.1)))
            found["wind"].append(float(rng.normal()))
    return found


FORECAST = {"group": ["place"], "order": "time", "target": ["load"]}


@pytest.mark.parametrize("known", [True, False])
def test_a_forecast_goes_on_where_a_table_ends(tmp_path: Path, known: bool) -> None:
    schema = {**FORECAST, **({"known_future": ["wind"]} if known else {})}
    changes: dict[str, Any] = {"data": {"missing": "forward", "scaling_over": "per_sequence"}, **QUICK}
    path = written(loads(), tmp_path / "loads.csv")
    arrays = reading.read(path, Limits(max_bytes=1 << 30, plain_labels=False), schema)
    case = Trained.of_case(Case(lambda: arrays, changes), tmp_path / "model")
    model = load(case.folder)
    asked = loads(30, seed=1)
    columns = {name: list(values) for name, values in asked.items()}
    if known:
        columns["load"] = [None if place % 30 >= 27 else load for place, load in enumerate(columns["load"])]
    answer = model.predict(columns)
    names = [column.name for column in model.features]
    x = np.stack([asked[name] for name in names], axis=1).reshape(2, 30, len(names))
    end = 27 if known else 30
    future = x[:, 27:, [names.index("wind")]] if known else None
    last = START + timedelta(hours=end - 1)
    expected = model.predict(x[:, :end], future=future, ids=["north", "south"], end=[last, last])
    np.testing.assert_allclose(numbers(answer), numbers(expected), rtol=1e-5)
    assert isinstance(answer, Forecast)
    assert answer.times is not None
    assert answer.times[1] == [START + timedelta(hours=hour) for hour in range(end, end + 3)]
    assert [row["time"].hour for row in list(answer.rows())[:3]] == [hour % 24 for hour in range(end, end + 3)]
    assert answer.to_dict()["rows"][0]["time"] == (START + timedelta(hours=end)).isoformat()


def test_times_with_a_zone_are_answered_in_utc(tmp_path: Path) -> None:
    path = written(loads(), tmp_path / "loads.csv")
    arrays = reading.read(path, Limits(max_bytes=1 << 30, plain_labels=False), FORECAST)
    task = {"name": "forecast", "lookback": 5, "horizon": 3, "calendar": "none"}
    model = load(Trained.of_case(Case(lambda: arrays, {**QUICK, "task": task}), tmp_path / "model").folder)
    columns, east = loads(30, seed=1), timezone(timedelta(hours=2))
    zoned = {**columns, "time": [time.replace(tzinfo=east) for time in columns["time"]]}
    for same in (zoned, {**zoned, "time": [time.isoformat() for time in zoned["time"]]}):
        answer = model.predict(same)
        assert isinstance(answer, Forecast)
        assert answer.times is not None
        assert answer.times[1] == [START.replace(tzinfo=east) + timedelta(hours=hour) for hour in range(30, 33)]
        assert answer.to_dict()["rows"][0]["time"].endswith("+00:00")


def test_rows_that_a_series_lacks_are_added_as_in_training(tmp_path: Path) -> None:
    path = written(loads(), tmp_path / "loads.csv")
    arrays = reading.read(path, Limits(max_bytes=1 << 30, plain_labels=False), FORECAST)
    case = Trained.of_case(Case(lambda: arrays, {**QUICK, "data": {"missing": "forward"}}), tmp_path / "model")
    model = load(case.folder)
    columns = {name: values[:30] for name, values in loads(30, seed=1).items()}
    lacking = {name: values[:26] + values[27:] for name, values in columns.items()}
    empty = {**columns, **{name: [*columns[name][:26], None, *columns[name][27:]] for name in ("load", "wind")}}
    answer = model.predict(lacking)
    np.testing.assert_allclose(numbers(answer), numbers(model.predict(empty)), rtol=1e-6)
    assert answer.warnings == ("1 row that was missing between others has been added without values",)
    half = {**columns, "time": [*columns["time"][:-1], columns["time"][-1] + timedelta(minutes=7)]}
    with pytest.raises(InputInvalid, match="a forecast needs equal steps in time: the step of north"):
        model.predict(half)
    unknown = model.predict({**columns, "place": ["west"] * 30})
    assert unknown.warnings == ()


def test_a_series_of_months_goes_on_by_months(tmp_path: Path) -> None:
    columns = {
        "month": [f"{2000 + m // 12}-{m % 12 + 1:02d}-01" for m in range(90)],
        "sea": np.sin(np.arange(90)).tolist(),
    }
    path = written(columns, tmp_path / "sea.csv")
    schema = {"order": "month", "target": ["sea"]}
    arrays = reading.read(path, Limits(max_bytes=1 << 30, plain_labels=False), schema)
    model = load(Trained.of_case(Case(lambda: arrays, QUICK), tmp_path / "model").folder)
    answer = model.predict(path)
    assert isinstance(answer, Forecast)
    assert answer.times == ([datetime(2007, month, 1) for month in (7, 8, 9)],)
    assert answer.ids == ("0",)


def test_a_series_of_another_name_has_a_warning(trained_model: Callable[[str], Trained]) -> None:
    model = load(trained_model("quantiles").folder)
    x = hourly([20]).x[0]
    more = {"static": [[1.0, 1.0]], "future": np.zeros((1, 3, 1))}
    assert model.predict(x, ids=["a"], **more).warnings == ()
    assert model.predict(x, ids=["z"], **more).warnings == (
        "sequence z is not in training, and scaled as all of training together",
    )


def test_a_model_of_arrays_knows_no_columns(trained_model: Callable[[str], Trained]) -> None:
    with pytest.raises(InputInvalid, match="the model was trained on arrays without names"):
        load(trained_model("plain").folder).predict({"a": [1.0]})


def test_a_stored_data_set_is_answered_as_its_file(tmp_path: Path) -> None:
    columns = walks()
    _, model = from_file(
        written(columns, tmp_path / "walks.csv"),
        tmp_path / "model",
        {"target": ["activity"], "group": ["walk"], "order": "second"},
        data={"missing": "forward"},
    )
    new = walks(10, seed=5)
    new["mode"] = ["swim" if row % 7 == 0 else word for row, word in enumerate(new["mode"])]
    new["again"] = new["speed"]  # a column that the model does not read
    path = written(new, tmp_path / "new.csv")
    found = inspect(path, Schema(target=("activity",), group=("walk",), order="second"), tmp_path).sequences
    assert found is not None
    store.write(tmp_path / "new.data", found)
    by_file, by_store = model.predict(path), model.predict(tmp_path / "new.data")
    assert by_file.ids == by_store.ids
    np.testing.assert_array_equal(numbers(by_file), numbers(by_store))
    assert any("'swim'" in warning for warning in by_store.warnings)


def test_a_stored_data_set_without_a_column_of_the_model_is_refused(tmp_path: Path) -> None:
    schema = {"target": ["activity"], "group": ["walk"], "order": "second"}
    path = written(walks(), tmp_path / "walks.csv")
    _, model = from_file(path, tmp_path / "model", schema, data={"missing": "forward"})
    other = written(without(walks(10), "speed"), tmp_path / "new.csv")
    found = inspect(other, Schema(target=("activity",), group=("walk",), order="second"), tmp_path).sequences
    assert found is not None
    store.write(tmp_path / "new.data", found)
    with pytest.raises(InputInvalid, match="there is no column `speed`, which the model reads"):
        model.predict(tmp_path / "new.data")
