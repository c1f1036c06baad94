"""Which samples are for training, for validation and for the test."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from loopline.files import store
from loopline.files.build import build
from loopline.files.inspection import inspect
from loopline.files.schema import Schema
from numpy.typing import NDArray

from services.errors import DatasetInvalid, SpecInvalid
from services.training.checkpoint import essence
from services.training.data import prepare
from services.training.files import npz, sequences, suspicions
from services.training.files.npz import Arrays
from services.training.spec import data_warnings, parse
from services.training.spec.fields import Split
from services.training.spec.rules import counts_of_split
from services.training.splits import split_rows
from tests.client.files.tables import table
from tests.properties import examples
from tests.training.building import (
    classes,
    document,
    events,
    make_run,
    mixed,
    of_many_lengths,
    spec_for,
    trained,
    values,
)


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


@examples(60)
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


@examples(60)
@given(
    st.data(), st.integers(0, 2**32 - 1), st.integers(0, 5), st.sampled_from([0.2, 0.4]), st.sampled_from([0.2, 0.4])
)
def test_by_content_company_order_and_padding_never_move_a_sample(
    data: st.DataObject, seed: int, padding: int, validation: float, test: float
) -> None:
    split = Split(validation=validation, test=test, method="content", seed=seed)
    arrays = mixed(150, seed=seed % 100)
    part = {row: name for name, rows in split_rows(arrays, split).items() for row in rows.tolist()}
    kept = np.array(data.draw(st.permutations(range(150)))[: data.draw(st.integers(100, 150))])
    x = np.pad(arrays.x[kept], ((0, 0), (0, padding), (0, 0)), constant_values=data.draw(st.sampled_from([0.0, 9.0])))
    later = Arrays(x=x, lengths=arrays.lengths[kept], y=arrays.y[kept])
    found = split_rows(later, split)
    assert {kept[row]: name for name, rows in found.items() for row in rows} == {row: part[row] for row in kept}


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


# ---- whole groups, and the order of time

SESSIONS = Schema(group=("person", "day"), order="at", features=("pulse",), static=("site",), target=("state",))


def recordings(people: dict[str, int], steps: int = 3) -> Arrays:
    """Recordings as a table has them, a row a step: so many of each person, on days that follow each other."""
    rows = [
        (person, f"day{number}", site, step + 10 * number + place, place + number + step / 7)
        for place, (person, days) in enumerate(people.items())
        for number in range(days)
        for site in ["north" if place % 2 else "south"]
        for step in range(steps)
    ]
    person, day, site, at, pulse = map(list, zip(*rows, strict=True))
    state = ["ab"[int(name[3:]) % 2] for name in day]
    return sequences.arrays(build(table(person=person, day=day, site=site, at=at, pulse=pulse, state=state), SESSIONS))


def with_groups(sizes: list[int], seed: int = 0) -> Arrays:
    """Sequences of groups of these sizes, mixed."""
    names = np.array([f"g{number}" for number, size in enumerate(sizes) for _ in range(size)])
    return replace(values(samples=len(names)), groups=np.random.default_rng(seed).permutation(names))


def parts_of(arrays: Arrays, **split: Any) -> dict[str, NDArray[np.int64]]:
    return split_rows(arrays, Split.model_validate(split))


def told(arrays: Arrays, split: dict[str, Any]) -> list[str]:
    """The problems of a spec with this split and such data, before anything is trained."""
    with pytest.raises(SpecInvalid) as caught:
        spec_for(arrays, data={"split": {"validation": None, **split}})
    return [str(problem) for problem in caught.value.problems]


SHARES = st.sampled_from([0.0, 1e-9, 0.1, 0.25, 0.4])


@examples(100)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=12), SHARES, SHARES, st.integers(0, 99))
def test_no_group_is_in_two_parts_and_the_parts_are_everything(
    sizes: list[int], validation: float, test: float, seed: int
) -> None:
    arrays = with_groups(sizes, seed)
    assert arrays.groups is not None
    rows = parts_of(arrays, validation=validation, test=test, method="group", seed=seed)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(len(arrays)))
    names = [set(arrays.groups[chosen]) for chosen in rows.values()]
    assert sum(map(len, names)) == len(set.union(*names)) == len(sizes)
    assert [bool(names[place]) for place in (1, 2)] == [validation > 0, test > 0]
    for name, share in (("validation", validation), ("test", test)):
        assert abs(len(rows[name]) - share * len(arrays)) <= max(sizes)


@pytest.mark.parametrize("sizes", [[40, 1, 1, 9, 9], [5] * 9, [1, 2, 3, 4, 5, 6, 7, 30]])
def test_what_is_told_of_a_split_by_group_before_is_what_is_drawn(sizes: list[int]) -> None:
    for seed in range(5):
        arrays = with_groups(sizes, seed)
        split = {"validation": 0.2, "test": 0.25, "method": "group", "seed": seed}
        drawn = {name: len(chosen) for name, chosen in parts_of(arrays, **split).items()}
        spec, summary = spec_for(arrays, data={"split": split}), npz.summarise(arrays)
        assert counts_of_split(spec, summary) == drawn
        unknown = [each.model_copy(update={"sizes": None}) for each in summary.groups]
        about = counts_of_split(spec, summary.model_copy(update={"groups": unknown}))
        assert sum(about.values()) == sum(sizes)
        assert about == drawn or len(set(sizes)) > 1


@examples(100)
@given(st.lists(st.integers(0, 9), min_size=6, max_size=60), SHARES, SHARES, st.booleans())
def test_by_time_the_past_is_trained_on_and_equal_times_stay_together(
    ends: list[int], validation: float, test: float, dates: bool
) -> None:
    assume(len(set(ends)) > 2)
    times = np.array(ends, np.int64) * 10**9 if dates else np.array(ends, np.float64)
    arrays = replace(values(samples=len(ends)), ends=times)
    rows = parts_of(arrays, validation=validation, test=test, method="time")
    assert sorted(np.concatenate(list(rows.values()))) == list(range(len(ends)))
    assert [len(rows[name]) > 0 for name in ("validation", "test")] == [validation > 0, test > 0]
    of_parts = [times[chosen] for chosen in rows.values() if len(chosen)]
    assert all(before.max() < after.min() for before, after in pairwise(of_parts))


def test_by_time_a_share_is_as_exact_as_the_times_allow() -> None:
    arrays = replace(values(samples=100), ends=np.random.default_rng(0).permutation(100).astype(np.int64))
    rows = parts_of(arrays, validation=0.15, test=0.1, method="time")
    assert {name: len(chosen) for name, chosen in rows.items()} == {"train": 75, "validation": 15, "test": 10}
    assert arrays.ends is not None
    assert set(arrays.ends[rows["test"]].tolist()) == set(range(90, 100))


def test_groups_do_not_depend_on_the_order_of_rows() -> None:
    arrays = with_groups([3, 5, 2, 7, 4, 4])
    assert arrays.groups is not None
    moved = np.random.default_rng(1).permutation(len(arrays))
    first = parts_of(arrays, test=0.2, method="group")
    second = parts_of(arrays.chosen(moved), test=0.2, method="group")
    for name, rows in first.items():
        assert set(arrays.groups[rows]) == set(arrays.groups[moved][second[name]])
    other = parts_of(arrays, test=0.2, method="group", seed=3)
    assert set(arrays.groups[other["test"]]) != set(arrays.groups[first["test"]])


def test_of_several_columns_that_name_a_recording_the_first_is_the_group_unless_another_is_named() -> None:
    arrays = recordings({"ann": 4, "bob": 3, "cy": 5, "di": 4})
    assert arrays.groups is not None
    person, day = np.array([name.split("/") for name in arrays.groups]).T
    assert arrays.static is not None
    for by, values_of in ((None, person), ("person", person), ("day", day), ("site", arrays.static[:, 0])):
        test = {"test": 0.25} if by != "site" else {"test": 0.0}
        rows = parts_of(arrays, validation=0.25, method="group", by=by, **test)
        seen = [set(values_of[chosen].tolist()) for chosen in rows.values()]
        assert sum(map(len, seen)) == len(set.union(*seen))


def test_a_person_that_a_model_could_learn_by_heart_is_no_help_in_a_split_by_group() -> None:
    """Each person has a constant of their own and a class of their own: by it a random split is solved, and a split by
    group is not."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(20), 10)
    label, mark = np.arange(20) % 2, rng.standard_normal((20, 6))
    x = np.repeat(mark[person][:, None, :], 4, axis=1) + 0.01 * rng.standard_normal((200, 4, 6))
    arrays = Arrays(
        x=x.astype(np.float32),
        lengths=np.full(200, 4),
        y=label[person],
        groups=np.array([f"p{number}" for number in person]),
    )
    training = {"epochs": 40, "batch_size": 20, "optimizer": {"name": "adam", "lr": 0.02}}
    scores = {}
    for method in ("random", "group"):
        run = make_run(arrays, training=training, data={"split": {"validation": 0.3, "method": method}})
        scores[method] = trained(run)[-1]["validation_accuracy"]
    assert scores["random"] == 1.0
    assert scores["group"] is not None
    assert scores["group"] < 0.8


