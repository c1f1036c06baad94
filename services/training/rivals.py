"""The plain answers that a model is compared with, and whether it beats the best of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from services.training import epochs
from services.training.measures import recorded

Metrics = Mapping[str, float | None]


CONFIDENCE = 0.95
"""Of the interval of an accuracy."""


def compared(
    metrics: Metrics,
    found: Mapping[str, Metrics],
    metric: str,
    verbs: Mapping[str, str] | None = None,
    samples: int | None = None,
    trials: int = 1,
    *,
    independent: bool = True,
) -> dict[str, Any]:
    """Compares the metrics of a model with those of plain answers, by their words. `verbs` has words for the message
    where the words themselves do not fit it. If the metric is a share of so many `samples` that are right, it has an
    interval, and the model beats a plain answer only if that lies below the interval. The interval is wider if the
    model is the best of so many `trials` on these samples. Samples that are not `independent` say less than so many
    would: then the interval is too narrow to be given, but what it leaves open is open.

    `{"answer", "metrics", "metric", "is_beaten", "message", "interval"}` of the best one, the first of equals; with
    several plain answers `others` has the metrics of the others. `message` is a sentence if the model does not beat it.
    """
    measure = recorded(metric)

    def cost(words: str) -> float:
        value = found[words][metric]
        return math.inf if value is None else -value if measure.higher_is_better else value

    best = min(found, key=cost)
    value, plain = metrics.get(metric), found[best][metric]
    is_beaten = value is not None and (plain is None or measure.is_better(value, plain))
    interval = wilson(value, samples, trials) if value is not None and samples and measure.name == "accuracy" else None
    message, what = None, (verbs or {}).get(best, best)
    if not is_beaten and value is not None:
        message = f"The model does not beat its baseline: {metric} is {value:.4g}, and {what} gives {plain:.4g}."
    elif interval is not None and plain is not None and interval[0] <= plain:
        is_beaten = False
        more = "" if independent else " or more, because they come in groups"
        message = (
            f"The model may be no better than its baseline: {metric} is {value:.4g}, which on {samples:,} samples can "
            f"mean {interval[0]:.4g} to {interval[1]:.4g}{more}, and {what} gives {plain:.4g}."
        )
    others = {words: epochs.finite(each) for words, each in found.items() if words != best}
    return {
        "answer": best,
        "metrics": epochs.finite(found[best]),
        "metric": metric,
        "is_beaten": is_beaten,
        "message": message,
        "interval": [*interval] if interval is not None and independent else None,
        **({"others": others} if others else {}),
    }


def wilson(share: float, samples: int, trials: int = 1) -> tuple[float, float]:
    """The interval that contains the true share in 95 of 100 cases, if this share of so many independent samples was
    seen (E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927).

    The best of several trials is better by chance. So the interval is that of a higher confidence: each of the trials
    gets its part of the 5 % (Bonferroni's correction).
    """
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * trials))
    shrunk = 1 + z * z / samples
    centre = (share + z * z / (2 * samples)) / shrunk
    half = z / shrunk * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return max(0.0, centre - half), min(1.0, centre + half)
