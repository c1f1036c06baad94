"""What the columns of a table look like: how many different values, in which order, how smooth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from loopline.files.features import ArrowKind, Floats, Rows, different, floats, indices, kind_of, plain
from loopline.files.schema import BETWEEN

MOST_ROWS = 1_000_000
"""Rows that are looked at, from the first on."""
MANY_STEPS = 10
"""From so many numbered columns on, nothing but steps of a sequence is likely."""
SMOOTH = 0.8
"""Roughness (1 is noise) below which neighbours belong together."""
_SAMPLE_ROWS = 2_000
_TEXT_WORDS = 3.0
_COUNTED_UP = 0.95
_NEARLY = 0.98


class Look:
    """Looks at each column of a table when it is asked about it, once."""

    def __init__(self, data: pa.Table) -> None:
        self._all = data
        self._data = data.slice(0, MOST_ROWS)
        self.rows: int = self._data.num_rows
        whole = data.num_rows == self.rows
        self.of_rows = f"a file of {self.rows:,} rows" if whole else f"the first {self.rows:,} rows"
        self.kind = cache(self._kind)
        self.codes = cache(self._codes)
        self.distinct_words = cache(self._distinct_words)
        self._together = cache(self._codes_together)
        self._distinct = cache(self._count_distinct)
        self._words = cache(self._mean_words)

    def _kind(self, name: str) -> ArrowKind:
        """The kind of a column; one without any value is empty."""
        column = self._all.column(name)
        return "empty" if column.null_count == len(column) else kind_of(column.type)

    def column(self, name: str) -> pa.ChunkedArray:
        return plain(self._data.column(name))

    def values(self, name: str) -> list[Any]:
        """The different values of a column, sorted."""
        found: list[Any] = different(self.column(name)).to_pylist()
        return found

    def _codes(self, name: str) -> Rows:
        """A number for each row, the same for equal values; -1 where there is none."""
        column = self.column(name)
        if self.kind(name) == "empty":
            return np.full(self.rows, -1)
        if self.kind(name) in ("list", "other"):  # which Arrow does not compare
            return np.arange(self.rows)
        return np.nan_to_num(indices(column, different(column)), nan=-1).astype(np.int64)

    def _codes_together(self, names: tuple[str, ...]) -> Rows:
        codes = self.codes(names[0])
        for name in names[1:]:
            more = self.codes(name)
            codes = np.unique((codes + 1) * (int(more.max(initial=0)) + 2) + more, return_inverse=True)[1]
        return codes

    def _count_distinct(self, names: tuple[str, ...]) -> int:
        if len(names) == 1 and self.kind(names[0]) not in ("list", "other", "empty"):
            return int(pc.count_distinct(self.column(names[0]), mode="only_valid").as_py())
        codes = self._together(names)
        return len(np.unique(codes[codes >= 0]))

    def distinct(self, names: Sequence[str]) -> int:
        """How many different values the columns together have."""
        return self._distinct(tuple(names))

    def runs(self, names: Sequence[str]) -> int:
        """How many pieces of rows have the same values as the row above."""
        return 1 + int(np.count_nonzero(np.diff(self._together(tuple(names)))))

    def unique(self, names: Sequence[str]) -> bool:
        """Whether the columns together are different in each row."""
        return self.distinct(names) == self.rows

    def nearly_unique(self, names: Sequence[str]) -> bool:
        """Whether the columns together are different in each row but for a few, which may be there twice by mistake."""
        return self.distinct(names) >= _NEARLY * self.rows

    def _distinct_words(self, name: str) -> int:
        """How many different words a column has; 0 for numbers."""
        return len(different(self.column(name))) if self.kind(name) == "category" else 0

    def may_name(self, name: str) -> bool:
        """Whether the values can name something: words or whole numbers."""
        kind = self.kind(name)
        if kind != "number":
            return kind in ("category", "boolean")
        column = self.column(name)
        if pa.types.is_integer(column.type):
            return True
        values = floats(column)
        return bool(np.array_equal(values, np.floor(values)))

    def may_be_joined(self, name: str) -> bool:
        """Whether a name can be made of the values of a column and of others, and be taken apart again."""
        column = self._all.column(name)
        if column.null_count:
            return False
        return self.kind(name) != "category" or not pc.any(pc.match_substring(plain(column), BETWEEN)).as_py()

    def is_label(self, name: str) -> bool:
        """Whether a column has few different whole numbers, or words."""
        return self.may_name(name) and 1 < self.distinct([name]) <= self.rows / 2

    def counts_up(self, name: str) -> bool:
        """Whether a column of numbers mostly grows from row to row; it may begin again, as in the next sequence."""
        values = floats(self.column(name))
        if len(values) < 2 or np.isnan(values).any():
            return False
        steps = np.diff(values)
        falls = np.count_nonzero(steps <= 0)
        whole = np.array_equal(values, np.floor(values))
        return bool(whole or falls <= (1 - _COUNTED_UP) * len(steps))

    def counts_within(self, name: str, group: Sequence[str]) -> bool:
        """Whether a column has consecutive whole numbers within each group, in whatever order the rows are."""
        if self.kind(name) != "number":
            return False
        values, codes = floats(self.column(name)), self._together(tuple(group))
        if np.isnan(values).any() or not np.array_equal(values, np.floor(values)):
            return False
        place = np.lexsort((values, codes))
        return bool((np.diff(values[place])[np.diff(codes[place]) == 0] == 1).all())

    def counts_rows(self, name: str) -> bool:
        """Whether a column has 0, 1, 2, ... or 1, 2, 3, ..."""
        if self.kind(name) != "number":
            return False
        values = floats(self.column(name))
        return bool(len(values) > 1 and values[0] in (0, 1) and (np.diff(values) == 1).all())

    def constant_in(self, name: str, group: Sequence[str]) -> bool:
        """Whether a column has one value in each group, and not the same one in all."""
        codes = self._together(tuple(group))
        own = floats(self.column(name)) if self.kind(name) in ("number", "boolean") else self.codes(name).astype(float)
        own = np.nan_to_num(own, nan=np.inf)  # missing values are equal
        first = np.zeros(int(codes.max(initial=0)) + 2)
        first[codes[::-1]] = own[::-1]
        return bool((first[codes] == own).all() and (own != own[:1]).any())

    def _mean_words(self, name: str) -> float:
        column = self.column(name).slice(0, _SAMPLE_ROWS).drop_null()
        if not len(column):
            return 0.0
        return float(pc.mean(pc.add(pc.count_substring_regex(column, r"\s+"), 1)).as_py())

    def words_each(self, name: str) -> int:
        return round(self._words(name))

    def has_sentences(self, name: str) -> bool:
        """Whether a column of words has several words a row."""
        return self._words(name) >= _TEXT_WORDS

    def is_text(self, name: str) -> bool:
        """Whether a column of words has sentences, most of them different."""
        return self.has_sentences(name) and self.distinct_words(name) > self.rows / 2

    def roughness(self, names: Sequence[str]) -> tuple[float, float]:
        """How rough numbers are from row to row, and from column to column: near 0 if smooth, 1 for noise."""
        columns = [floats(self.column(name).slice(0, _SAMPLE_ROWS)) for name in names[:200]]
        values = np.stack(columns, axis=1)
        return _roughness(values, 0), _roughness(values, 1)


def _roughness(values: Floats, axis: int) -> float:
    """The mean squared difference of neighbours over twice the variance (von Neumann 1941); the median over lines."""
    if values.shape[axis] < 2:
        return 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.square(np.diff(values, axis=axis)).mean(axis=axis) / (2 * values.var(axis=axis))
    found = found[np.isfinite(found)]
    return float(np.median(found)) if found.size else 1.0
