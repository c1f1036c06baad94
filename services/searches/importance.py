"""How much each field of a space matters for the metric, by the ranks of trials: a hint, and no proof.

For a field alone: which share of the variance in rank of the trials it explains (adjusted R squared, never below 0).
For a list of values, ranks are explained by the mean rank of each value; for a number by a parabola over its own rank,
so a field whose best value lies in the middle counts too. With ranks, one trial that failed to learn does not dominate.

Other fields are not held fixed, and TPE tries few bad values. So a share of 0 means only that no effect was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.searches.space import Field, Range, Space, key_of

LEAST_TRIALS = 10
"""Nothing is said of a field that was varied in fewer trials."""


class Importance(NamedTuple):
    """How much a field matters."""

    path: str
    share: float
    """Of the variance in rank, from 0 to 1."""
    trials: int
    """The number of trials that it was computed from."""


def of_fields(space: Space, trials: Sequence[tuple[Mapping[str, Any], float | None]]) -> Sequence[Importance]:
    """Of each field with enough trials how much it matters, the most important first.

    Args:
        space: the fields.
        trials: the choices of each trial that can be ranked, and its value or place: equal ones are equally good.
    """
    found = []
    for field in space.fields:
        having = [(choices[field.path], value) for choices, value in trials if field.path in choices]
        if len(having) >= LEAST_TRIALS:
            values = np.array([value for _, value in having], dtype=np.float64)
            found.append(Importance(field.path, _share(field, [chosen for chosen, _ in having], values), len(having)))
    return sorted(found, key=lambda each: -each.share)


def _share(field: Field, chosen: Sequence[Any], values: NDArray[np.float64]) -> float:
    ranks = _ranks(values)
    if isinstance(field.domain, Range):
        x = _ranks(np.array(chosen, dtype=np.float64))
        x = (x - x.mean()) / len(x)
        columns = np.stack([np.ones_like(x), x, x * x], axis=1)
    else:
        _, places = np.unique([key_of(each) for each in chosen], return_inverse=True)
        columns = np.eye(int(places.max()) + 1)[places]
    return _adjusted(columns, ranks)


def _adjusted(columns: NDArray[np.float64], ranks: NDArray[np.float64]) -> float:
    """Adjusted R squared of a linear model, at least 0."""
    total = float(((ranks - ranks.mean()) ** 2).sum())
    freedom = len(ranks) - int(np.linalg.matrix_rank(columns))
    if total == 0.0 or freedom <= 0:
        return 0.0
    fitted = columns @ np.linalg.lstsq(columns, ranks, rcond=None)[0]
    left = float(((ranks - fitted) ** 2).sum())
    return float(max(0.0, 1.0 - (left / freedom) / (total / (len(ranks) - 1))))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0; equal values have their mean rank."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.asarray((first + (counts - 1) / 2.0)[places], dtype=np.float64)
