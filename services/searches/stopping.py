"""Whether a trial of a search goes on, or is stopped early because other trials were better.

A trial is compared with the others at its rungs. These are epochs that are known before it begins: the first one, and
then `factor` times as many each time. Its value there is the best one up to that epoch: the weights of its best epoch
are what a trial comes to, and one bad epoch says little. Both rules are functions of the values at a rung. So the same
values always give the same answer. Optuna has these rules as well, but importing it costs half a second and 40 MB in
each worker.

L. Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA), 2020; D. Golovin et al., "Google Vizier: A
Service for Black-Box Optimization" (the median rule), 2017.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal, TypedDict

Name = Literal["asha", "median"]

FACTOR = 3
"""Of the trials that reach a rung, ASHA lets the best third go on; and each rung is at three times as many epochs."""
FIRST_SHARE = 9
"""The first rung is at this fraction of the epochs, but at least at 1 epoch."""
FEWEST_AT_RUNG = 3
"""ASHA stops no trial at a rung that fewer trials have reached: the worse of two would say little."""
FEWEST_COMPLETE = 5
"""The median rule stops no trial before so many others are complete."""


class Rule(TypedDict):
    """How a search stops trials early, as its settings have it."""

    rule: Name
    first_rung: int
    """The epoch of the first rung."""
    factor: int


def rule_of(name: Name | None, epochs: int) -> Rule | None:
    """What the settings of a search say, if its trials have at most so many epochs."""
    return None if name is None else Rule(rule=name, first_rung=first_rung(epochs), factor=FACTOR)


def first_rung(epochs: int) -> int:
    """The epoch of the first rung, if trials have at most so many epochs."""
    return max(1, epochs // FIRST_SHARE)


def rungs(first: int, epochs: int, factor: int = FACTOR) -> tuple[int, ...]:
    """The epochs at which a trial with so many epochs is compared, ascending. None is in the second half of the trial:
    little time would be saved, and a result that is nearly there would be lost."""
    found = []
    while 2 * first <= epochs:
        found.append(first)
        first *= factor
    return tuple(found)


def asha(
    value: float | None,
    others: Sequence[float],
    *,
    higher_is_better: bool,
    factor: int = FACTOR,
    least: int = FEWEST_AT_RUNG,
) -> bool:
    """Whether a trial goes on: its value is among the best 1/factor of all that reached the rung, or is the best one.

    `others` are the values of the other trials at the same rung. A trial without a value is stopped. No other one is
    stopped before `least` trials have reached the rung.
    """
    if value is None:
        return False
    if len(others) + 1 < least:
        return True
    everyone = sorted([value, *others], reverse=higher_is_better)
    last = everyone[max(len(everyone) // factor, 1) - 1]
    return value >= last if higher_is_better else value <= last


def median(own: Sequence[float], complete: Sequence[float | None], *, higher_is_better: bool) -> bool:
    """Whether a trial goes on: the best of its values so far is not worse than the median of the complete trials.

    `own` are its values at this rung and those before. `complete` has the value of each complete trial at this rung, or
    None if it has none there. A trial without any value is stopped as soon as enough trials are complete.
    """
    if len(complete) < FEWEST_COMPLETE:
        return True
    if not own:
        return False
    values = [value for value in complete if value is not None]
    if not values:
        return True
    middle = statistics.median(values)
    return max(own) >= middle if higher_is_better else min(own) <= middle
