"""Arrays looked at a block of rows at a time, and rows named in a message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 4 << 20  # bytes checked at a time
_SHOWN = 10  # row numbers or labels that a message lists


def blocks(array: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Ranges of rows that are small enough for masks and copies of them to cost nothing."""
    rows = max(1, _BLOCK * len(array) // max(array.nbytes, 1))
    for start in range(0, len(array), rows):
        yield start, min(start + rows, len(array))


def not_finite(array: NDArray[Any]) -> NDArray[np.int64]:
    """The rows that hold NaN, infinity, or a number beyond float32."""
    bad = [np.empty(0, dtype=np.int64)]
    for start, stop in blocks(array):
        with np.errstate(over="ignore"):
            finite = np.isfinite(array[start:stop].astype(np.float32, copy=False))
        if not finite.all():
            bad.append(start + np.flatnonzero(~finite.reshape(stop - start, -1).all(axis=1)))
    return np.concatenate(bad)


def distinct(y: NDArray[Any], *, where: NDArray[np.bool_] | None = None, most: int | None = None) -> NDArray[Any]:
    """The sorted labels of these rows, or of enough of them to hold more than `most`."""
    labels = y[:0].reshape(-1)
    for start, stop in blocks(y):
        labels = np.union1d(labels, y[start:stop] if where is None else y[start:stop][where[start:stop]])
        if most is not None and labels.size > most:
            break
    return labels


def some(values: NDArray[Any]) -> str:
    """The first few different values."""
    found = np.unique(values[:100_000])[:_SHOWN]
    return ", ".join(repr(value)[:40] for value in found.tolist())


def marked(bad: NDArray[np.bool_]) -> str:
    return listed(np.flatnonzero(bad))


def holding(rows: NDArray[np.int64]) -> str:
    return f"{listed(rows)} {'holds' if rows.size == 1 else 'hold'}"


def listed(rows: NDArray[np.int64]) -> str:
    """Name the first rows: 'row 3', 'rows 3, 17 and 40 (3 in all)', 'rows 0, 1, ... and 90 more (100 in all)'."""
    if rows.size == 1:
        return f"row {rows[0]}"
    shown = [str(row) for row in rows[:_SHOWN].tolist()]
    last = f"{rows.size - _SHOWN:,} more" if rows.size > _SHOWN else shown.pop()
    return f"rows {', '.join(shown)} and {last} ({rows.size:,} in all)"
