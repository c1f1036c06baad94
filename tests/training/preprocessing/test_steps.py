"""Each step of the preprocessing beside the same in plain numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from loopline.files.sequences import Column
from loopline.preprocessing.fitted import Choices, Preprocessing
from numpy.typing import NDArray

from services.errors import DatasetInvalid
from services.training.data import Prepared, prepare
from services.training.files.npz import Arrays
from services.training.preprocessing.fitting import fit
from tests.training.building import classes, mixed, spec_for, tagged

NAN = np.nan
WORDS = Column("mode", "category", ("off", "on", "wait"))


def read(
    x: list[list[Any]], *, columns: tuple[Column, ...] | None = None, scaling: str = "none", **choices: Any
) -> list[NDArray[np.float32]]:
    """What the network reads of sequences, each a list of steps, all of which are trained on: (steps, channels)."""
    lengths = np.array([len(sequence) for sequence in x])
    width = len(x[0][0])
    padded = np.zeros((len(x), lengths.max(), width), np.float32)
    for row, sequence in enumerate(x):
        padded[row, : len(sequence)] = sequence
    columns = columns or tuple(Column(f"f{place}") for place in range(width))
    fitted = fit(padded, lengths, columns, Choices(**choices), scaling)
    found, steps = fitted.applied(padded, lengths, columns)
    assert found.shape[2] == fitted.channels
    assert not found[np.arange(found.shape[1]) >= steps[:, None]].any(), "padding is zero"
    return [sequence[:count] for sequence, count in zip(found, steps, strict=True)]


def column(values: list[float]) -> list[list[float]]:
    return [[value] for value in values]


def numbers(found: NDArray[np.float32], place: int = 0) -> list[float]:
    return [round(float(value), 5) for value in found[:, place]]


def test_the_end_or_the_start_of_long_sequences_is_cut() -> None:
    x = [column([1, 2, 3, 4, 5]), column([6, 7])]
    kept = [numbers(each) for each in read(x, max_length=3)]
    assert kept == [[1, 2, 3], [6, 7]]
    kept = [numbers(each) for each in read(x, max_length=3, cut="start")]
    assert kept == [[3, 4, 5], [6, 7]]


def test_every_nth_step_of_what_is_left_is_read() -> None:
    x = [column([1, 2, 3, 4, 5]), column([6, 7])]
    assert [numbers(each) for each in read(x, stride=2)] == [[1, 3, 5], [6]]
    assert [numbers(each) for each in read(x, stride=3, max_length=4, cut="start")] == [[2, 5], [6]]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("mean", [4.0, 4.0, 2.0, 4.0, 4.0, 8.0, 4.0]),
        ("forward", [4.0, 4.0, 2.0, 2.0, 2.0, 8.0, 8.0]),
        ("linear", [2.0, 2.0, 2.0, 4.0, 6.0, 8.0, 8.0]),
    ],
)
def test_gaps_are_filled(method: str, expected: list[float]) -> None:
    """The mean of what is there is (2 + 8 + 2) / 3."""
    gappy = column([NAN, NAN, 2.0, NAN, NAN, 8.0, NAN])
    found = read([gappy, column([2.0]), column([NAN, NAN])], missing=method)
    assert numbers(found[0]) == expected
    assert numbers(found[2]) == [4.0, 4.0]


def test_a_line_between_neighbours_is_that_of_numpy() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 9, 2))
    x[rng.random(x.shape) < 0.4] = NAN
    x[:, 3] = 1.0
    found = read(x.tolist(), missing="linear")
    steps = np.arange(9)
    for row, sequence in enumerate(x):
        for place in range(2):
            there = ~np.isnan(sequence[:, place])
            line = np.interp(steps, steps[there], sequence[there, place])
            np.testing.assert_allclose(found[row][:, place], line, atol=1e-6)


def test_a_gap_in_words_gets_the_commonest_word_or_the_one_before() -> None:
    x = [column([NAN, 2, NAN, 0]), column([2, 2])]
    for method, expected in (("mean", [2, 2, 2, 0]), ("forward", [2, 2, 2, 0]), ("linear", [2, 2, 2, 0])):
        found = read(x, columns=(WORDS,), missing=method)
        assert (found[0] == np.eye(2)[[1 if code == 2 else 0 for code in expected]]).all()
    assert found[0].shape == (4, 2), "the word `on` never occurs"


def test_a_mask_says_where_a_value_was_missing_of_features_that_have_gaps() -> None:
    x = [[[1.0, NAN], [2.0, 5.0]], [[3.0, 5.0], [4.0, NAN]]]
    found = read(x, missing="mean", missing_mask=True)
    assert found[0].tolist() == [[1.0, 5.0, 1.0], [2.0, 5.0, 0.0]]
    assert found[1].tolist() == [[3.0, 5.0, 0.0], [4.0, 5.0, 1.0]]


def test_differences_are_appended_or_stand_for_the_numbers() -> None:
    x = [[[1.0, 0], [4.0, 1], [2.0, 2]]]
    columns = (Column("load"), WORDS)
    appended = read(x, columns=columns, differences="append")[0]
    assert appended.tolist() == [[1, 0, 1, 0, 0], [4, 3, 0, 1, 0], [2, -2, 0, 0, 1]]
    assert read(x, columns=columns, differences="replace")[0][:, 0].tolist() == [0, 3, -2]


def test_differences_are_taken_before_float64_is_cast() -> None:
    x = 1.7e12 + np.arange(12.0).reshape(2, 6, 1)
    lengths = np.full(2, 6)
    fitted = fit(x, lengths, (Column("at"),), Choices(differences="replace"), "none")
    found, _ = fitted.applied(x, lengths, (Column("at"),))
    assert found[:, :, 0].tolist() == [[0, 1, 1, 1, 1, 1]] * 2


@pytest.mark.parametrize("over", ["train", "per_sequence"])
@pytest.mark.parametrize("name", ["standard", "minmax", "robust"])
def test_numbers_are_scaled_over_the_split_or_each_sequence_by_itself(name: str, over: str) -> None:
    rng = np.random.default_rng(1)
    x = [rng.normal(30.0, 4.0, (length, 3)) for length in (9, 4, 7, 1)]
    for sequence in x:
        sequence[:, 2] = 7.0  # constant
    found = read([sequence.tolist() for sequence in x], scaling=name, scaling_over=over)
    for sequence, got in zip(x, found, strict=True):
        fitted_on = sequence if over == "per_sequence" else np.concatenate(x)
        if name == "standard":
            shift, scale = fitted_on.mean(axis=0), fitted_on.std(axis=0)
        elif name == "minmax":
            shift, scale = fitted_on.min(axis=0), np.ptp(fitted_on, axis=0)
        else:
            low, shift, high = np.quantile(fitted_on, (0.25, 0.5, 0.75), axis=0)
            scale = high - low
        scale = np.where(scale > 1e-12, scale, 1.0)
        np.testing.assert_allclose(got, (sequence - shift) / scale, atol=2e-5)


def test_words_are_read_as_channels_or_as_numbers_to_look_up() -> None:
    x = [[[2, 1.5], [0, 2.5]], [[0, 3.5]]]
    columns = (WORDS, Column("load"))
    found = read(x, columns=columns)
    assert found[0].tolist() == [[1.5, 0, 1], [2.5, 1, 0]]
    assert read(x, columns=columns, categories="embedding")[0].tolist() == [[1.5, 2], [2.5, 1]]


def test_several_steps_become_one_and_the_last_is_filled_up() -> None:
    x = [[[1, 2], [3, 4], [5, 6]], [[7, 8]]]
    found = read(x, patch=2)
    assert found[0].tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]
    assert found[1].tolist() == [[7, 8, 0, 0]]


def test_a_word_that_training_does_not_have_is_zeros_whatever_its_number() -> None:
    """The words of another version of the data set have other numbers."""
    x, lengths = np.array([[[0.0], [1.0]]], np.float32), np.array([2])
    was, now = Column("mode", "category", ("off", "on")), Column("mode", "category", ("auto", "off", "on"))
    for categories, expected in (("one_hot", [[0, 0], [1, 0], [0, 1]]), ("embedding", [[0], [1], [2]])):
        fitted = fit(x, lengths, (was,), Choices(categories=categories), "none")
        found, _ = fitted.applied(np.array([[[0.0], [1.0], [2.0]]], np.float32), np.array([3]), (now,))
        assert found[0].tolist() == expected


def prepared(arrays: Arrays, **data: Any) -> Prepared:
    return prepare(arrays, spec_for(arrays, data={"split": {"validation": 0.25, "test": 0.25}, **data}))


def test_everything_at_once_is_the_steps_one_after_the_other() -> None:
    data = {"missing": "forward", "missing_mask": True, "differences": "append", "scaling": "standard", "stride": 2}
    once = prepared(mixed(), **data)
    patched = prepared(mixed(), patch=2, max_length=6, **data)
    assert once.train.static is not None
    assert patched.train.static is not None
    assert (once.train.static == patched.train.static).all()
    cut = prepared(mixed(), max_length=6, **data)
    channels = cut.train.x.shape[2]
    assert patched.input_size == 2 * channels
    width = patched.train.x.shape[1] * 2
    unfolded = patched.train.x.reshape(len(patched.train), width, channels)[:, : cut.train.x.shape[1]]
    assert (unfolded == cut.train.x).all()


def test_static_values_are_prepared_like_steps() -> None:
    found = prepared(mixed(), missing="linear", missing_mask=True, scaling="standard", categories="embedding")
    static = found.preprocessing.static
    assert static is not None
    assert found.train.static is not None
    rows, columns = found.rows["train"], mixed().static
    assert columns is not None
    age = columns[rows, 0]
    filled = np.where(np.isnan(age), np.nanmean(age), age)
    np.testing.assert_allclose(found.train.static[:, 0], (filled - filled.mean()) / filled.std(), atol=1e-5)
    sex = columns[rows, 1]
    known = ~np.isnan(sex)
    assert (found.train.static[known, 1:3].numpy() == np.eye(2)[sex[known].astype(int)]).all()
    masks = [np.isnan(each) for each in (age, sex) if np.isnan(each).any()]
    assert found.train.static.shape[1] == 3 + len(masks)
    assert (found.train.static[:, 3:].numpy() == np.stack(masks, axis=1)).all()


def test_missing_values_are_refused_by_name_unless_said() -> None:
    arrays = replace(mixed(), groups=np.array([f"walk {row}" for row in range(24)]))
    spec = spec_for(arrays, data={"missing": "drop"})
    refusing = spec.model_copy(update={"data": spec.data.model_copy(update={"missing": "refuse"})})
    with pytest.raises(DatasetInvalid, match=r"values are missing \(pulse, load.* in walk 0, .* set data.missing to"):
        prepare(arrays, refusing)


def test_gaps_in_steps_that_are_not_read_are_none() -> None:
    arrays = classes()
    arrays.x[3, 5] = NAN
    for data in ({"max_length": 5}, {"stride": 2}):
        assert prepared(arrays, **data).left_out == {"train": 0, "validation": 0, "test": 0}


def test_sequences_with_gaps_are_left_out_and_counted() -> None:
    arrays = classes(40)
    plain = prepared(arrays)
    gone = np.concatenate([rows[:2] for rows in plain.rows.values()])
    arrays.x[gone, 1, 0] = NAN
    found = prepared(arrays, missing="drop")
    assert found.left_out == {"train": 2, "validation": 2, "test": 2}
    for name, rows in found.rows.items():
        assert rows.tolist() == plain.rows[name][2:].tolist()
    assert len(found.train) == len(plain.train) - 2
    assert found.train.x.isfinite().all()


def test_a_part_of_which_nothing_is_left_is_refused() -> None:
    arrays = classes(40)
    arrays.x[prepared(arrays).rows["test"], 0, 0] = NAN
    with pytest.raises(DatasetInvalid, match="drop leaves nothing of the test split"):
        prepared(arrays, missing="drop")


def test_what_was_fitted_is_read_from_a_document_as_it_was() -> None:
    for data in ({}, {"categories": "embedding", "missing_mask": True, "scaling_over": "per_sequence"}):
        found = prepared(mixed(), **{"missing": "mean", "scaling": "robust", **data}).preprocessing
        card = {"scaling": found.scaling.document(), "preprocessing": found.document()}
        assert Preprocessing.read(card) == found
    plain = prepared(classes(), scaling="standard").preprocessing
    assert Preprocessing.read({"scaling": plain.scaling.document(), "input_size": 3}) == plain


def test_tags_take_what_keeps_their_steps() -> None:
    arrays = tagged()
    arrays.x[0, 1, 0] = NAN
    found = prepared(arrays, missing="forward", differences="append", scaling="standard", scaling_over="per_sequence")
    assert found.input_size == 4
    assert len(found.train.y) == found.train.steps.sum()
