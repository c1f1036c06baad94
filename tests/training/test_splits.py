"""Which samples are for training, for validation and for the test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.errors import DatasetInvalid
from services.training.data import prepare
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.spec.fields import Split
from services.training.spec.rules import counts_of_split
from services.training.splits import split_rows
from tests.training.building import classes, of_many_lengths, spec_for, values


def unequal(samples: int = 100, split: NDArray[np.int8] | None = None) -> Arrays:
    """Three classes: six tenths, three tenths, one tenth."""
    y = np.repeat([0, 1, 2], [samples * 6 // 10, samples * 3 // 10, samples - samples * 9 // 10])
    y = np.random.default_rng(0).permutation(y).astype(np.int64)
    x = np.arange(samples, dtype=np.float32)[:, None, None] * np.ones((1, 2, 1), np.float32)
    return Arrays(x=x, lengths=np.full(samples, 2, np.int64), y=y, split=split)


def test_fractions_are_of_all_samples_and_no_sample_is_in_two_parts() -> None:
    rows = split_rows(unequal(), Split(validation=0.2, test=0.1))
    assert {name: len(chosen) for name, chosen in rows.items()} == {"train": 70, "validation": 20, "test": 10}
    assert sorted(np.concatenate(list(rows.values()))) == list(range(100))
    assert all((np.diff(chosen) > 0).all() for chosen in rows.values())


def test_a_fifth_is_for_validation_and_nothing_for_the_test_unless_said() -> None:
    rows = split_rows(unequal(), Split())
    assert {name: len(chosen) for name, chosen in rows.items()} == {"train": 80, "validation": 20, "test": 0}


def test_a_stratified_split_holds_every_class_in_proportion() -> None:
    arrays = unequal()
    rows = split_rows(arrays, Split(validation=0.2, test=0.1))
    counts = {name: np.bincount(arrays.y[chosen], minlength=3).tolist() for name, chosen in rows.items()}
    assert counts == {"train": [42, 21, 7], "validation": [12, 6, 2], "test": [6, 3, 1]}


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=2, max_size=6),
    validation=st.floats(0, 0.6),
    test=st.floats(0, 0.35),
    seed=st.integers(0, 5),
)
def test_however_rare_a_class_is_some_of_it_is_trained_on(
    counts: list[int], validation: float, test: float, seed: int
) -> None:
    y = np.repeat(np.arange(len(counts)), counts)
    arrays = Arrays(x=np.zeros((len(y), 1, 1), np.float32), lengths=np.ones(len(y), np.int64), y=y)
    try:
        rows = split_rows(arrays, Split(validation=validation, test=test, seed=seed))
    except DatasetInvalid:
        assert len(y) - len(counts) < (validation > 0) + test * len(y) + 1, "there were samples to spare"
        return
    assert set(y[rows["train"]]) == set(y)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(len(y)))
    assert len(rows["validation"]) <= validation * len(y) + 1
    assert len(rows["test"]) <= test * len(y) + 1
    assert (len(rows["validation"]) > 0, len(rows["test"]) > 0) == (validation > 0, test > 0)


def test_a_fraction_of_less_than_a_sample_takes_one() -> None:
    for arrays in (classes(20), values(samples=20)):
        for stratify in (True, False):
            rows = split_rows(arrays, Split(validation=0.02, test=0.02, stratify=stratify))
            assert {name: len(chosen) for name, chosen in rows.items()} == {"train": 18, "validation": 1, "test": 1}


def test_the_one_sample_of_a_class_is_trained_on_and_the_others_are_divided() -> None:
    arrays = classes(11, kinds=2)
    arrays.y[:] = 0
    arrays.y[4] = 1
    rows = split_rows(arrays, Split(validation=0.01, test=0.2))
    assert [len(rows[name]) for name in ("train", "validation", "test")] == [8, 1, 2]
    assert 4 in rows["train"]


def test_what_is_told_of_a_split_before_is_what_is_drawn() -> None:
    for samples in range(6, 60, 7):
        arrays = classes(samples)
        for validation, test in ((0.2, 0.0), (0.01, 0.3), (0.33, 0.01), (0.0, 0.5)):
            for stratify in (True, False):
                split = {"validation": validation, "test": test, "stratify": stratify}
                drawn = split_rows(arrays, Split.model_validate(split))
                spec = spec_for(arrays, data={"split": split})
                told = counts_of_split(spec, npz.summarise(arrays))
                assert told == {name: len(chosen) for name, chosen in drawn.items()}


def test_a_split_that_is_not_stratified_has_exact_sizes_all_the_same() -> None:
    arrays = unequal()
    rows = split_rows(arrays, Split(validation=0.25, stratify=False))
    assert len(rows["validation"]) == 25
    stratified = split_rows(arrays, Split(validation=0.25))
    assert rows["validation"].tolist() != stratified["validation"].tolist()


def test_values_are_split_by_fraction_alone() -> None:
    rows = split_rows(values(samples=40), Split(validation=0.25, test=0.25))
    assert [len(rows[name]) for name in ("train", "validation", "test")] == [20, 10, 10]


def test_words_are_stratified_like_numbers() -> None:
    arrays = unequal()
    words = Arrays(x=arrays.x, lengths=arrays.lengths, y=np.array(["a", "b", "c"])[arrays.y])
    assert split_rows(words, Split())["validation"].tolist() == split_rows(arrays, Split())["validation"].tolist()


def test_the_split_depends_on_its_own_seed_and_on_no_other() -> None:
    arrays = classes(40)
    first = prepare(arrays, spec_for(arrays, training={"seed": 1}))
    second = prepare(arrays, spec_for(arrays, training={"seed": 2, "epochs": 9}, architecture={"hidden_size": 9}))
    third = prepare(arrays, spec_for(arrays, data={"split": {"seed": 1}}))
    assert first.validation is not None
    assert second.validation is not None
    assert third.validation is not None
    assert torch.equal(first.train.x, second.train.x)
    assert torch.equal(first.validation.x, second.validation.x)
    assert not torch.equal(first.validation.x, third.validation.x)


def test_a_zero_that_is_said_trains_on_everything() -> None:
    given_split = np.repeat(np.array([0, 1, 2], np.int8), [50, 25, 25])
    for arrays in (unequal(), unequal(split=given_split)):
        rows = split_rows(arrays, Split(validation=0.0, test=0.0))
        assert rows["train"].tolist() == list(range(100))
        assert len(rows["validation"]) == len(rows["test"]) == 0


def test_the_data_sets_own_split_is_taken_unless_a_fraction_is_said() -> None:
    arrays = unequal(split=np.repeat(np.array([0, 1, 2], np.int8), [50, 20, 30]))
    for split in (Split(), Split(validation="given", test="given")):
        rows = split_rows(arrays, split)
        assert rows["train"].tolist() == list(range(50))
        assert rows["validation"].tolist() == list(range(50, 70))
        assert rows["test"].tolist() == list(range(70, 100))


def test_a_fraction_beside_a_given_part_is_drawn_from_what_is_left() -> None:
    arrays = unequal(split=np.repeat(np.array([0, 2], np.int8), [40, 60]))
    rows = split_rows(arrays, Split(validation=0.25))
    assert rows["test"].tolist() == list(range(40, 100))
    assert len(rows["validation"]) == 10
    assert rows["validation"].max() < 40


def test_a_split_that_leaves_no_training_samples_is_refused() -> None:
    arrays = unequal(split=np.full(100, 2, np.int8))
    with pytest.raises(DatasetInvalid, match="nothing to train on") as caught:
        split_rows(arrays, Split(test="given"))
    told = "leaves nothing to train on: of the 100 samples 0 are for validation and 100 for the test"
    assert caught.value.problems[0].detail == told


def test_a_label_that_is_judged_by_but_not_trained_on_is_named_with_its_rows() -> None:
    arrays = classes(samples=12, kinds=2)
    arrays.y[:] = 0
    arrays.y[[3, 7]] = 5
    marked = replace(arrays, split=np.isin(np.arange(12), [3, 7]).astype(np.int8))
    with pytest.raises(DatasetInvalid, match="labels 5 of rows 3, 7 are in no training row"):
        prepare(marked, spec_for(marked, data={"split": {"validation": "given"}}))


BY_CONTENT = Split(validation=0.2, test=0.3, method="content")


def test_by_content_a_sample_stays_in_its_part_when_others_come_and_go() -> None:
    arrays = of_many_lengths(classes(400))
    parts = split_rows(arrays, BY_CONTENT)
    kept = np.random.default_rng(1).permutation(400)[:250]
    fewer = Arrays(x=arrays.x[kept], lengths=arrays.lengths[kept], y=arrays.y[kept])
    for name, rows in split_rows(fewer, BY_CONTENT).items():
        assert set(kept[rows]) == set(parts[name]) & set(kept)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(400))
    assert [len(parts[name]) for name in ("train", "validation", "test")] == pytest.approx([200, 80, 120], abs=35)


def test_by_content_padding_counts_for_nothing_and_copies_stay_together() -> None:
    arrays = of_many_lengths(classes(200))
    wider = np.concatenate([arrays.x, np.full((200, 4, 3), 7.0, np.float32)], axis=1)
    doubled = Arrays(
        x=np.concatenate([wider, wider]), lengths=np.tile(arrays.lengths, 2), y=np.concatenate([arrays.y, 0 * arrays.y])
    )
    once, twice = split_rows(arrays, BY_CONTENT), split_rows(doubled, BY_CONTENT)
    for name in once:
        assert twice[name].tolist() == [*once[name], *(once[name] + 200)]


def test_by_content_another_seed_draws_other_parts_and_a_given_part_stays() -> None:
    arrays = classes(200)
    first = split_rows(arrays, BY_CONTENT)
    other = split_rows(arrays, BY_CONTENT.model_copy(update={"seed": 1}))
    assert first["test"].tolist() != other["test"].tolist()
    marked = replace(arrays, split=(np.arange(200) < 50).astype(np.int8) * 2)
    rows = split_rows(marked, Split(validation=0.2, test="given", method="content"))
    assert rows["test"].tolist() == list(range(50))
    assert not set(rows["validation"]) & set(range(50))


def test_by_content_a_share_that_nothing_falls_into_is_refused_for_no_other_sample_may_stand_in() -> None:
    arrays = classes(20)
    with pytest.raises(DatasetInvalid, match=r"share of 1e-09 is empty: the content of none of the 20 sequences"):
        split_rows(arrays, Split(validation=0.2, test=1e-9, method="content"))


def test_batch_norm_is_refused_where_the_content_of_all_but_one_sample_is_judged_by() -> None:
    arrays, split = classes(20), {"validation": 0.5, "test": 0.3, "method": "content"}
    parts = (split_rows(arrays, Split.model_validate(split | {"seed": seed})) for seed in range(1000))
    split["seed"] = next(seed for seed, rows in enumerate(parts) if len(rows["train"]) == 1)
    spec = spec_for(arrays, data={"split": split}, architecture={"batch_norm": True}, training={"loss": "mse"})
    with pytest.raises(DatasetInvalid, match="needs at least two training samples, and the split leaves one"):
        prepare(arrays, spec)


def test_classes_of_one_sample_each_leave_none_to_judge_by() -> None:
    arrays = classes(50, kinds=50)
    with pytest.raises(DatasetInvalid, match="each of the 50 classes, and of the 50 samples none is left") as caught:
        split_rows(arrays, Split())
    assert [problem.pointer for problem in caught.value.problems] == ["/data/split/validation"]


def test_by_content_a_label_without_training_rows_is_told_what_to_do_about() -> None:
    rare = classes(200)
    rare.y[:] = 0
    rare.y[split_rows(rare, BY_CONTENT)["test"][0]] = 1
    with pytest.raises(DatasetInvalid, match="give more sequences of each class"):
        prepare(rare, spec_for(rare, data={"split": {"validation": 0.2, "test": 0.3, "method": "content"}}))
