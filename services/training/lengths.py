"""How good a model is on shorter and on longer sequences, or after how many steps of a text: tables of `details`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.training import epochs
from services.training.measures import MEASURES

BINS = 4
"""Quartiles of the lengths."""
FEWEST = 20
"""Of fewer sequences nothing is said."""
ERRORS, SHARE = 3.0, 0.05
"""A quartile is clearly worse than the others if it is by so many standard errors, and by this share."""
PLACES = (10, 100, 1_000, 10_000)
"""The last steps of the bins of a text."""

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Columns = dict[str, Any]


@dataclass(frozen=True)
class Worth:
    """What a metric of sequences is made of, as in gate/paired.py: sums (sequences, quantities), and the metric of
    sums."""

    metric: str
    sums: Floats
    value: Callable[[Floats], Floats]


def quartiles(sizes: Rows) -> list[Mask]:
    """Which sequences are in each quartile of the lengths (sequences,), from the shortest to the longest; fewer where
    quartiles are of the same length."""
    ends = np.unique(np.quantile(sizes, np.arange(1, BINS + 1) / BINS, method="inverted_cdf"))
    return [(below < sizes) & (sizes <= end) for below, end in zip([0, *ends[:-1]], ends, strict=True)]


def of_sequences(sizes: Rows, worth: Worth, metrics: Callable[[Mask], dict[str, float | None]]) -> Columns | None:
    """The metrics of each quartile of the lengths (sequences,), a list for each column; None where there is but one.
    `metrics` gives those of some sequences."""
    bins = quartiles(sizes) if len(sizes) else []
    if len(bins) < 2:
        return None
    rows = [epochs.finite(metrics(chosen)) for chosen in bins]
    return {
        "shortest": [int(sizes[chosen].min()) for chosen in bins],
        "longest": [int(sizes[chosen].max()) for chosen in bins],
        "sequences": [int(chosen.sum()) for chosen in bins],
        **{name: [row[name] for row in rows] for name in rows[0]},
        "is_worse": [is_worse(worth, chosen) for chosen in bins],
    }


def is_worse(worth: Worth, chosen: Mask) -> bool:
    """Whether a model is worse on the chosen sequences (sequences,) than on the others, by more than luck explains."""
    if min(chosen.sum(), (~chosen).sum()) < FEWEST:
        return False
    own, others = worth.sums[chosen], worth.sums[~chosen]
    value, than = (float(worth.value(sums.sum(axis=0))) for sums in (own, others))
    apart = than - value if MEASURES[worth.metric].higher_is_better else value - than
    error = float(np.hypot(_error(own, worth), _error(others, worth)))
    return bool(apart > max(ERRORS * error, SHARE * abs(than)))


def _error(sums: Floats, worth: Worth) -> float:
    """The standard error of the metric of some sequences, by the jackknife."""
    values = worth.value(sums.sum(axis=0) - sums)
    return float(np.sqrt((len(sums) - 1) / len(sums) * np.square(values - values.mean()).sum()))


# ---- sequences that are read in windows, whose answers are too many to be kept

Batches = Iterator[tuple[Rows, Tensor, Tensor]]
"""Of some targets: their places among all, their losses without weights, and whether the likeliest answer is right."""


def of_windows(sizes: Rows, batches: Batches) -> Columns | None:
    """The accuracy of each quartile of the lengths (sequences,)."""
    ends = np.cumsum(sizes)
    right = np.zeros(len(sizes))
    for places, _, hits in batches:
        sequence = np.searchsorted(ends, places, side="right")
        right += np.bincount(sequence, hits.double().cpu().numpy(), minlength=len(sizes))
    worth = Worth("accuracy", np.stack((right, sizes.astype(np.float64)), axis=1), lambda s: s[..., 0] / s[..., 1])
    return of_sequences(sizes, worth, lambda chosen: {"accuracy": float(worth.value(worth.sums[chosen].sum(axis=0)))})


def of_places(sizes: Rows, batches: Batches, in_other_units: Callable[[float], dict[str, float | None]]) -> Columns:
    """The metrics of the first 10 steps of all texts, of the next ones up to 100, and so on. `in_other_units` gives
    those that follow from a loss."""
    ends = np.cumsum(sizes)
    starts, bins = ends - sizes, len(PLACES) + 1
    counts, losses, right = np.zeros((3, bins))
    for places, each, hits in batches:
        step = places - starts[np.searchsorted(ends, places, side="right")]
        number = np.searchsorted(np.array(PLACES), step, side="right")
        counts += np.bincount(number, minlength=bins)
        losses += np.bincount(number, each.double().cpu().numpy(), minlength=bins)
        right += np.bincount(number, hits.double().cpu().numpy(), minlength=bins)
    there = int((counts > 0).sum())
    rows = [
        epochs.finite({"accuracy": hit / count, **in_other_units(loss / count)})
        for count, loss, hit in zip(counts[:there], losses[:there], right[:there], strict=True)
    ]
    return {
        "first": [1, *(each + 1 for each in PLACES)][:there],
        "last": [*PLACES[: there - 1], int(sizes.max())],
        "steps": [int(count) for count in counts[:there]],
        **{name: [row[name] for row in rows] for name in rows[0]},
    }


def targets_of(sizes: Rows, chosen: Mask) -> Tensor:
    """Of the targets of all steps, one sequence after the other, which are of the chosen sequences: (targets,)."""
    return torch.from_numpy(np.repeat(chosen, sizes))
