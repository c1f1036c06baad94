"""Which groups the parts of a split by group take: splits.py draws them, rules.py counts them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from services.training.spec import folds
from services.training.spec.fields import Split


def with_others(fractions: Mapping[str, float], split: Split) -> Iterator[tuple[str, float, int]]:
    """Each part with its share, and how many parts after it need something too: training does, and each fold."""
    shares_left = list(fractions.values())
    training = folds.units_needed(split) if split.folds else 1
    for place, (name, share) in enumerate(fractions.items(), 1):
        yield name, share, training + sum(one > 0 for one in shares_left[place:])


def groups_of_parts(sizes: Sequence[float], fractions: Mapping[str, float], split: Split) -> dict[str, list[int]]:
    """The groups that each part takes of groups of these sizes, at random: whole ones, until it has about as many
    samples as it is to have."""
    free: list[int] = np.random.default_rng([split.seed, 0x5EED]).permutation(len(sizes)).tolist()
    chosen, samples = {}, sum(sizes)
    for name, share, others in with_others(fractions, split):
        taken = _groups_of([sizes[group] for group in free], share * samples, most=len(free) - others)
        chosen[name], gone = [free[place] for place in taken], frozenset(taken)
        free = [group for place, group in enumerate(free) if place not in gone]
    return chosen


def _groups_of(sizes: Sequence[float], wanted: float, most: int) -> list[int]:
    """The places of at most so many groups, in this order, that together have about `wanted` samples: one at least."""
    taken: list[int] = []
    total = 0.0
    if wanted <= 0 or most < 1:
        return taken
    for place, size in enumerate(sizes):
        if abs(total + size - wanted) < abs(total - wanted):
            taken.append(place)
            total += size
            if len(taken) == most or total >= wanted:
                break
    return taken or [sizes.index(min(sizes))]