@pytest.mark.parametrize(
    ("arrays", "split"),
    [
        (unequal(), {"validation": 0.3, "test": 0.2}),
        (unequal(split=np.repeat([0, 1], [80, 20]).astype(np.int8)), {"test": 0.3}),
        (unequal(split=np.repeat([0, 1, 2], [60, 20, 20]).astype(np.int8)), {"method": "given"}),
        (with_groups([30, 30, 40]), {"method": "group", "validation": 0.2, "test": 0.6}),
        (recordings({"ann": 9, "bob": 9, "cat": 9}), {"method": "time", "validation": 0.2, "test": 0.6}),
        (unequal(), {"method": "content", "validation": 0.3, "test": 0.3}),
    ],
    ids=["random", "marked", "given", "group", "time", "content"],
)
def test_training_on_the_validation_part_leaves_the_test_part_as_it_was(arrays: Arrays, split: dict[str, Any]) -> None:
    apart, together = parts_of(arrays, **split), parts_of(arrays, **split, train_on_validation=True)
    assert len(apart["validation"])
    assert together["test"].tolist() == apart["test"].tolist()
    assert together["train"].tolist() == sorted([*apart["train"], *apart["validation"]])
    assert len(together["validation"]) == 0
    spec = spec_for(
        arrays, data={"split": {"validation": None, **split, "train_on_validation": True}}, training={"keep": "last"}
    )
    counts = counts_of_split(spec, npz.summarise(arrays))
    assert "validation" not in counts
    if split.get("method", "random") == "random":
        assert counts["train"] == len(together["train"])


