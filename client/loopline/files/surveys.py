"""Looks at the arrays of a data set once, in pieces: missing and constant values, equal sequences, gaps in time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loopline.files.features import Floats, Rows
from loopline.files.sequences import Sequences

_BLOCK = 1 << 20
"""Values looked at at a time."""
_LARGE_GAP = 1.5
"""Usual steps from which on a step is a gap."""
_TOLERANCE = 0.1
"""Of the usual step, what a step may differ by."""
_REGULAR = 0.5
"""The share of usual steps from which on a data set is evenly spaced."""


@dataclass(frozen=True)
class Survey:
    """What is in x, by feature, and which sequences are equal."""

    missing: Rows
    """(features,) missing values."""
    low: Floats
    high: Floats
    """(features,) the smallest and largest value; NaN if there is none."""
    same_as: Rows
    """(sequences,) the first sequence with the same content; a sequence that is the first one has its own number."""


def survey(sequences: Sequences) -> Survey:
    """Looks at each feature, and for equal sequences."""
    steps, features = sequences.x.shape
    missing = np.zeros(features, np.int64)
    low, high = np.full(features, np.nan), np.full(features, np.nan)
    keys = np.zeros(steps, np.uint64)
    for start, stop in _blocks(steps, features):
        block = sequences.x[start:stop]
        missing += np.isnan(block).sum(axis=0)
        low = np.fmin(low, np.fmin.reduce(block, axis=0))
        high = np.fmax(high, np.fmax.reduce(block, axis=0))
        keys[start:stop] = _keys(block)
    return Survey(missing, low, high, _same(sequences, keys))


def _blocks(steps: int, features: int) -> Iterator[tuple[int, int]]:
    size = max(1, _BLOCK // max(1, features))
    for start in range(0, steps, size):
        yield start, min(steps, start + size)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Other numbers for other ones, without order (the last part of splitmix64)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _keys(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """A number for each row: the same for equal ones, and hardly ever for others."""
    bits = (np.ascontiguousarray(rows, np.float64) + 0.0).view(np.uint64)
    places = np.arange(1, bits.shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    found: NDArray[np.uint64] = _mixed(bits + places).sum(axis=1, dtype=np.uint64)
    return found


def _same(sequences: Sequences, keys: NDArray[np.uint64]) -> Rows:
    lengths = sequences.lengths
    starts = np.cumsum(lengths) - lengths
    places = np.arange(len(keys), dtype=np.int64) - np.repeat(starts, lengths)
    whole = np.add.reduceat(_mixed(keys + _mixed(places.astype(np.uint64))), starts)
    if sequences.static is not None:
        whole = _mixed(whole) + _keys(sequences.static)
    if sequences.texts is not None:
        words = pa.chunked_array([pa.array(sequences.texts, pa.large_string())]).combine_chunks().dictionary_encode()
        whole = _mixed(whole) + np.asarray(words.indices.to_numpy(), np.uint64)
    _, first, which = np.unique(_mixed(whole) + lengths.astype(np.uint64), return_index=True, return_inverse=True)
    return np.asarray(first[which.reshape(-1)], np.int64)


# ---- times


@dataclass(frozen=True)
class Times:
    """When the steps are, and where some may be missing."""

    first: str
    last: str
    usual: str | None
    """The usual time between two steps; None if steps are not evenly spaced."""
    gaps: Rows
    """Steps after which a gap follows."""
    missing: Rows
    """For each gap, how many steps of the usual length are missing."""
    shortest: str
    longest: str


def of_times(sequences: Sequences) -> Times | None:
    """The times of a data set; None if it has none, or no sequence has two steps."""
    times = sequences.times
    if times is None or len(times) == len(sequences.lengths):
        return None
    inner = np.ones(len(times), np.bool_)
    inner[np.cumsum(sequences.lengths) - 1] = False
    before = np.flatnonzero(inner)
    steps = times[before + 1] - times[before]
    usual = float(np.median(steps))
    regular = float(np.mean(np.abs(steps - usual) <= _TOLERANCE * usual)) >= _REGULAR
    large = np.flatnonzero(steps > _LARGE_GAP * usual) if regular else np.zeros(0, np.int64)
    is_time = sequences.time_kind == "time"
    return Times(
        first=moment(times.min(), is_time),
        last=moment(times.max(), is_time),
        usual=span(usual, is_time) if regular else None,
        gaps=before[large],
        missing=np.maximum(1, np.round(steps[large] / usual).astype(np.int64) - 1),
        shortest=span(float(steps.min()), is_time),
        longest=span(float(steps.max()), is_time),
    )


def moment(value: Any, is_time: bool) -> str:
    """`2024-03-31 14:05:00`, or the number."""
    if not is_time:
        return f"{float(value):.12g}"
    whole = int(value) % 1_000_000_000 == 0
    stamp = np.datetime64(int(value), "ns")
    return str(stamp.astype("datetime64[s]") if whole else stamp).replace("T", " ")


def span(value: float, is_time: bool) -> str:
    """`1 hour`, `15 minutes`, `20 ms`, or the number."""
    if not is_time:
        return f"{value:.6g}"
    for size, unit in ((86_400e9, "day"), (3_600e9, "hour"), (60e9, "minute"), (1e9, "second")):
        if value >= size:
            count = value / size
            return f"{count:.4g} {unit}{'' if count == 1 else 's'}"
    return f"{value / 1e6:.4g} ms"
