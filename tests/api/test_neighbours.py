"""A sequence gets the same answer over HTTP whatever else is in the request, and wherever it stands there."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests.api.conftest import Publish
from tests.properties import examples

CLOSE = {"rel": 1e-4, "abs": 1e-5}
MOST_STEPS = 12
Sequences = st.SearchStrategy[dict[str, Any]]
"""What belongs to a sequence in a request: `x` or `texts`, and what is beside it."""


def numbers(*, gaps: bool) -> st.SearchStrategy[Any]:
    usual = st.floats(-50, 50, width=32) | st.sampled_from([0.0, 0.1, 1e6, -1e6])
    return usual | st.none() if gaps else usual


def columns(*values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[list[Any]]]:
    """Steps, in which a column may have the same value at each of them."""

    def steps(count: int) -> st.SearchStrategy[list[list[Any]]]:
        each = [
            st.lists(one, min_size=count, max_size=count) | one.map(lambda value: [value] * count) for one in values
        ]
        return st.tuples(*each).map(lambda found: [list(step) for step in zip(*found, strict=True)])

    return st.integers(1, MOST_STEPS).flatmap(steps)


def of_mixed() -> Sequences:
    number, word = numbers(gaps=True), st.integers(0, 3) | st.none()
    static = st.tuples(numbers(gaps=True), st.integers(0, 2) | st.none()).map(list)
    return st.fixed_dictionaries({"x": columns(number, number, word, number), "static": static})


def of_numbers(features: int) -> Sequences:
    return st.fixed_dictionaries({"x": columns(*[numbers(gaps=False)] * features)})


def of_texts() -> Sequences:
    words = st.sampled_from(["the", "room", "great", "awful", "", "é", "ab", "\n", ","])
    return st.fixed_dictionaries({"texts": st.lists(words, min_size=1, max_size=20).map(" ".join)})


def of_series() -> Sequences:
    steps = st.integers(5, 30).flatmap(
        lambda count: st.lists(st.tuples(*[st.floats(-9, 9, width=32) | st.none()] * 3), min_size=count, max_size=count)
    )
    ahead = st.lists(st.floats(-9, 9, width=32).map(lambda value: [value]), min_size=3, max_size=3)
    static = st.tuples(st.floats(-9, 9, width=32), st.integers(0, 2)).map(list)
    return st.fixed_dictionaries({"x": steps, "future": ahead, "static": static, "ids": st.sampled_from("abcz")})


CASES: dict[str, Callable[[], Sequences]] = {
    "attention": of_mixed,
    "embedded": of_mixed,
    "by itself": of_mixed,
    "plain": partial(of_numbers, 3),
    "tags": partial(of_numbers, 2),
    "words": of_texts,
    "next": of_texts,
    "quantiles": of_series,
}
"""By the names of `tests.client.prediction.cases`."""


@pytest.fixture
def job_id(publish: Publish, name: str) -> str:
    return publish(name)


@pytest.mark.parametrize("name", CASES)
@examples(15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(drawn=st.data(), place=st.integers(0, 6))
def test_the_others_in_a_request_change_no_answer(
    app: Flask, job_id: str, name: str, drawn: st.DataObject, place: int
) -> None:
    def answered(*asked: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """The rows of each sequence."""
        body = {field: [each[field] for each in asked] for field in asked[0]}
        answer = app.test_client().post(f"/v1/jobs/{job_id}/predict", json=body)
        assert answer.status_code == 200, (json.dumps(body), answer.get_json())
        rows = answer.get_json()["rows"]
        sizes = [len(each["x"]) if name == "tags" else len(rows) // len(asked) for each in asked]
        assert sum(sizes) == len(rows)
        return [[rows.pop(0) for _ in range(size)] for size in sizes]

    sequence = CASES[name]()
    asked = drawn.draw(sequence)
    others = drawn.draw(st.lists(sequence, min_size=1, max_size=6))
    place = min(place, len(others))
    [alone] = answered(asked)
    together = answered(*others[:place], asked, *others[place:])[place]
    assert numbers_of(together) == pytest.approx(numbers_of(alone), **CLOSE)


def numbers_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """All numbers by what they are of; of a next step by the entry, whose rank may change with the last digit."""
    found = {}
    for row in rows:
        step = row.get("entry", row.get("step", ""))
        found |= {f"{name} {step}": value for name, value in row.items() if isinstance(value, float)}
    return found
