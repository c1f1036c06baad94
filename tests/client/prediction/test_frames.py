"""Tables of the real pandas and polars are answered as any other table. Neither is a dependency of the client."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow.parquet
import pytest
from loopline import InputInvalid, load
from loopline.frames import as_file
from loopline.prediction.loading import TrainedModel

from tests.client.prediction.cases import Trained, numbers
from tests.client.prediction.tables import from_file, walks, without, written

Walking = tuple[Trained, TrainedModel]
NUMBERS, WORDS = ("second", "speed", "weight"), ("walk", "mode")


def check(walking: Walking, *frames: Any) -> None:
    columns = without(walks(), "activity")
    wanted = walking[1].predict(columns)
    for frame in frames:
        found = walking[1].predict(frame)
        np.testing.assert_allclose(numbers(found), numbers(wanted), rtol=1e-5, atol=1e-6)
        assert (found.ids, found.warnings) == (wanted.ids, wanted.warnings)


def test_a_frame_of_pandas_is_a_table(walking: Walking) -> None:
    frame = pandas.DataFrame(without(walks(), "activity"))
    check(
        walking,
        *(frame, frame.convert_dtypes(), frame.convert_dtypes(dtype_backend="pyarrow"), frame.astype({"mode": object})),
        *(frame.astype(dict.fromkeys(WORDS, "category")), frame.assign(speed=frame["speed"].astype("float64"))),
        *(frame.set_index("walk"), frame.set_index(["walk", "second"]), frame.sample(frac=1, random_state=1)),
        *(frame.assign(extra=pandas.Timestamp("2024-01-01")), frame.rename_axis("row")),
    )
    answer = walking[1].predict(frame)
    shown = answer.to_pandas()
    assert list(shown.columns) == list(answer.to_arrow().column_names)
    assert shown["label"].tolist() == [row["label"] for row in answer.rows()]
    for wrong, sentence in (
        (frame.drop(columns="speed"), "there is no column `speed`"),
        (frame.assign(speed="fast"), "`speed` has words"),
        (frame.assign(speed=[object()] * len(frame)), "this is no table"),
        (frame.iloc[:0], "the file has no row"),
        (frame["speed"], "give"),
    ):
        with pytest.raises(InputInvalid, match=sentence):
            walking[1].predict(wrong)


def test_a_frame_of_polars_is_a_table(walking: Walking) -> None:
    frame = polars.DataFrame(without(walks(), "activity"))
    words = polars.Enum(["flat", "stairs", "up"])
    check(
        walking,
        *(frame, frame.with_columns(polars.col("mode").cast(polars.Categorical)), frame.rechunk()),
        *(frame.with_columns(polars.col("mode").cast(words)), frame.sample(fraction=1.0, shuffle=True, seed=1)),
        *(frame.with_columns(polars.col("speed").fill_null(float("nan"))), polars.concat([frame[:9], frame[9:]])),
    )
    for wrong, sentence in (
        (frame.drop("speed"), "there is no column `speed`"),
        (frame.with_columns(speed=polars.lit("fast")), "`speed` has words"),
        (frame[:0], "the file has no row"),
        (frame["speed"], "give"),
        (frame.lazy(), "give"),
    ):
        with pytest.raises(InputInvalid, match=sentence):
            walking[1].predict(wrong)


def test_frames_of_numbers_and_series_are_no_arrays_by_accident(trained_model: Callable[[str], Trained]) -> None:
    """A model of arrays knows no columns."""
    model = load(trained_model("plain").folder)
    x = np.arange(12.0).reshape(4, 3)
    with pytest.raises(InputInvalid, match="it cannot find its columns: give arrays"):
        model.predict(pandas.DataFrame(x, columns=list("abc")))
    np.testing.assert_allclose(
        numbers(model.predict([pandas.DataFrame(x, columns=list("abc"))])), numbers(model.predict(x))
    )


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_with_categories_is_uploaded(library: str, tmp_path: Path) -> None:
    frames = importlib.import_module(library)
    frame = frames.DataFrame(walks())
    made = {
        "pandas": lambda: frame.astype({"mode": "category"}),
        "polars": lambda: frame.with_columns(frames.col("mode").cast(frames.Categorical)),
    }
    read = pyarrow.parquet.read_table(as_file(made[library](), tmp_path))
    assert read.column("mode").to_pylist() == walks()["mode"]
    assert read.column_names == list(walks())


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_forecast_goes_on_in_the_times_of_a_frame(library: str, tmp_path: Path) -> None:
    frames = importlib.import_module(library)
    hours = [datetime(2024, 1, 1) + timedelta(hours=hour) for hour in range(60)]
    columns = {"time": hours, "load": np.sin(np.arange(60) / 4).tolist()}
    schema = {"order": "time", "target": ["load"]}
    changes = {"task": {"name": "forecast", "lookback": 5, "horizon": 3}}
    _, model = from_file(written(columns, tmp_path / "loads.csv"), tmp_path / "model", schema, **changes)
    wanted = model.predict(columns)
    for zone in (None, UTC):
        times = [each.replace(tzinfo=zone) for each in hours]
        found = model.predict(frames.DataFrame({**columns, "time": times}))
        np.testing.assert_allclose(numbers(found), numbers(wanted), rtol=1e-6)
        assert [row["time"] for row in found.rows()] == [row["time"].replace(tzinfo=zone) for row in wanted.rows()]
