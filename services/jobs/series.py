"""Per-step numbers: packed for the database, and thinned out for a chart.

A chunk of steps that grows no more has its peaks beside it: a few of its steps, with the least and greatest of each
stretch. A chart of a long run is made of peaks alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_STORED, _PLACE = np.dtype("<f4"), np.dtype("<u4")
STEPS_PER_PEAK = 32
"""Of so many steps of a chunk one is kept as a peak."""
LEAST_PEAKS = 6
"""Of a chunk, however short: its first and last step, and the least and greatest of both columns between them."""

Part = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]
"""Steps, ascending, and their losses and gradient norms."""


def pack(values: Sequence[float | None]) -> bytes:
    """Little-endian float32; None, and what is not finite, is stored as NaN."""
    array = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    with np.errstate(over="ignore"):
        narrow = array.astype(_STORED)
    narrow[~np.isfinite(narrow)] = np.nan
    return narrow.tobytes()


def unpack(data: bytes) -> NDArray[np.float32]:
    """What `pack` made, as an array; NaN stands for None."""
    return np.frombuffer(data, dtype=_STORED)


def peaks(loss: bytes, grad_norm: bytes) -> bytes:
    """A few steps of a chunk as `part` reads them: their places in the chunk, their losses, their gradient norms."""
    columns = unpack(loss), unpack(grad_norm)
    chosen = thin_all(columns, max(len(columns[0]) // STEPS_PER_PEAK, LEAST_PEAKS))
    return chosen.astype(_PLACE).tobytes() + b"".join(column[chosen].tobytes() for column in columns)


def part(first_step: int, loss: bytes | None, grad_norm: bytes | None, peaks: bytes | None) -> Part:
    """The steps of a chunk; if it has `peaks`, these alone."""
    if peaks is None:
        numbers = unpack(loss or b""), unpack(grad_norm or b"")
        return np.arange(first_step, first_step + len(numbers[0])), *numbers
    count = len(peaks) // (_PLACE.itemsize + 2 * _STORED.itemsize)
    places = np.frombuffer(peaks, _PLACE, count).astype(np.int64)
    both = np.frombuffer(peaks, _STORED, offset=places.size * _PLACE.itemsize)
    return first_step + places, both[:count], both[count:]


def plain(values: NDArray[np.float32]) -> list[float | None]:
    """As JSON has it: floats, and None for NaN."""
    return [None if math.isnan(value) else value for value in values.tolist()]


def thin(values: NDArray[np.float32], points: int) -> NDArray[np.intp]:
    """At most `points` (2 or more) ascending indices into `values`: the first, the last, and of each stretch between
    them its least and its greatest, so that a spike is never lost. NaN counts as greatest."""
    count = len(values)
    if count <= points:
        return np.arange(count)
    inner = values[1:-1]
    stretches = (points - 2) // 2
    ends = np.array([0, count - 1])
    if stretches == 0:
        return ends
    edges = np.linspace(0, len(inner), stretches + 1).astype(np.intp)
    rank = np.where(np.isnan(inner), np.float32(np.inf), inner)
    picked = [
        start + index
        for start, stop in pairwise(edges.tolist())
        if stop > start
        for index in (int(rank[start:stop].argmin()), int(rank[start:stop].argmax()))
    ]
    return np.unique(np.concatenate([ends, np.array(picked, dtype=np.intp) + 1]))


def thin_all(columns: Sequence[NDArray[np.float32]], points: int) -> NDArray[np.intp]:
    """At most `points` (2 or more) ascending indices into all `columns`, which are of one length: what `thin` chooses
    for each of them, with an equal part of the points."""
    if len(columns[0]) <= points:
        return np.arange(len(columns[0]))
    each = 2 + (points - 2) // len(columns)  # the first and the last are the same for all
    return np.unique(np.concatenate([thin(column, each) for column in columns]))
