"""How good a model is on shorter and on longer sequences."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.training import lengths
from services.training.files.npz import Arrays
from services.training.loop import Run, answers, evaluate, in_rows
from services.training.loop import details as details_of
from services.training.preprocessing.scaling import undone
from tests.client.prediction.cases import CASES, made
from tests.properties import examples
from tests.training.building import classes, make_run, of_many_lengths, tagged, trained, values


@examples(100)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_each_sequence_is_in_one_quartile_and_no_quartile_is_empty(drawn: list[int]) -> None:
    sizes = np.array(drawn, np.int64)
    bins = lengths.quartiles(sizes)
    assert 1 <= len(bins) <= 4
    assert (np.sum(bins, axis=0) == 1).all()
    assert all(chosen.any() for chosen in bins)
    assert all(sizes[one].max() < sizes[next_one].min() for one, next_one in pairwise(bins))


def test_quartiles_have_as_many_sequences_where_lengths_allow_it() -> None:
    assert [int(chosen.sum()) for chosen in lengths.quartiles(np.arange(1, 41))] == [10, 10, 10, 10]


def judged(arrays: Arrays, **changes: Any) -> tuple[Run, Any]:
    """A run that has ended, and the table by length of its validation split."""
    run = make_run(arrays, data={"split": {"validation": 0.5}}, **changes)
    trained(run)
    assert run.data.validation is not None
    return run, (details_of(run, run.data.validation) or {}).get("lengths")


@pytest.mark.parametrize("kind", ["classes", "tags", "values"])
def test_the_metrics_of_a_quartile_are_those_of_its_sequences(kind: str) -> None:
    arrays = {"classes": classes(60), "tags": tagged(60), "values": values(60)}[kind]
    run, found = judged(arrays if kind == "tags" else of_many_lengths(arrays))
    part = run.data.validation
    assert part is not None
    outputs = in_rows(*answers(run.model, part, run.device, "float32"))
    answer, actual = (undone(each, run.data.target_scaling).double().numpy() for each in (outputs, part.y))
    if kind != "values":
        answer, actual = outputs.numpy().argmax(axis=1), part.y.numpy()
    of_each = np.repeat(part.steps, part.steps) if kind == "tags" else part.steps
    assert sum(found["sequences"]) == len(part)
    assert len(found["sequences"]) > 1
    for place, (low, high) in enumerate(zip(found["shortest"], found["longest"], strict=True)):
        chosen = (low <= of_each) & (of_each <= high)
        if kind == "values":
            own = math.sqrt(np.square(answer - actual)[chosen].mean())
            assert found["rmse"][place] == pytest.approx(own, rel=1e-5)
        else:
            assert found["accuracy"][place] == pytest.approx((answer == actual)[chosen].mean())


def test_sequences_that_are_read_in_windows_have_the_accuracy_of_whole_ones() -> None:
    arrays = tagged(40, length=21)
    run, found = judged(arrays, training={"bptt_steps": 4})
    whole = make_run(arrays, data={"split": {"validation": 0.5}})
    whole.model.load_state_dict(run.model.state_dict())
    assert whole.data.validation is not None
    expected = details_of(whole, whole.data.validation)["lengths"]
    assert {name: expected[name] for name in found} == found


def test_sequences_of_one_length_have_no_such_table() -> None:
    assert judged(classes(30))[1] is None


def worth(right: list[int]) -> lengths.Worth:
    sums = np.stack((np.array(right, np.float64), np.ones(len(right))), axis=1)
    return lengths.Worth("accuracy", sums, lambda sums: sums[..., 0] / sums[..., 1])


@pytest.mark.parametrize(
    ("few", "many", "is_worse"),
    [
        ((0, 5), (95, 5), False),  # 5 sequences say nothing
        ((20, 20), (95, 5), True),
        ((38, 2), (95, 5), False),
        ((40, 0), (50, 50), False),
        ((34, 6), (95, 5), False),  # as likely as not luck
        ((970, 30), (1000, 0), False),  # no luck, and too little to matter
    ],
)
def test_only_a_clear_difference_is_told(few: tuple[int, int], many: tuple[int, int], is_worse: bool) -> None:
    right = [1] * few[0] + [0] * few[1] + [1] * many[0] + [0] * many[1]
    assert lengths.is_worse(worth(right), np.arange(len(right)) < sum(few)) is is_worse


def test_the_steps_of_texts_are_told_apart_by_how_much_was_read_before_them() -> None:
    run = made(CASES["next"])
    part = run.data.test
    assert part is not None
    found, metrics = details_of(run, part)["places"], evaluate(run, part)
    longest = int(part.steps.max())
    assert (found["first"], found["last"]) == ([1, 11], [10, longest])
    assert found["steps"] == [10 * len(part.steps), int(part.steps.sum()) - 10 * len(part.steps)]
    for name in ("accuracy", "bits_per_step"):
        assert np.average(found[name], weights=found["steps"]) == pytest.approx(metrics[name])
