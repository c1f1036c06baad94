"""The metrics that jobs report, the most informative first, and whether higher or lower is better."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

HIGHER_IS_BETTER = {
    "perplexity": False,
    "bits_per_step": False,
    "accuracy": True,
    "label_accuracy": True,
    "macro_f1": True,
    "mase": False,
    "smape": False,
    "r2": True,
    "mae": False,
    "rmse": False,
    "loss": False,
}
SPLITS = ("test", "validation", "train")
METRICS = tuple(name for name in HIGHER_IS_BETTER if name != "loss")


def points_up(recorded: str) -> bool:
    """Whether a higher value is better, for a name as in a result: `test_accuracy`. True for an unknown metric."""
    return HIGHER_IS_BETTER.get(recorded.partition("_")[2], True)


def recorded_as(name: str, recorded: Collection[str]) -> str | None:
    """The recorded name that is meant: `accuracy` means `test_accuracy`, else `validation_accuracy`, else that of
    training. None if there is none of them."""
    named = (name, *(f"{split}_{name}" for split in SPLITS))
    return next((each for each in named if each in recorded), None)


def main_of(recorded: Collection[str]) -> str | None:
    """The most informative of some metrics: of the test if there is one."""
    by_rank = (f"{split}_{name}" for split in SPLITS for name in HIGHER_IS_BETTER)
    return next((each for each in by_rank if each in recorded), None)


def ranked(found: Sequence[T], by: str | None, value: Callable[[T], Any]) -> list[T]:
    """The best one first, and last those without a value, in the order in which they came. `by` is the metric, which
    says whether higher is better; or a field, whose smallest value comes first."""
    known = [each for each in found if by is not None and value(each) is not None]
    unknown = [each for each in found if by is None or value(each) is None]
    is_metric = by is not None and by.partition("_")[0] in SPLITS
    if is_metric and points_up(by or ""):
        return [*sorted(known, key=value, reverse=True), *unknown]

    def key(one: T) -> tuple[bool, Any]:
        its = value(one)
        return (False, its) if isinstance(its, int | float) else (True, json.dumps(its))

    return [*sorted(known, key=key), *unknown]
