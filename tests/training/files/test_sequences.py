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
from services.training.files import npz, sequences
from services.training.files.npz import Arrays
from services.training.loop import Run
from tests.training.building import (
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


def flat(arrays: Arrays, values: NDArray[Any]) -> NDArray[Any]:
    """The valid steps, one sequence after the other."""
    return values[np.arange(values.shape[1]) < arrays.lengths[:, None]]


def as_sequences(arrays: Arrays, **more: Any) -> Sequences:
    """What a file with these data would become."""
    y, kinds = arrays.y, None
    target = "values"
    if arrays.y.dtype.kind in "iU":
        labels = flat(arrays, y)[:, 0] if y.ndim == 3 else y
        target = "tags" if y.ndim == 3 else "classes"
        kinds, y = np.unique(labels, return_inverse=True)
    elif y.ndim == 1:
        y = y[:, None]
    names = tuple(Column(f"f{number}") for number in range(arrays.x.shape[2]))
    found = None if kinds is None else tuple(kinds.tolist())
    given = {"features": names, "schema": Schema(), "y": y, "targets": target, "classes": found}
    return Sequences(flat(arrays, arrays.x), arrays.lengths, **(given | more))


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
    assert npz.summarise(found).model_copy(update={"inputs": None}) == npz.summarise(arrays)


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


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"y": None, "targets": None}, "nothing to predict"),
        ({"y": np.zeros((24 * 6, 1)), "targets": "step_values"}, "values to predict at each step"),
        ({"texts": ("a",) * 24}, "holds texts"),
    ],
)
def test_what_no_task_can_be_trained_on_is_refused_with_a_sentence(more: dict[str, Any], told: str) -> None:
    with pytest.raises(DatasetInvalid, match=told):
        sequences.arrays(as_sequences(classes(), **more))
