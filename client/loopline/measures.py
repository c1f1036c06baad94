"""The metrics that jobs report, in the order in which one says more than the next, and which way each points."""

from __future__ import annotations

HIGHER_IS_BETTER = {
    "accuracy": True,
    "label_accuracy": True,
    "macro_f1": True,
    "r2": True,
    "mae": False,
    "rmse": False,
    "loss": False,
}
METRICS = tuple(name for name in HIGHER_IS_BETTER if name != "loss")


def points_up(recorded: str) -> bool:
    """Whether more is better of a number as a result has it: `test_accuracy`. A metric that is not known points up."""
    return HIGHER_IS_BETTER.get(recorded.partition("_")[2], True)
