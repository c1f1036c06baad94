"""Importance: what a field alone explains of the ranks, corrected for chance."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from services.searches import importance, reading
from services.searches.importance import Importance

SPACE = {
    "lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "seed": {"low": 0, "high": 1000},
    "cell": ["lstm", "gru", "rnn"],
    "bias": {"values": [0, 1], "when": {"cell": ["lstm"]}},
}
Value = Callable[[Mapping[str, Any]], float]


def found(value: Value, trials: int = 60) -> dict[str, Importance]:
    space, _ = reading.read_space(SPACE, {})
    assert space is not None
    drawn, given = random.Random(0), []
    for _ in range(trials):
        choices: dict[str, Any] = {"lr": 10 ** drawn.uniform(-4, -1), "seed": drawn.randint(0, 1000)}
        choices["cell"] = drawn.choice(["lstm", "gru", "rnn"])
        if choices["cell"] == "lstm":
            choices["bias"] = drawn.choice([0, 1])
        given.append((choices, value(choices)))
    return {each.path: each for each in importance.of_fields(space, given)}


@pytest.mark.parametrize(
    ("value", "most"),
    [
        (lambda choices: choices["lr"], "lr"),
        (lambda choices: abs(choices["lr"] - 0.003) ** 0.5, "lr"),  # the best value lies in the middle
        (lambda choices: {"lstm": 0.0, "gru": 9.0, "rnn": 1.0}[choices["cell"]], "cell"),
    ],
)
def test_the_field_that_decides_is_the_most_important(value: Value, most: str) -> None:
    shares = found(value)
    assert next(iter(shares)) == most
    assert shares[most].share > 0.6
    assert all(each.share < 0.2 for path, each in shares.items() if path != most)


def test_chance_is_no_importance_and_neither_are_equal_values() -> None:
    noise = random.Random(1)
    assert max(each.share for each in found(lambda _: noise.random()).values()) < 0.2
    assert {each.share for each in found(lambda _: 0.5).values()} == {0.0}


def test_nothing_is_said_of_few_trials() -> None:
    shares = found(lambda choices: choices["lr"], trials=15)
    assert "bias" not in shares  # which was varied in fewer than ten of them
    assert shares["lr"].trials == 15
    assert found(lambda choices: choices["lr"], trials=9) == {}
