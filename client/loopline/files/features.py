"""Columns as features: what kind of values they have, their values as numbers, and numbered columns as one feature."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loopline.files.limits import Limits
from loopline.files.problems import Findings
from loopline.files.sequences import Column
from loopline.files.table import Table

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
ArrowKind = Literal["number", "boolean", "time", "category", "list", "empty", "other"]

UNNAMED = "value"
"""The feature of numbered columns without a name before the number, and of unnumbered columns."""
_NUMBERED = re.compile(r"^(?P<stem>.*?)(?P<separator>[_. ]?)(?P<bracket>\[)?(?P<number>\d{1,9})(?(bracket)\])$")
NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
_MOST_ROWS_NAMED = 3
_LARGEST = float(np.finfo(np.float32).max)


def kind_of(type_: pa.DataType) -> ArrowKind:
    """The kind of the values of an Arrow type."""
    is_ = pa.types
    if is_.is_dictionary(type_):
        return kind_of(type_.value_type)
    kinds: list[tuple[ArrowKind, bool]] = [
        ("number", is_.is_integer(type_) or is_.is_floating(type_) or is_.is_decimal(type_)),
        ("boolean", is_.is_boolean(type_)),
        ("time", is_.is_temporal(type_)),
        ("category", is_.is_string(type_) or is_.is_large_string(type_) or is_.is_string_view(type_)),
        ("list", is_.is_list(type_) or is_.is_large_list(type_) or is_.is_fixed_size_list(type_)),
        ("empty", is_.is_null(type_)),
    ]
    return next((kind for kind, found in kinds if found), "other")


def rows_named(table: Table, rows: Iterable[int]) -> str:
    """`line 17`, `line 17 and line 19`, `line 17, line 19, line 40 and 38 more`."""
    rows = np.asarray(rows, np.int64)
    names = [table.row_name(int(row)) for row in rows[:_MOST_ROWS_NAMED]]
    if len(rows) > _MOST_ROWS_NAMED:
        names.append(f"{len(rows) - _MOST_ROWS_NAMED:,} more")
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# ---- values


@dataclass(frozen=True)
class Values:
    """The values of a column: numbers, 0 and 1, or indices into `column.categories`; NaN is missing."""

    column: Column
    data: Floats
    whole: bool = False
    """Whether they are written as whole numbers."""


@dataclass
class Reader:
    """Reads columns of one table as numbers, and collects what is wrong with them."""

    table: Table
    limits: Limits = field(default_factory=Limits)
    findings: Findings = field(default_factory=Findings)

    def named(self, rows: Iterable[int]) -> str:
        return rows_named(self.table, rows)

    def column(self, name: str) -> pa.ChunkedArray:
        return plain(self.table.data.column(name))

    def values(
        self,
        name: str,
        values: pa.ChunkedArray | None = None,
        *,
        vocabulary: pa.Array | None = None,
        row_of: Callable[[Rows], Rows] = lambda rows: rows,
        as_words: bool = False,
    ) -> Values:
        """A column as numbers. `values` is what to read where it is no column of the table itself; `row_of` has the row
        of each of its values. `vocabulary` has the sorted words of a category that spans several columns. `as_words`
        keeps words that look like numbers, such as `007`.

        Problems are added to the findings; the result is then of no use.
        """
        values = self.column(name) if values is None else plain(values)
        kind = kind_of(values.type)
        if kind == "category":
            return self._words(name, values, vocabulary, row_of, as_words)
        if vocabulary is not None and kind != "empty":
            return self._words(name, values.cast(pa.large_string()), vocabulary, row_of, as_words)
        if kind in ("number", "boolean", "empty"):
            data = floats(values)
            self._check_finite(name, data, row_of)
            whole = kind == "boolean" or pa.types.is_integer(values.type)
            return Values(Column(name, "boolean" if kind == "boolean" else "number"), data, whole)
        self.findings.add(f"column {name}", _NO_FEATURE.get(kind, _NO_FEATURE["other"]).format(name, values.type))
        return Values(Column(name), np.full(len(values), np.nan))

    def _words(
        self,
        name: str,
        values: pa.ChunkedArray,
        vocabulary: pa.Array | None,
        row_of: Callable[[Rows], Rows],
        as_words: bool,
    ) -> Values:
        words = vocabulary if vocabulary is not None else different(values)
        numbers = 0 if as_words else int(pc.sum(pc.match_substring_regex(words, NUMBER)).as_py() or 0)
        if words and numbers == len(words):
            data = floats(values.cast(pa.float64()))
            self._check_finite(name, data, row_of)
            return Values(Column(name), data)
        if numbers > 2 and numbers >= len(words) / 2:
            odd = np.flatnonzero(~_is_number(values))
            word = _short(values[int(odd[0])].as_py()) if odd.size else "of another column"
            self.findings.add(
                self.named(row_of(odd)),
                f"`{name}` has numbers, but here it has the words {word}; leave the cell empty where a "
                "number is missing",
            )
            return Values(Column(name), np.full(len(values), np.nan))
        if len(words) > self.limits.max_categories:
            self.findings.add(
                f"column {name}",
                f"it has {len(words):,} different words, at most {self.limits.max_categories:,} are possible; leave it "
                "out if it is an id or a remark",
            )
        return Values(Column(name, "category", tuple(words.to_pylist())), indices(values, words))

    def _check_finite(self, name: str, data: Floats, row_of: Callable[[Rows], Rows]) -> None:
        with np.errstate(invalid="ignore"):
            bad = np.flatnonzero(np.abs(data) > _LARGEST)
        if bad.size:
            self.findings.add(
                self.named(row_of(bad)),
                f"`{name}` is {data[bad[0]]:g}, and a network computes with numbers up to {_LARGEST:.2g}; leave the "
                "cell empty if the value is unknown",
            )


_NO_FEATURE = {
    "time": "`{0}` is a date or time, which a model cannot take as a number; give it as the order (--order {0}), or "
    "leave it out of the features",
    "list": "`{0}` has lists, and this layout takes one value per row; a row with lists is a sequence of its own "
    "(--layout wide)",
    "other": "`{0}` has values of the type {1}; leave it out, or save numbers or words",
}


def plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Words as large strings, also those of a dictionary."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return values.cast(pa.large_string()) if kind_of(values.type) == "category" else values


def floats(values: pa.ChunkedArray) -> Floats:
    """Numbers, true and false, or nothing at all as float64; a missing value is NaN."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    found = values.cast(pa.float64(), safe=False).to_numpy()
    return np.asarray(found, np.float64)