def test_training_on_the_validation_part_needs_no_epoch_to_be_chosen() -> None:
    found = told(unequal(), {"validation": 0.2, "train_on_validation": True})
    assert found == ["/data/split/train_on_validation: leaves nothing to choose an epoch by: set training.keep to last"]


def test_given_parts_are_taken_whole_and_nothing_is_drawn_beside_them() -> None:
    arrays = unequal(split=np.repeat([0, 2], [70, 30]).astype(np.int8))
    rows = parts_of(arrays, method="given")
    assert {name: len(chosen) for name, chosen in rows.items()} == {"train": 70, "validation": 0, "test": 30}
    found = told(arrays, {"method": "given", "validation": 0.2})
    assert found == [
        "/data/split/validation: with the method given the data set says which rows these are: leave it out, or choose "
        "a method that draws them, such as random"
    ]


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"method": "group"}, "no column of the data set names its sequences: upload it with --group"),
        ({"method": "time"}, "the data set has no times: upload it with the column that orders its steps (--order)"),
        ({"method": "given"}, "the data set marks no rows as validation or test: upload it with a `split`"),
        ({"by": "person"}, "is for the method group, and this one is random: leave it out"),
        ({"method": "group", "by": "x"}, "the data set has no such columns; got x"),
    ],
)
def test_a_method_that_the_data_has_nothing_for_is_refused_with_a_way_out(split: dict[str, Any], said: str) -> None:
    [problem] = told(values(), split)
    assert said in problem


def test_a_column_that_is_not_there_is_refused_with_those_that_are() -> None:
    [problem] = told(recordings({"ann": 2, "bob": 2}), {"method": "group", "by": "hospital"})
    assert problem.endswith("the data set has person, day, site; got hospital")


def test_too_few_groups_or_times_are_refused_before_training() -> None:
    [problem] = told(with_groups([5, 9]), {"method": "group", "validation": 0.2, "test": 0.2})
    assert problem.startswith("/data/split/validation: a share of 0.2 is empty: the 14 samples are of too few groups")
    [problem] = told(replace(values(), ends=np.zeros(24)), {"method": "time"})
    assert "end at too few different times" in problem


