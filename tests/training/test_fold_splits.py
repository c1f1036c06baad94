"""Which samples each fold trains on and is validated on, and which specs and data sets have no folds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.errors import DatasetInvalid, SpecInvalid
from services.training.checkpoint import essence
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.spec import check_data, parse
from services.training.spec.fields import Split
from services.training.spec.rules import counts_of_split
from services.training.splits import Parts, split_folds, split_rows
from tests.properties import examples
from tests.training.building import classes, document, hourly, spec_for, values

FOLDS = st.integers(2, 6)


def folds_of(arrays: Arrays, **split: Any) -> tuple[list[Parts], Parts]:
    """The folds, and the final model's parts."""
    *folds, final = split_folds(arrays, Split.model_validate(split))
    return folds, final


def labelled(counts: list[int], seed: int) -> Arrays:
    """So many samples of each class, in a random order."""
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    return replace(classes(samples=len(y)), y=y.astype(np.int64))


def with_groups(sizes: list[int], seed: int) -> Arrays:
    names = np.random.default_rng(seed).permutation(np.repeat([f"g{n:02}" for n in range(len(sizes))], sizes))
    return replace(values(samples=len(names)), groups=names)


def rows(parts: list[Parts], name: str) -> NDArray[np.int64]:
    return np.concatenate([part[name] for part in parts])


@examples(100)
@given(st.lists(st.integers(2, 12), min_size=2, max_size=4), FOLDS, st.sampled_from([0.0, 0.15, 0.3]), st.booleans())
def test_each_sample_is_validated_on_once_and_each_class_in_proportion(
    counts: list[int], folds: int, test: float, stratify: bool
) -> None:
    arrays = labelled(counts, seed=folds)
    split = {"folds": folds, "test": test, "stratify": stratify, "seed": sum(counts)}
    plain = split_rows(arrays, Split.model_validate({**split, "folds": None}))
    assume(len(arrays.x) - len(plain["test"]) >= folds)
    found, final = folds_of(arrays, **split)
    assert len(found) == folds
    assert final["test"].tolist() == plain["test"].tolist()  # those of a job without folds
    assert sorted(rows(found, "validation")) == final["train"].tolist()
    for fold in found:
        assert sorted([*fold["train"], *fold["validation"]]) == final["train"].tolist()
        assert not len(fold["test"])
    sizes = [len(fold["validation"]) for fold in found]
    assert max(sizes) - min(sizes) <= 1
    for kind in range(len(counts)):
        each = [int((arrays.y[fold["validation"]] == kind).sum()) for fold in found]
        assert not stratify or max(each) - min(each) <= 1


@examples(100)
@given(st.lists(st.integers(1, 9), min_size=4, max_size=14), FOLDS, st.sampled_from([0.0, 1e-9, 0.2, 0.9]))
def test_no_group_is_trained_and_validated_on(sizes: list[int], folds: int, test: float) -> None:
    assume(len(sizes) >= folds + (test > 0))
    arrays = with_groups(sizes, seed=folds)
    assert arrays.groups is not None
    found, final = folds_of(arrays, folds=folds, test=test, method="group", seed=len(sizes))
    assert bool(len(final["test"])) == (test > 0)
    assert sorted(rows(found, "validation")) == final["train"].tolist()
    for fold in found:
        parts = [set(arrays.groups[fold[name]]) for name in ("train", "validation")]
        parts.append(set(arrays.groups[final["test"]]))
        assert parts[0]
        assert parts[1]
        assert sum(map(len, parts)) == len(set.union(*parts)) == len(sizes)
    validated = [len(fold["validation"]) for fold in found]
    assert max(validated) - min(validated) <= max(sizes)


@examples(100)
@given(st.lists(st.integers(0, 15), min_size=8, max_size=60), FOLDS, st.sampled_from([0.0, 0.2, 0.9]))
def test_by_time_each_fold_is_validated_on_what_comes_after_its_training(
    ends: list[int], folds: int, test: float
) -> None:
    assume(len(set(ends)) > folds + (test > 0))
    times = np.array(ends, np.int64)
    found, final = folds_of(replace(values(samples=len(ends)), ends=times), folds=folds, test=test, method="time")
    before: list[int] = found[0]["train"].tolist()
    for fold in found:
        assert sorted(fold["train"].tolist()) == sorted(before)  # all that was before it
        assert times[fold["train"]].max() < times[fold["validation"]].min()
        before += fold["validation"].tolist()
    assert sorted(before) == final["train"].tolist()
    assert not len(final["test"]) or times[final["train"]].max() < times[final["test"]].min()


def test_periods_are_of_about_as_many_samples() -> None:
    arrays = replace(values(samples=100), ends=np.random.default_rng(0).permutation(100).astype(np.int64))
    found, _ = folds_of(arrays, folds=4, method="time")
    assert [len(fold["train"]) for fold in found] == [20, 40, 60, 80]
    assert [len(fold["validation"]) for fold in found] == [20, 20, 20, 20]


def test_samples_that_are_marked_for_validation_are_dealt_with_the_rest() -> None:
    marks = np.tile([0, 1, 0, 2], 12).astype(np.int8)
    found, final = folds_of(replace(classes(48), split=marks), folds=4)
    assert final["test"].tolist() == np.flatnonzero(marks == 2).tolist()
    assert sorted(rows(found, "validation")) == np.flatnonzero(marks != 2).tolist()


