"""Sums of columns that are not in memory as a whole, equal to numpy's bit for bit.

The last bits of a sum depend on the order of the additions. numpy adds rows one after the other, and the numbers of a
column pairwise. Numbers that it casts on the way it adds in pieces of `PIECE`. So that data gives the same model
wherever it is, the same is done here, block by block. If another numpy has another order, these sums stay right, and
only the last bits differ.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

PIECE = 8192
"""Numbers that numpy casts at a time."""
LEAF = 1 << 16
"""Numbers of a column that are kept until they are added."""

Floats = NDArray[np.float64]


class Sum(Protocol):
    """Of the columns of values (rows, columns) that come block by block, in float64."""

    def add(self, block: NDArray[Any]) -> None: ...

    @property
    def total(self) -> Floats:
        """(columns,), after all rows were added."""
        ...


def of_rows(columns: int, rows: int, dtype: np.dtype[Any], *, by_column: bool) -> Sum:
    """Sums as those of an array (rows, columns) of this type. `by_column`: each column is in one piece in memory."""
    if not by_column and columns > 1:
        return _ByRow(columns)
    return _ByColumn([column(rows, dtype) for _ in range(columns)])


def column(count: int, dtype: np.dtype[Any]) -> Column:
    """The sum of so many numbers of this type."""
    return _Pairwise(count) if dtype == np.float64 else _InPieces()


class Column(Protocol):
    """The sum of numbers that come block by block."""

    def add(self, values: NDArray[Any]) -> None: ...

    @property
    def total(self) -> float: ...


class _ByRow:
    def __init__(self, columns: int) -> None:
        self.total: Floats = np.zeros(columns)

    def add(self, block: NDArray[Any]) -> None:
        rows = np.concatenate((self.total[None], block), axis=0, dtype=np.float64)
        self.total = np.add.reduce(np.ascontiguousarray(rows), axis=0)


class _ByColumn:
    def __init__(self, columns: list[Column]) -> None:
        self._columns = columns

    def add(self, block: NDArray[Any]) -> None:
        for place, one in enumerate(self._columns):
            one.add(block[:, place])

    @property
    def total(self) -> Floats:
        return np.array([one.total for one in self._columns])


class _InPieces:
    def __init__(self) -> None:
        self._sum = 0.0
        self._rest = np.empty(0)

    def add(self, values: NDArray[Any]) -> None:
        there = np.concatenate((self._rest, values), dtype=np.float64)
        whole = len(there) // PIECE * PIECE
        for each in np.add.reduce(there[:whole].reshape(-1, PIECE), axis=1).tolist():
            self._sum += each
        self._rest = there[whole:].copy()

    @property
    def total(self) -> float:
        return self._sum + float(np.add.reduce(self._rest)) if len(self._rest) else self._sum


class _Pairwise:
    def __init__(self, count: int) -> None:
        self._total = 0.0
        self._parts = _halves(count)
        self._wanted = next(self._parts, 0)
        self._rest: Floats = np.empty(0)

    def add(self, values: NDArray[Any]) -> None:
        there = np.concatenate((self._rest, values), dtype=np.float64)
        start = 0
        while self._wanted and len(there) - start >= self._wanted:
            part = float(np.add.reduce(there[start : start + self._wanted]))
            start += self._wanted
            try:
                self._wanted = self._parts.send(part)
            except StopIteration as end:
                self._wanted, self._total = 0, end.value
        self._rest = there[start:].copy()

    @property
    def total(self) -> float:
        return self._total


def _halves(count: int) -> Generator[int, float, float]:
    """Asks for the sums of parts, by their sizes, and adds them as `pairwise_sum` of numpy does."""
    if count <= LEAF:
        found = yield count
        return found
    half = count // 2
    half -= half % 8
    left = yield from _halves(half)
    right = yield from _halves(count - half)
    return left + right
