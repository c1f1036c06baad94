"""Suggestions: the same history gives the same trial, conditions are kept to, and nothing is tried twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from services.searches import reading, suggesting
from services.searches.space import Choices, Space
from services.searches.trials import State, Trial

SPACE = {
    "training.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "architecture.hidden_size": {"low": 16, "high": 256, "log": True},
    "architecture.dropout": {"low": 0.0, "high": 0.5, "step": 0.1},
    "architecture.cell": ["lstm", "gru"],
    "architecture.forget_gate_bias": {"values": [0.0, 1.0], "when": {"architecture.cell": ["lstm"]}},
}


def space_of(given: dict[str, Any]) -> Space:
    found, problems = reading.read_space(given, {})
    assert found is not None, problems
    return found


def value_of(choices: Choices) -> float:
    return -abs(float(choices["architecture.hidden_size"]) - 100.0)


def suggested(space: Space, trials: Sequence[Trial], *, seed: int = 0, algorithm: Any = "tpe") -> Choices:
    number = len(trials) + 1
    return suggesting.suggest(space, trials, number, algorithm=algorithm, seed=seed, higher_is_better=True)


def history(space: Space, count: int, **how: Any) -> list[Trial]:
    trials: list[Trial] = []
    while len(trials) < count:
        choices = suggested(space, trials, **how)
        trials.append(Trial(len(trials) + 1, choices, State.COMPLETE, value_of(choices)))
    return trials


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_the_same_history_gives_the_same_trial_and_another_seed_another_one(algorithm: str) -> None:
    space = space_of(SPACE)
    trials = history(space, 14, algorithm=algorithm)
    assert history(space, 14, algorithm=algorithm) == trials
    assert suggested(space, trials, seed=1, algorithm=algorithm) != suggested(space, trials, algorithm=algorithm)
    assert len({str(trial.choices) for trial in trials}) == 14


def test_tpe_learns_from_the_trials_so_far() -> None:
    space = space_of(SPACE)
    trials = history(space, 14)
    worse = [Trial(each.number, each.choices, each.state, -(each.value or 0.0)) for each in trials]
    assert suggested(space, worse) != suggested(space, trials)
    going_on = [*trials, Trial(15, suggested(space, trials), State.GOING_ON)]
    assert suggesting.suggest(space, going_on, 15, algorithm="tpe", seed=0, higher_is_better=True) != suggested(
        space, trials
    )


def test_tpe_keeps_away_from_choices_that_cannot_be_trained() -> None:
    space = space_of(SPACE)
    trials: list[Trial] = []
    while len(trials) < 40:
        choices = suggested(space, trials)
        possible = choices["architecture.cell"] == "lstm"
        state = State.COMPLETE if possible else State.IMPOSSIBLE
        trials.append(Trial(len(trials) + 1, choices, state, value_of(choices) if possible else None))
    assert sum(trial.state == State.IMPOSSIBLE for trial in trials[20:]) <= 3


def test_tpe_learns_from_trials_that_were_stopped_early_and_from_how_far_they_got() -> None:
    space = space_of(SPACE)
    trials = history(space, 14)

    def after(state: State, reports: dict[int, float]) -> Choices:
        """What is suggested if some of the trials ended like this."""
        stopped = [Trial(each.number, each.choices, state, None, reports) for each in trials[:4]]
        found = suggested(space, [*stopped, *trials[4:]])
        assert found == suggested(space, [*stopped, *trials[4:]])
        return found

    pruned = after(State.PRUNED, {1: 0.5})
    assert pruned != after(State.LOST, {})
    assert pruned != suggested(space, trials[4:])
    assert after(State.PRUNED, {3: math.nan}) == pruned  # the places among the worse ones are the same
    few = [Trial(each.number, each.choices, State.PRUNED, None, {1: value_of(each.choices)}) for each in trials]
    other = [Trial(each.number, each.choices, State.PRUNED, None, {1: -value_of(each.choices)}) for each in trials]
    assert suggested(space, few) != suggested(space, other)  # without complete ones the best of these are followed


def test_values_are_those_of_the_space() -> None:
    for trial in history(space_of(SPACE), 20):
        choices = trial.choices
        assert 1e-4 <= choices["training.optimizer.lr"] <= 1e-1
        assert isinstance(choices["architecture.hidden_size"], int)
        assert 16 <= choices["architecture.hidden_size"] <= 256
        assert round(choices["architecture.dropout"] * 10, 6) in range(6)
        assert ("architecture.forget_gate_bias" in choices) == (choices["architecture.cell"] == "lstm")


def test_any_json_value_can_be_a_choice() -> None:
    values = [None, True, 1, {"name": "sgd", "lr": 0.1}, ["a"]]
    space = space_of({"training.optimizer": values})
    trials: list[Trial] = []
    for number in range(1, 6):
        trials.append(Trial(number, suggested(space, trials), State.COMPLETE, 0.5))
    assert sorted(str(trial.choices["training.optimizer"]) for trial in trials) == sorted(map(str, values))


def test_a_step_that_does_not_reach_the_upper_bound_ends_below_it(recwarn: pytest.WarningsRecorder) -> None:
    space = space_of({"a": {"low": 0, "high": 10, "step": 4}, "b": {"low": 0.0, "high": 1.0, "step": 0.3}})
    found = [suggested(space, [], seed=seed) for seed in range(20)]
    assert {each["a"] for each in found} == {0, 4, 8}
    assert max(each["b"] for each in found) < 0.95
    assert len(recwarn) == 0


def test_a_grid_has_its_combinations_in_order() -> None:
    space = space_of({"a": [1, 2], "b": ["x", "y"]})
    trials: list[Trial] = []
    for number in range(1, 5):
        trials.append(Trial(number, suggested(space, trials, algorithm="grid"), State.LOST))
    assert [(each.choices["a"], each.choices["b"]) for each in trials] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    without_second = [trial for trial in trials[:3] if trial.number != 2]  # its job was deleted
    again = suggesting.suggest(space, without_second, 4, algorithm="grid", seed=0, higher_is_better=True)
    assert again == trials[3].choices
