"""The plain answers that a model is compared with, and whether it beats the best of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from services.training import epochs
from services.training.measures import recorded

Metrics = Mapping[str, float | None]


def compared(
    metrics: Metrics, found: Mapping[str, Metrics], metric: str, verbs: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Compares the metrics of a model with those of plain answers, by their words. `verbs` has words for the message
    where the words themselves do not fit it.

    `{"answer", "metrics", "metric", "is_beaten", "message"}` of the best one, the first of equals; with several plain
    answers `others` has the metrics of the others. `message` is a sentence if the model does not beat it.
    """
    measure = recorded(metric)

    def cost(words: str) -> float:
        value = found[words][metric]
        return math.inf if value is None else -value if measure.higher_is_better else value

    best = min(found, key=cost)
    value, plain = metrics.get(metric), found[best][metric]
    is_beaten = value is not None and (plain is None or measure.is_better(value, plain))
    message = None
    if not is_beaten and value is not None:
        what = (verbs or {}).get(best, best)
        message = f"The model does not beat its baseline: {metric} is {value:.4g}, and {what} gives {plain:.4g}."
    others = {words: epochs.finite(each) for words, each in found.items() if words != best}
    return {
        "answer": best,
        "metrics": epochs.finite(found[best]),
        "metric": metric,
        "is_beaten": is_beaten,
        "message": message,
        **({"others": others} if others else {}),
    }
