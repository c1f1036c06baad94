"""Which features of `x` float32 cannot hold: numbers so far from zero that float32 makes different ones equal.

Milliseconds since 1970 are an example: near 1.7e12 the next number that float32 knows is 131,072 further on. Such data
is kept as float64, and scaled before it becomes float32. All other data is read as float32 at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT = frozenset({"f2", "f4", "i1", "i2", "u1", "u2", "b1"})
"""Types of which float32 holds every number."""
ROUNDING = 2.0**-49
"""What float64 numbers that are equal may differ by, relative to their size, after some arithmetic."""

_ELEMENTS = 1 << 17  # of a sample, whatever the size of the data set
_MOST_ROWS = 64
_SPOILED = 0.01  # a difference that float32 changes by more than this share of it is spoiled
_SHARE = 0.1  # of all differences that are spoiled, from which on the feature is lost
_FAR = 16.0  # deviations from zero, from which on shifting a feature before the cast makes it much finer


class Sample:
    """Some of the sequences of an array that is read in pieces, in the precision of the file."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, fortran_order: bool) -> None:
        samples, length, features = shape if len(shape) == 3 else (*shape, 1)
        steps = min(length, max(2, _ELEMENTS // (2 * max(1, features))))
        rows = min(samples, max(2, min(_MOST_ROWS, _ELEMENTS // max(1, steps * features))))
        chosen = np.unique(np.linspace(0, max(0, samples - 1), rows).astype(np.int64))[: 0 if 0 in shape else None]
        strides = (1, samples, samples * length) if fortran_order else (length * features, features, 1)
        axes = np.ix_(chosen, np.arange(steps), np.arange(features))
        places = sum((axis * stride for axis, stride in zip(axes, strides, strict=True)), np.int64(0)).reshape(-1)
        self.shape = (len(chosen), steps, features)
        self._order = np.argsort(places)
        self._places = places[self._order]
        self._values = np.zeros(len(self._places), dtype)

    def see(self, start: int, chunk: NDArray[Any]) -> None:
        """Takes what belongs to the sample from a piece of the file that begins at element `start`."""
        first, last = np.searchsorted(self._places, (start, start + len(chunk)))
        self._values[self._order[first:last]] = chunk[self._places[first:last] - start]

    @property
    def values(self) -> NDArray[np.float64]:
        """(sequences, steps, features)"""
        return self._values.reshape(self.shape).astype(np.float64)


def lost(values: NDArray[np.float64]) -> list[int]:
    """The features of some sequences (sequences, steps, features) whose differences float32 cannot hold, and would hold
    if they were shifted towards zero first."""
    if not values.size:
        return []
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(np.float32).astype(np.float64)
        magnitude = np.abs(values).max(axis=(0, 1))
        far = magnitude > _FAR * values.std(axis=(0, 1))
        spoiled = [_spoiled(values, cast, magnitude, axis) for axis in (1, 0)]
    return [int(feature) for feature in np.flatnonzero(far & (np.maximum(*spoiled) > _SHARE))]


def _spoiled(values: NDArray[Any], cast: NDArray[Any], magnitude: NDArray[Any], axis: int) -> NDArray[Any]:
    """Of each feature, the share of the differences along an axis that float32 changes too much."""
    differences = np.diff(values, axis=axis)
    real = np.abs(differences) > ROUNDING * magnitude
    errors = np.abs(np.diff(cast, axis=axis) - differences)
    bad = real & (errors > _SPOILED * np.abs(differences))
    share: NDArray[Any] = bad.sum(axis=(0, 1)) / np.maximum(1, real.sum(axis=(0, 1)))
    return share
