"""Exact quantiles of columns that are not in memory as a whole.

The numbers that a quantile lies between are found digit by digit, from the first one on: the values are read once for
each digit, and counted by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_COUNTS = 1 << 23
"""Counts of one pass that are in memory."""

Blocks = Callable[[], Iterable[NDArray[Any]]]
"""Gives values (rows, columns) without NaN, block by block, from the first one on."""


def of_columns(blocks: Blocks, rows: int, columns: int, dtype: np.dtype[Any], parts: Sequence[float]) -> NDArray[Any]:
    """What `np.quantile(values, parts, axis=0)` gives for all values, in float64: (parts, columns)."""
    places = [part * (rows - 1) for part in parts]
    below = [int(np.floor(place)) for place in places]
    ranks = sorted({rank for each in below for rank in (each, min(each + 1, rows - 1))})
    values = dict(zip(ranks, ordered(blocks, columns, dtype, ranks), strict=True))
    found = np.empty((len(parts), columns))
    for number, (place, rank) in enumerate(zip(places, below, strict=True)):
        low, high = values[rank], values[min(rank + 1, rows - 1)]
        share, apart = place - rank, high - low
        found[number] = low + apart * share if share < 0.5 else high - apart * (1 - share)
    return found


def ordered(blocks: Blocks, columns: int, dtype: np.dtype[Any], ranks: Sequence[int]) -> list[NDArray[np.float64]]:
    """The values of these ranks, from 0 on, of each column: (columns,) each."""
    kind = np.dtype(np.uint64 if dtype.itemsize == 8 else np.uint32)
    bits = 16 if columns * len(ranks) << 16 <= MOST_COUNTS else 8
    prefixes = np.zeros((len(ranks), columns), kind)
    left = np.repeat(np.asarray(ranks, np.int64)[:, None], columns, axis=1)  # the rank among values with the prefix
    for shift in range(8 * kind.itemsize - bits, -1, -bits):
        counts = np.zeros((len(ranks), columns, 1 << bits), np.int64)
        for block in blocks():
            _count(counts, _keys(block, kind), prefixes, shift, bits)
        upto = np.cumsum(counts, axis=2)
        digits = (upto <= left[:, :, None]).sum(axis=2)
        before = np.take_along_axis(upto, np.maximum(digits - 1, 0)[:, :, None], axis=2)[:, :, 0]
        left -= np.where(digits > 0, before, 0)
        prefixes = (prefixes << kind.type(bits)) | digits.astype(kind)
    return list(_values(prefixes, dtype).astype(np.float64))


def _count(counts: NDArray[np.int64], keys: NDArray[Any], prefixes: NDArray[Any], shift: int, bits: int) -> None:
    """Adds the values of a block, by the next digit of those that have the prefix."""
    ranks, columns, digits = counts.shape
    for place in range(columns):
        column = np.ascontiguousarray(keys[:, place]) >> keys.dtype.type(shift)
        digit = (column & keys.dtype.type(digits - 1)).astype(np.int64)
        above = column >> keys.dtype.type(bits)
        known: dict[int, NDArray[np.int64]] = {}
        for rank in range(ranks):
            prefix = int(prefixes[rank, place])
            if prefix not in known:
                known[prefix] = np.bincount(digit[above == keys.dtype.type(prefix)], minlength=digits)
            counts[rank, place] += known[prefix]


def _keys(values: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """Whole numbers that are in the order of the values (IEEE 754: the sign comes first)."""
    found = (values + values.dtype.type(0)).view(kind)  # -0.0 becomes 0.0
    sign = kind.type(1 << (8 * kind.itemsize - 1))
    keys: NDArray[Any] = np.where(found & sign, ~found, found | sign)
    return keys


def _values(keys: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Undoes `_keys`."""
    sign = keys.dtype.type(1 << (8 * keys.dtype.itemsize - 1))
    found: NDArray[Any] = np.where(keys & sign, keys & ~sign, ~keys).astype(keys.dtype).view(dtype)
    return found
