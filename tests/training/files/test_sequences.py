"""What the files of people become in training: the same arrays as an `.npz` of the same data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from loopline.files.schema import Schema
from loopline.files.sequences import Column, Sequences
from numpy.typing import NDArray

from services.errors import DatasetInvalid
from services.training.data import prepare
from services.training.files import npz, sequences, suspicions
from services.training.files import series as files_series
from services.training.files.npz import Arrays
from services.training.loop import Run
from tests.training.building import (
    as_sequences,
    classes,
    of_many_lengths,
    same,
    spec_for,
    tagged,
    timeless,
    trained,
    values,
    weights_of,
)

DATA = {
    "classes": classes(),
    "classes of many lengths": of_many_lengths(classes()),
    "values": values(),
    "one value": values(columns=1),
    "tags": tagged(),
    "words": of_many_lengths(Arrays(**(vars(classes()) | {"y": np.array(["a", "b", "c"])[classes().y]}))),
}


@pytest.mark.parametrize("name", DATA)
def test_a_model_of_a_file_is_that_of_the_npz_bit_for_bit(name: str) -> None:
    arrays = DATA[name]
    found = sequences.arrays(as_sequences(arrays))
    spec = spec_for(arrays, data={"scaling": "standard"})
    runs = [Run(spec, prepare(each, spec)) for each in (arrays, found)]
    assert timeless(trained(runs[0])) == timeless(trained(runs[1]))
    assert same(weights_of(runs[0]), weights_of(runs[1]))
    assert npz.summarise(found).model_copy(update={"inputs": None, "series": None}) == npz.summarise(arrays)


def test_what_sequences_have_besides_goes_along_and_is_chosen_with_them() -> None:
    arrays = of_many_lengths(classes(6))
    steps = int(arrays.lengths.sum())
    extra = {
        "static": np.arange(12.0).reshape(6, 2),
        "static_columns": (Column("age"), Column("sex", "category", ("f", "m"))),
        "weights": np.arange(1.0, 7.0),
        "split": np.array([0, 0, 0, 0, 1, 2], np.int8),
        "ids": np.array(list("abcdef")),
        "times": np.arange(steps),
        "time_kind": "time",
    }
    found = sequences.arrays(as_sequences(arrays, **extra)).chosen(np.array([4, 1]))
    assert found.static is not None
    assert found.weights is not None
    assert found.groups is not None
    assert found.ends is not None
    assert found.split is not None
    assert len(found) == 2
    assert found.static.tolist() == [[8.0, 9.0], [2.0, 3.0]]
    assert found.weights.tolist() == [5.0, 2.0]
    assert (found.groups.tolist(), found.split.tolist()) == (["e", "b"], [1, 0])
    assert found.ends.tolist() == (np.cumsum(arrays.lengths) - 1)[[4, 1]].tolist()
    assert [column.name for column in found.columns] == ["f0", "f1", "f2"]
    assert [column.name for column in arrays.columns] == ["0", "1", "2"]


def test_sequences_of_one_length_are_not_copied() -> None:
    given = as_sequences(classes())
    assert np.shares_memory(sequences.arrays(given).x, given.x)


def test_yes_or_no_labels_are_labels() -> None:
    y = (np.arange(48).reshape(24, 2) % 2).astype(np.int8)
    found = sequences.arrays(as_sequences(classes(), y=y, targets="multilabel", classes=None))
    assert npz.summarise(found).target == "multilabel"


def test_what_no_task_can_be_trained_on_is_refused_with_a_sentence() -> None:
    with pytest.raises(DatasetInvalid, match="nothing to predict"):
        sequences.arrays(as_sequences(classes(), y=None, targets=None))


def test_texts_are_counted_by_both_ways_to_read_them() -> None:
    texts = ("one two, three", "", "e\u0301te\u0301") * 8
    found = sequences.arrays(as_sequences(classes(features=0), texts=texts))
    summary = npz.summarise(found)
    assert (summary.samples, summary.features, summary.min_length, summary.max_length) == (24, 1, 1, 14)
    assert summary.texts is not None
    assert summary.texts.model_dump() == {
        "characters": 8 * (14 + 1 + 3),
        "words": 8 * (4 + 1 + 1),
        "longest_in_words": 4,
        "shortest_in_words": 1,
        "median_in_words": 1,
    }


STEPS = 10
HOURS = np.arange(STEPS) * 3_600_000_000_000


def series(**more: Any) -> Sequences:
    """An hourly load and a temperature."""
    x = np.arange(2.0 * STEPS, dtype=np.float32).reshape(STEPS, 2)
    given: dict[str, Any] = {
        "x": x,
        "lengths": np.array([STEPS]),
        "features": (Column("load"), Column("heat")),
        "schema": Schema(order="hour", target=("load",), known_future=("heat",)),
        "times": HOURS,
        "time_kind": "time",
    }
    return Sequences(**(given | more))


def test_a_series_whose_target_is_a_feature_needs_no_y() -> None:
    found = npz.summarise(sequences.arrays(series()))
    assert (found.target, found.target_dim, found.features) == ("series", 0, 2)
    assert found.series is not None
    assert (found.series.targets, found.series.known_future, found.series.columns) == (["load"], ["heat"], 2)
    assert (found.series.step, found.series.seasons, found.series.irregular) == ("1 hour", [24, 168], None)
    assert suspicions.of(sequences.arrays(series())) == []


def test_values_of_steps_become_features_of_a_series() -> None:
    steps = np.linspace(0.1, 7.0, STEPS)[:, None]
    schema = Schema(order="hour", target=("load",))
    given = series(
        y=steps, targets="step_values", target_names=("load",), features=(Column("a"), Column("b")), schema=schema
    )
    arrays = sequences.arrays(given)
    assert arrays.x.dtype == np.float32
    assert arrays.x[0, :, 2].tolist() == steps[:, 0].astype(np.float32).tolist()
    assert [column.name for column in arrays.columns] == ["a", "b", "load"]
    found = npz.summarise(arrays)
    assert found.series is not None
    assert found.series.targets == ["load"]


def test_a_series_of_nothing_but_its_target_is_one() -> None:
    given = series(
        x=np.empty((STEPS, 0), np.float32),
        features=(),
        y=np.arange(STEPS)[:, None] * 1.5,
        targets="step_values",
        target_names=("load",),
        schema=Schema(order="hour", target=("load",)),
    )
    arrays = sequences.arrays(given)
    assert arrays.x.shape == (1, STEPS, 1)
    assert npz.summarise(arrays).bytes == 4 * STEPS


def test_whole_numbers_of_steps_are_tags_and_a_series() -> None:
    given = series(
        y=np.arange(STEPS) % 3,
        classes=(2, 5, 9),
        targets="tags",
        target_names=("count",),
        schema=Schema(order="hour", target=("count",)),
    )
    arrays = sequences.arrays(given)
    found = npz.summarise(arrays)
    assert found.target == "tags"
    assert found.series is not None
    assert (found.series.targets, found.series.columns) == (["count"], 3)
    read = files_series.read(arrays)
    assert read.values[0, :3, read.targets[0]].tolist() == [2.0, 5.0, 9.0]


@pytest.mark.parametrize(
    ("times", "step", "seasons", "irregular"),
    [
        (HOURS * 24, "1 day", [7], None),
        (HOURS // 4, "15 minutes", [96, 672], None),
        (np.arange("2020-01", "2020-11", dtype="datetime64[M]"), "1 month", [12], None),
        (np.arange("2020-01", "2022-07", 3, dtype="datetime64[M]"), "3 months", [4], None),
        (HOURS * 24 * 7, "1 week", [52], None),
        (np.delete(np.append(HOURS, HOURS[-1] * 10 // 9), 4), "1 hour", [24, 168], "from 1970-01-01 03:00:00 to"),
        (np.arange(STEPS) * 0.1, "0.1", [], None),
        (np.append(np.arange(STEPS - 1.0), 20.0), "1", [], "from 8 to 20 is 12, and most are 1"),
    ],
)
def test_the_time_between_two_steps_tells_seasons_and_gaps(
    times: NDArray[Any], step: str, seasons: list[int], irregular: str | None
) -> None:
    times = times.astype("datetime64[ns]").astype(np.int64) if times.dtype.kind == "M" else times
    found = npz.summarise(sequences.arrays(series(times=times))).series
    assert found is not None
    assert (found.step, found.seasons) == (step, seasons)
    assert (found.irregular is None) if irregular is None else (irregular in (found.irregular or ""))


def test_padding_is_no_gap_in_the_time_of_a_series() -> None:
    times = np.concatenate((HOURS[:6], HOURS[:4]))
    found = npz.summarise(sequences.arrays(series(lengths=np.array([6, 4]), times=times))).series
    assert found is not None
    assert found.irregular is None


def test_a_series_without_a_target_is_one_if_its_only_number_can_be_it() -> None:
    one = series(x=np.zeros((STEPS, 1), np.float32), features=(Column("load"),), schema=Schema(order="hour"))
    two = series(schema=Schema(order="hour"))
    for given, targets in ((one, ["load"]), (two, [])):
        found = npz.summarise(sequences.arrays(given)).series
        assert found is not None
        assert found.targets == targets