def test_another_seed_deals_otherwise_and_the_same_one_alike() -> None:
    dealt = [folds_of(classes(30), folds=3, seed=seed)[0][0]["validation"].tolist() for seed in (0, 0, 1)]
    assert dealt[0] == dealt[1] != dealt[2]


def test_fewer_units_than_folds_are_refused_where_the_rows_are_drawn() -> None:
    with pytest.raises(DatasetInvalid, match="5 folds need 5 groups outside the test, and there are 2"):
        folds_of(with_groups([3, 3], 0), folds=5, method="group")


def refused(arrays: Arrays, split: dict[str, Any], **more: Any) -> list[str]:
    """The problems that a submission would be told."""
    with pytest.raises(SpecInvalid) as caught:
        spec_for(arrays, data={"split": {"validation": None, **split}}, **more)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("folds", [1, 21, 2.5, True, "5"])
def test_there_are_from_2_to_20_folds(folds: Any) -> None:
    [problem] = refused(classes(), {"folds": folds})
    assert problem.startswith("/data/split/folds: must be")


@pytest.mark.parametrize("share", [0.2, 0.0, "given"])
def test_validation_is_not_given_along_with_folds(share: Any) -> None:
    marked = replace(classes(), split=np.tile([0, 1], 12).astype(np.int8))
    [problem] = refused(marked, {"folds": 3, "validation": share})
    assert problem.startswith("/data/split/validation: is each fold once if there are folds: leave it out")


@pytest.mark.parametrize("method", ["given", "content"])
def test_a_split_that_says_itself_what_is_validated_on_has_no_folds(method: str) -> None:
    marked = replace(classes(), split=np.tile([0, 1], 12).astype(np.int8))
    [problem] = refused(marked, {"folds": 3, "method": method})
    assert problem.startswith(f"/data/split/method: {method} says itself")
    assert "choose random" in problem


def test_a_retraining_a_forecast_and_a_language_model_have_no_folds() -> None:
    [problem] = refused(classes(), {"folds": 3, "test": 0.2}, retrain={"model": "m"})
    assert problem.startswith("/data/split/folds: judge a way to train")
    series = hourly([60, 50])
    with pytest.raises(SpecInvalid) as caught:
        check_data(
            parse({"task": "forecast", "preset": "basic_gru", "data": {"dataset": "x", "split": {"folds": 3}}}),
            npz.summarise(series),
        )
    assert [str(problem).partition(" ")[0] for problem in caught.value.problems] == ["/data/split/folds:"]
    with pytest.raises(SpecInvalid, match="the steps of a text go on from one into the next"):
        parse({"task": "next_step", "preset": "basic_gru", "data": {"dataset": "x", "split": {"folds": 3}}})


@pytest.mark.parametrize(
    ("arrays", "split", "words"),
    [
        (classes(4, kinds=2), {"folds": 5}, "5 folds need at least 5 samples (one for each fold)"),
        (classes(5, kinds=1), {"folds": 5, "test": 0.2}, "at least 6 samples (one for each fold and one for the test)"),
        (with_groups([9, 9, 9], 0), {"folds": 3, "test": 0.1, "method": "group"}, "at least 4 groups"),
        (
            replace(values(8), ends=np.repeat([1, 2, 3, 4], 2)),
            {"folds": 4, "method": "time"},
            "at least 5 times at which sequences end (one for each fold, one to begin with)",
        ),
        (labelled([20, 1], 0), {"folds": 5}, "the class 1 has a single sample outside the test"),
        (labelled([20, 2], 0), {"folds": 5, "test": 0.5}, "the class 1 has a single sample outside the test"),
    ],
)
def test_too_little_data_for_so_many_folds_is_refused_at_the_submission(
    arrays: Arrays, split: dict[str, Any], words: str
) -> None:
    problems = refused(arrays, split)
    assert [problem for problem in problems if problem.startswith("/data/split/folds:") and words in problem], problems


def test_just_enough_data_is_taken() -> None:
    for arrays, split in (
        (labelled([2, 2], 0), {"folds": 2}),
        (with_groups([9, 9, 9, 9], 0), {"folds": 3, "test": 0.1, "method": "group"}),
        (replace(values(10), ends=np.repeat([1, 2, 3, 4, 5], 2)), {"folds": 4, "method": "time"}),
    ):
        spec = spec_for(arrays, data={"split": {"validation": None, **split}})
        assert len(split_folds(arrays, spec.data.split)) == split["folds"] + 1  # type: ignore[operator]


@pytest.mark.parametrize("method", ["random", "time"])
def test_the_sizes_that_a_submission_is_judged_by_are_those_that_are_drawn(method: str) -> None:
    arrays = replace(labelled([30, 14], 3), ends=np.arange(44))
    spec = spec_for(arrays, data={"split": {"validation": None, "folds": 4, "test": 0.2, "method": method}})
    *found, final = split_folds(arrays, spec.data.split)
    counts = counts_of_split(spec, npz.summarise(arrays))
    assert counts["test"] == len(final["test"])
    assert counts["validation"] == max(len(fold["validation"]) for fold in found)
    assert abs(counts["train"] - min(len(fold["train"]) for fold in found)) <= 1


def test_checkpoints_of_specs_from_before_there_were_folds_still_belong_to_them() -> None:
    now = parse(document()).document()
    before = {**now, "data": {**now["data"], "split": {**now["data"]["split"]}}}
    del before["data"]["split"]["folds"]
    assert essence(now) == essence(before)
    assert essence(now) != essence(parse(document(data={"split": {"validation": None, "folds": 3}})).document())
