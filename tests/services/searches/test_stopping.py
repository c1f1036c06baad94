"""Stopping trials early: the rules answer as Optuna's pruners do."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from optuna.pruners import BasePruner, MedianPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState

from services.searches import stopping

EPOCHS = 100
HISTORIES = 40
TRIALS = 16


def test_rungs_are_three_times_as_far_each_time_and_never_in_the_second_half() -> None:
    assert stopping.first_rung(81) == 9
    assert stopping.rungs(3, 81) == (3, 9, 27)
    assert stopping.rungs(3, 161) == (3, 9, 27)
    assert stopping.rungs(3, 162) == (3, 9, 27, 81)
    assert stopping.rungs(3, 3) == ()
    assert stopping.rungs(stopping.first_rung(10), 10) == (1, 3)
    assert stopping.rungs(stopping.first_rung(1), 1) == ()
    assert stopping.rungs(stopping.first_rung(10_000), 10_000) == (1111, 3333)


class History:
    """Trials that begin, reach rungs and end in any order, as a study of Optuna and as plain numbers."""

    def __init__(self, pruner: BasePruner, *, higher_is_better: bool, seed: int) -> None:
        self.drawn = random.Random(seed)
        self.higher_is_better = higher_is_better
        self.study = optuna.create_study(pruner=pruner, direction="maximize" if higher_is_better else "minimize")
        self.values: dict[int, dict[int, float]] = {}
        self.complete: list[int] = []

    def value(self) -> float:
        """Of few different ones, so that many are equal; sometimes there is none."""
        return math.nan if self.drawn.random() < 0.05 else self.drawn.randint(0, 12) / 4

    def run(self) -> int:
        """Compare each answer; how many trials were stopped."""
        going_on: list[optuna.Trial] = []
        stopped = 0
        while len(self.values) < TRIALS or going_on:
            if len(self.values) < TRIALS and self.drawn.random() < 0.4:
                going_on.append(trial := self.study.ask())
                self.values[trial.number] = {}
            elif going_on:
                trial = self.drawn.choice(going_on)
                goes_on = self.next_rung(trial)
                stopped += not goes_on
                if not goes_on or len(self.values[trial.number]) == len(RUNGS):
                    going_on.remove(trial)
                    self.end(trial, goes_on=goes_on)
        return stopped

    def next_rung(self, trial: optuna.Trial) -> bool:
        mine = self.values[trial.number]
        rung = RUNGS[len(mine)]
        mine[rung] = self.value()
        trial.report(mine[rung], rung)
        goes_on = self.answer(trial.number, rung)
        assert goes_on == (not trial.should_prune())
        return goes_on

    def answer(self, number: int, rung: int) -> bool:
        raise NotImplementedError

    def end(self, trial: optuna.Trial, *, goes_on: bool) -> None:
        if goes_on:
            self.complete.append(trial.number)
            self.study.tell(trial, 0.0)
        else:
            self.study.tell(trial, state=TrialState.PRUNED)


RUNGS = stopping.rungs(stopping.first_rung(EPOCHS), EPOCHS)


def known(values: Mapping[int, float]) -> dict[int, float]:
    return {rung: value for rung, value in values.items() if not math.isnan(value)}


class Asha(History):
    def __init__(self, **how: Any) -> None:
        super().__init__(SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=3), **how)

    def answer(self, number: int, rung: int) -> bool:
        others = [known(each)[rung] for other, each in self.values.items() if other != number and rung in known(each)]
        value = known(self.values[number]).get(rung)
        return stopping.asha(value, others, higher_is_better=self.higher_is_better, least=1)


class Median(History):
    def __init__(self, **how: Any) -> None:
        super().__init__(MedianPruner(n_startup_trials=5), **how)

    def answer(self, number: int, rung: int) -> bool:
        mine = [*known(self.values[number]).values()]
        complete = [known(self.values[other]).get(rung) for other in self.complete]
        return stopping.median(mine, complete, higher_is_better=self.higher_is_better)


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("rule", [Asha, Median])
def test_the_rules_answer_as_optunas_pruners(rule: type[Asha | Median], higher_is_better: bool) -> None:
    stopped = [rule(higher_is_better=higher_is_better, seed=seed).run() for seed in range(HISTORIES)]
    assert sum(stopped) > HISTORIES  # the comparison is of something
    assert sum(stopped) < HISTORIES * TRIALS


def test_the_worse_of_two_is_not_stopped() -> None:
    assert stopping.asha(0.9, [0.5], higher_is_better=False)
    assert not stopping.asha(0.9, [0.5, 0.6], higher_is_better=False)
    assert not stopping.asha(None, [], higher_is_better=False)