def test_a_given_part_that_tears_a_group_apart_or_is_not_the_latest_is_refused() -> None:
    marked = replace(with_groups([4, 4, 4]), split=(np.arange(12) % 4 == 0).astype(np.int8) * 2)
    with pytest.raises(DatasetInvalid, match=r"id g1, g2 would be in both .* give all rows of a group the same part"):
        parts_of(marked, method="group", validation=0.0)
    late = replace(values(samples=12), ends=np.arange(12), split=(np.arange(12) < 3).astype(np.int8) * 2)
    with pytest.raises(DatasetInvalid, match="the test split begins before the train split ends"):
        parts_of(late, method="time", validation=0.0)


def test_names_that_cannot_be_told_apart_are_no_groups() -> None:
    arrays = replace(recordings({"ann/b": 2, "bob": 2}), static=None, static_columns=())
    assert npz.summarise(arrays).groups == []


def test_a_class_that_only_a_later_part_has_is_told_with_what_to_do() -> None:
    arrays = replace(classes(30, kinds=3), ends=np.arange(30))
    arrays.y[:] = np.arange(30) // 27
    with pytest.raises(DatasetInvalid, match="give earlier sequences of each class, or leave out the classes"):
        prepare(arrays, spec_for(arrays, data={"split": {"method": "time", "validation": 0.1}}))


def test_what_was_split_without_a_column_goes_on_from_checkpoints_of_before() -> None:
    document = spec_for(classes()).document()
    split = document["data"]["split"]
    before = {name: value for name, value in split.items() if name != "by"}
    assert essence(document) == essence(document | {"data": document["data"] | {"split": before}})


def test_repeated_names_under_a_random_split_are_warned_of() -> None:
    arrays = recordings({"ann": 4, "bob": 3, "cy": 1})
    found = suspicions.of(arrays)

    def warned(**split: Any) -> list[str]:
        spec = parse(document(data={"split": {"validation": 0.2, **split}}))
        return [one for one in data_warnings.for_job(found, spec, npz.summarise(arrays)) if "names" in one]

    [message] = warned()
    assert message == (
        "person ann names 4 sequences (2 of the 3 names have several), and the split is random, so a model is tested "
        "on names that it was trained on. If it is for new ones, set data.split.method to group."
    )
    assert len(warned(method="content")) == 1
    assert warned(method="group") == warned(method="time") == warned(validation=0.0) == []


def test_a_table_of_recordings_is_split_by_person_from_its_file_to_the_result(tmp_path: Path) -> None:
    rows = [
        f"p{person},{walk},{100 * walk + step},{np.sin(step * (1 + kind) / 2):.3f},{'abc'[kind]}"
        for person in range(9)
        for walk in range(4)
        for kind in [(person + walk) % 3]
        for step in range(8)
    ]
    (tmp_path / "walks.csv").write_text("\n".join(["person,walk,at,acc,activity", *rows]))
    schema = Schema(group=("person", "walk"), order="at", target=("activity",))
    found = inspect(tmp_path / "walks.csv", schema, tmp_path)
    assert found.sequences is not None, found.problems
    store.write(tmp_path / "stored", found.sequences)
    split = {"method": "group", "validation": 0.25, "test": 0.25}
    order = {"data": str(tmp_path / "stored"), "directory": str(tmp_path / "out"), "suspect": True}
    told = list(events({**order, "spec": document(data={"split": split})}))
    assert [
        event["message"] for event in told if event.get("type") == "suspicion" and "names" in event["message"]
    ] == []
    details = told[-1]["result"]["details"]
    supports = {name: sum(part["classes"]["support"]) for name, part in details.items()}
    assert all(support % 4 == 0 for support in supports.values())  # the four walks of a person stay together
    assert supports == {"validation": 8, "test": 8}
    by_time = {**split, "method": "time"}
    told = list(events({**order, "spec": document(data={"split": by_time}), "directory": str(tmp_path / "later")}))
    assert {name: sum(part["classes"]["support"]) for name, part in told[-1]["result"]["details"].items()} == {
        "validation": 9,
        "test": 9,
    }  # each walk ends at the same time for all