def different(values: pa.ChunkedArray) -> pa.Array:
    """The different values without the missing ones, sorted."""
    found = pc.unique(values).drop_null()
    return found.take(pc.sort_indices(found))


def indices(values: pa.ChunkedArray, known: pa.Array) -> Floats:
    """The index of each value among the known ones, NaN where it is missing."""
    return np.asarray(pc.index_in(values, value_set=known).cast(pa.float64()).to_numpy(), np.float64)


def _is_number(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(pc.match_substring_regex(values, NUMBER).fill_null(True).to_numpy(), np.bool_)


def _short(word: Any) -> str:
    return repr(word if len(word) <= 40 else word[:37] + "...")


# ---- numbered columns


@dataclass(frozen=True)
class Numbered:
    """Columns that differ only in a number: the steps of one feature, or several of a kind."""

    name: str
    columns: tuple[str, ...]
    """In the order of their numbers."""
    numbers: tuple[int, ...]

    @property
    def missing(self) -> tuple[int, ...]:
        """The numbers between the first and the last that have no column, unless they are evenly spaced."""
        first, last = self.numbers[0], self.numbers[-1]
        gaps = {after - before for before, after in zip(self.numbers, self.numbers[1:], strict=False)}
        return () if len(gaps) <= 1 else tuple(sorted(set(range(first, last)) - set(self.numbers)))

    def spelled(self, number: int) -> str:
        """The name of the column that would have this number."""
        return re.sub(
            r"\d+(\]?)$", rf"{number}\1", self.columns[0] if self.columns[0] != self.name else self.columns[1]
        )


def numbered(names: Sequence[str]) -> dict[str, Numbered]:
    """Numbered columns by the name of their feature: `acc_x_0 ... acc_x_59`, `t0 ... t99`, `x[0] ...`, `0 ...`, and
    `x x.1 x.2`, as pandas names columns of the same name. Each has two columns or more."""
    found: dict[tuple[str, str, str], dict[int, str]] = {}
    for name in names:
        match = _NUMBERED.match(name)
        if match and not match["stem"].endswith(("-", "+")):
            key = match["stem"], match["separator"], match["bracket"] or ""
            found.setdefault(key, {}).setdefault(int(match["number"]), name)
    result: dict[str, Numbered] = {}
    plain_names = set(names)
    for (stem, separator, bracket), columns in found.items():
        if separator == "." and stem in plain_names and min(columns) == 1:
            columns[0] = stem
        if len(columns) < 2:
            continue
        name = stem or UNNAMED
        if name in result or (name in plain_names and columns.get(0) != name):
            name = f"{stem}{separator}{bracket}"
        if name and name not in result:
            order = sorted(columns)
            result[name] = Numbered(name, tuple(columns[number] for number in order), tuple(order))
    return result
