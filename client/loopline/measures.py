"""The metrics that jobs report, the most informative first, and whether higher or lower is better."""

from __future__ import annotations

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
METRICS = tuple(name for name in HIGHER_IS_BETTER if name != "loss")


def points_up(recorded: str) -> bool:
    """Whether a higher value is better, for a name as in a result: `test_accuracy`. True for an unknown metric."""
    return HIGHER_IS_BETTER.get(recorded.partition("_")[2], True)
