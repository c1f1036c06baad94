"""Is one model better than another on the same samples, and could that be luck? Knows no network: numpy alone.

Each model's answers become sums over samples (`Scores`), and every metric is a function of those sums. So what the
metric would be with some of the answers exchanged, or with one sample left out, is a sum again and no new evaluation.

Luck: if both models were equally good, each sample's two answers could as well have been each other's. Exchanging them
at random gives the differences that luck makes; the p-value is the share of those that are as large as the real one
(an approximate randomization test: Noreen 1989; for accuracy it is McNemar's exact test, but for being drawn).
Size: the standard error of the difference is that of the jackknife (Efron and Tibshirani 1993, chapter 11).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EXCHANGES = 9_999
FEWER_EXCHANGES = 1_999
"""Where more than MANY samples are answered differently: the p-value is a bit coarser, and the time bounded."""
MANY = 20_000
BLOCK = 8 << 20
"""Random bits drawn at once."""


@dataclass(frozen=True)
class Scores:
    """What a model is worth, as sums: (samples, quantities). `value` makes the metric of sums (..., quantities)."""

    sums: Floats
    value: Callable[[Floats], Floats]


@dataclass(frozen=True)
class Comparison:
    """A new model beside the one before, on the same samples, in the metric's units; a better one has the greater
    improvement, whichever way the metric points."""

    new: float
    old: float
    improvement: float
    standard_error: float
    at_least: float
    """The improvement is no less, with a confidence of 1 - error_rate."""
    p_value: float
    samples: int
    differing: int
    """Samples that the two answer differently, as far as the metric is concerned."""

    def document(self) -> dict[str, Any]:
        return {key: value if np.isfinite(value) else None for key, value in vars(self).items()}


def compare(new: Scores, old: Scores, *, higher_is_better: bool, error_rate: float, seed: int = 0) -> Comparison:
    """Sets the new model's scores beside the old one's, of the same samples in the same order.

    The random exchanges are drawn from the seed, so the same answers give the same p-value.
    """
    sign = 1.0 if higher_is_better else -1.0
    total_new, total_old = new.sums.sum(axis=0), old.sums.sum(axis=0)
    value_new, value_old = float(new.value(total_new)), float(old.value(total_old))
    improvement = sign * (value_new - value_old)
    apart = new.sums - old.sums
    differing = np.flatnonzero(apart.any(axis=1))
    standard_error = _jackknife(new, old)
    return Comparison(
        new=value_new,
        old=value_old,
        improvement=improvement,
        standard_error=standard_error,
        at_least=improvement - NormalDist().inv_cdf(1.0 - error_rate) * standard_error,
        p_value=_luck(new, total_new, total_old, apart[differing], sign, improvement, seed),
        samples=len(new.sums),
        differing=len(differing),
    )


def _luck(
    scores: Scores, total_new: Floats, total_old: Floats, apart: Floats, sign: float, improvement: float, seed: int
) -> float:
    """How often exchanging answers at random gives as much as the improvement; the real one counts as one of them."""
    if not len(apart):
        return 1.0
    exchanges = EXCHANGES if len(apart) <= MANY else FEWER_EXCHANGES
    rng = np.random.default_rng(seed)
    reached, done = 0, 0
    enough = improvement - 1e-9 * max(1.0, abs(improvement))  # sums in another order differ in their last bits
    while done < exchanges:
        count = max(1, min(exchanges - done, BLOCK // len(apart)))
        bits = np.unpackbits(
            np.frombuffer(rng.bytes((count * len(apart) + 7) // 8), np.uint8), count=count * len(apart)
        )
        moved = bits.reshape(count, len(apart)).astype(np.float32) @ apart
        differences = sign * (scores.value(total_new - moved) - scores.value(total_old + moved))
        reached += int((differences >= enough).sum())
        done += count
    return (1 + reached) / (1 + exchanges)


def _jackknife(new: Scores, old: Scores) -> float:
    """The standard error of the difference: how much leaving out one sample moves it."""
    count = len(new.sums)
    if count < 2:
        return float("inf")
    left_out = [each.value(each.sums.sum(axis=0) - each.sums) for each in (new, old)]
    differences = left_out[0] - left_out[1]
    return float(np.sqrt((count - 1) / count * np.square(differences - differences.mean()).sum()))
