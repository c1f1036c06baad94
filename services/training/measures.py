"""The table of metrics, one row each. It imports neither torch nor numpy, so that every module can use it.

The names stand in specs (`best_by`, `retrain.gate.metric`) and, with the split before them, in records and results:
`validation_accuracy`. The formulas are in metrics.py and gate/scores.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Answers = Literal["classes", "labels", "values", "forecasts", "steps"]
"""What a model answers with: one class of several, one yes or no a label, numbers, the next steps of a series, or the
next step of a text at each step."""

SPLITS = ("test", "validation", "train")


@dataclass(frozen=True)
class Measure:
    """One metric: which way it points, between which bounds it lies, and which answers it judges."""

    name: str
    higher_is_better: bool
    least: float
    most: float
    judges: frozenset[Answers]
    is_default: bool = False
    """Whether these answers are compared by it unless something else is asked for, and a log line shows it."""

    def is_better(self, value: float, than: float, by: float = 0.0) -> bool:
        """Whether a value is better than another, by more than a margin."""
        return value > than + by if self.higher_is_better else value < than - by


def _row(
    name: str, *judges: Answers, up: bool, least: float = 0.0, most: float = math.inf, default: bool = False
) -> Measure:
    return Measure(name, up, least, most, frozenset(judges), default)


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        _row("loss", "classes", "labels", "values", "forecasts", "steps", up=False),
        _row("perplexity", "steps", up=False, least=1.0, default=True),
        _row("bits_per_step", "steps", up=False),
        _row("accuracy", "classes", "labels", "steps", up=True, most=1.0, default=True),
        _row("label_accuracy", "labels", up=True, most=1.0),
        _row("macro_f1", "classes", "labels", up=True, most=1.0),
        _row("mase", "forecasts", up=False, default=True),
        _row("smape", "forecasts", up=False, most=2.0),
        _row("mae", "values", "forecasts", up=False),
        _row("rmse", "values", "forecasts", up=False, default=True),
        _row("r2", "values", up=True, least=-math.inf, most=1.0),
    )
}
DEFAULTS = tuple(measure.name for measure in MEASURES.values() if measure.is_default)


def judging(answers: Answers) -> tuple[str, ...]:
    """The names of the metrics, besides the loss, of such answers."""
    return tuple(name for name, measure in MEASURES.items() if answers in measure.judges and name != "loss")


def default(answers: Answers) -> str:
    """The metric that such answers are compared by unless the spec names one."""
    return next(name for name in DEFAULTS if answers in MEASURES[name].judges)


def recorded(name: str) -> Measure:
    """The metric that a number of a record or a result is of: `validation_rmse` is an `rmse`.

    Raises KeyError where it is of none.
    """
    split, _, rest = name.partition("_")
    return MEASURES[rest if split in SPLITS else name]
