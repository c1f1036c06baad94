"""Tables with one row per step: which rows are one sequence, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loopline.files.features import Reader, Rows, different, floats, indices, kind_of, plain, rows_named
from loopline.files.schema import BETWEEN
from loopline.files.table import Table

MOST_CHARACTERS = 256
"""Of the name of a sequence."""
_NANOSECONDS = 1 << 53
"""Whole numbers from here on, which float64 cannot tell apart, are nanoseconds since 1970."""
_SEVERAL = 3


@dataclass(frozen=True)
class Arrangement:
    """How the rows of a table become sequences."""

    lengths: Rows
    """(sequences,) steps of each."""
    rows: Rows | None
    """The row of each step if rows are steps, else of each sequence; None: as they are in the table."""
    by_step: bool
    """Whether a row is a step, and not a sequence."""
    ids: NDArray[np.str_] | None = None
    times: NDArray[Any] | None = None
    time_kind: Literal["number", "time"] | None = None
    zoned: bool | None = None
    notes: tuple[str, ...] = ()

    @property
    def starts(self) -> Rows:
        """(sequences,) the first step of each."""
        return np.cumsum(self.lengths) - self.lengths

    def ordered(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of rows in the order of the steps, or of the sequences where a row is one."""
        return values if self.rows is None else values[self.rows]

    def row_of(self, places: Rows) -> Rows:
        """The rows of some steps; of some sequences where a row is one."""
        return places if self.rows is None else self.rows[places]

    def constant(self, values: NDArray[Any]) -> NDArray[Any] | None:
        """One value per sequence from ordered values of each step, or None if a sequence has several."""
        return None if self.varying(values).size else values[self.starts]

    def varying(self, values: NDArray[Any]) -> Rows:
        """The steps whose value is not that of the first step of their sequence. NaN equals NaN."""
        first = np.repeat(values[self.starts], self.lengths)
        same = values == first
        if values.dtype.kind == "f":
            same |= np.isnan(values) & np.isnan(first)
        return np.flatnonzero(~same)


@dataclass(frozen=True)
class Order:
    """The values of the column that orders steps, by row."""

    name: str
    keys: NDArray[Any]
    """int64 or float64."""
    kind: Literal["number", "time"]
    zoned: bool | None = None
    """Whether times were written with a zone; None of numbers."""


def arranged(reader: Reader, group: Sequence[str], order: str | None) -> Arrangement:
    """The sequences of a table with one row per step. Sequences are sorted by the values of `group`, and their steps by
    `order`, so the order of rows in the file does not matter. Without `order`, the steps stay as they are.

    Problems are added to the findings; the result is then of no use.
    """
    table, count = reader.table, reader.table.data.num_rows
    codes, names = _groups(reader, group)
    keys = order_of(reader, order) if order else None
    notes: list[str] = []
    rows: Rows | None = None
    if (np.diff(codes) < 0).any():
        rows = np.argsort(codes, kind="stable")
    sorted_codes = codes if rows is None else codes[rows]
    border = np.flatnonzero(np.diff(sorted_codes, prepend=-1))
    if rows is not None and _runs(codes) > len(border):
        notes.append(
            f"The rows of some sequences are not adjacent ({len(border):,} sequences in {_runs(codes):,} pieces); they "
            "are put together."
        )
    if keys is not None:
        rows, kept, note = _by_order(reader, keys, sorted_codes, rows, border, bool(group))
        notes += note
        if not kept.all():
            rows = np.flatnonzero(kept) if rows is None else rows[kept]
            count, border = len(rows), (np.cumsum(kept) - 1)[border]
    lengths = np.diff(border, append=count).astype(np.int64)
    times = keys.keys if keys else None
    return Arrangement(
        lengths=lengths,
        rows=rows,
        by_step=True,
        ids=named(table, names, group, border if rows is None else rows[border]) if group else None,
        times=times if times is None or rows is None else times[rows],
        time_kind=keys.kind if keys else None,
        zoned=keys.zoned if keys else None,
        notes=tuple(notes),
    )


def _runs(codes: Rows) -> int:
    return 1 + int(np.count_nonzero(np.diff(codes)))


def _groups(reader: Reader, group: Sequence[str]) -> tuple[Rows, dict[str, pa.ChunkedArray]]:
    """For each row a number that is the same for the rows of one group and larger for a larger group."""
    codes = np.zeros(reader.table.data.num_rows, np.int64)
    columns: dict[str, pa.ChunkedArray] = {}
    for name in group:
        values = reader.column(name)
        if kind_of(values.type) in ("list", "other"):
            reader.findings.add(f"column {name}", f"`{name}` has {values.type}, which cannot name a sequence")
            continue
        known = different(values)
        found = indices(values, known)
        empty = np.flatnonzero(np.isnan(found))
        if empty.size:
            reader.findings.add(
                reader.named(empty), f"`{name}` is empty; every row needs the sequence that it belongs to, or goes"
            )
            found[empty] = 0
        codes = codes * max(1, len(known)) + found.astype(np.int64)
        if len(columns):  # several columns: keep the numbers small
            codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
        columns[name] = values
    return codes, columns


def named(table: Table, columns: dict[str, pa.ChunkedArray], group: Sequence[str], rows: Rows) -> NDArray[np.str_]:
    """The names of the sequences that begin in these rows: the values of the group, with `/` between them."""
    parts = []
    for values in columns.values():
        found = values.take(pa.array(rows))
        if pa.types.is_floating(found.type):
            whole = floats(found)
            if np.array_equal(whole, np.floor(whole)) and (np.abs(whole) < 1 << 53).all():
                found = pa.chunked_array([pa.array(whole.astype(np.int64))])
        parts.append(found.cast(pa.large_string()))
    words = parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, pa.scalar(BETWEEN, pa.large_string()))
    return np.array([word if word is None else word[:MOST_CHARACTERS] for word in words.to_pylist()], np.str_)


def order_of(reader: Reader, name: str) -> Order:
    """The values that order steps: numbers as float64, dates and times as int64 nanoseconds since 1970 in UTC."""
    values = reader.column(name)
    kind = kind_of(values.type)
    if kind == "category":
        values, kind = _parsed_times(reader, name, values), "time"
    elif kind not in ("number", "time"):
        reader.findings.add(
            f"column {name}", f"`{name}` has {values.type}; steps are ordered by numbers, dates or times"
        )
        return Order(name, np.arange(len(values)), "number")
    empty = np.flatnonzero(values.is_null().to_numpy())
    if empty.size:
        reader.findings.add(reader.named(empty), f"`{name}` is empty; every row needs its place in the order")
    if kind == "number" or not (pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)):
        return _numbers(name, values)
    zone = getattr(values.type, "tz", None)
    try:
        stamps = values.cast(pa.timestamp("ns", zone))
    except pa.ArrowInvalid:
        reader.findings.add(
            f"column {name}", f"`{name}` has times before 1678 or after 2261; give a number as the order"
        )
        return Order(name, np.arange(len(values)), "number")
    keys = np.asarray(stamps.cast(pa.int64()).fill_null(0).to_numpy(), np.int64)
    return Order(name, keys, "time", zone is not None)


def _numbers(name: str, values: pa.ChunkedArray) -> Order:
    if pa.types.is_temporal(values.type):  # times of day and durations, in seconds
        wide = pa.duration("ns") if pa.types.is_duration(values.type) else pa.time64("ns")
        return Order(name, np.nan_to_num(floats(values.cast(wide).cast(pa.int64()))) / 1e9, "number")
    if pa.types.is_integer(values.type) and len(values):
        largest = pc.min_max(values).as_py()
        if max(abs(largest["min"] or 0), abs(largest["max"] or 0)) > _NANOSECONDS and (largest["max"] or 0) < 1 << 63:
            return Order(name, np.asarray(values.cast(pa.int64()).fill_null(0).to_numpy(), np.int64), "time")
    return Order(name, np.nan_to_num(floats(values)), "number")


def _parsed_times(reader: Reader, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Words that are times as ISO 8601 writes them."""
    for type_ in (pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        try:
            return values.cast(type_)
        except pa.ArrowInvalid:
            continue
    plain = (
        pc.match_substring_regex(values, r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?$")
        .fill_null(True)
        .to_numpy()
    )
    zoned = pc.match_substring_regex(values, r"^\d{4}-\d\d-\d\d[T ].*(Z|[+-]\d\d:?\d\d)$").fill_null(True).to_numpy()
    odd = np.flatnonzero(~(plain | zoned))
    if odd.size:
        word = values[int(odd[0])].as_py()[:40]
        reader.findings.add(
            reader.named(odd), f"`{name}` is {word!r}, which is no time; write times as 2024-03-31T14:05:00"
        )
    else:
        mixed = np.flatnonzero(zoned if zoned.sum() < plain.sum() else plain)
        reader.findings.add(
            reader.named(mixed),
            f"`{name}` has times with and without a zone; write all with one, such as 14:05:00+02:00",
        )
    return pa.chunked_array([pa.array(np.arange(len(values)), pa.timestamp("ns"))])


def _by_order(
    reader: Reader, order: Order, codes: Rows, rows: Rows | None, border: Rows, grouped: bool
) -> tuple[Rows | None, NDArray[np.bool_], list[str]]:
    """Rows sorted by the order within each group; which of these are kept; and what there is to note. Rows with equal
    places are a problem, unless they are copies in all columns."""
    keys = order.keys if rows is None else order.keys[rows]
    within = np.diff(codes) == 0
    falls = np.flatnonzero((np.diff(keys) < 0) & within)
    notes = []
    if falls.size:
        unsorted = len(np.unique(np.searchsorted(border, falls, side="right")))
        notes.append(
            f"The rows of {unsorted:,} of {len(border):,} sequences are not in the order of `{order.name}`; they are "
            "sorted by it."
        )
        again = np.lexsort((keys, codes))
        rows = again if rows is None else rows[again]
        keys, within = order.keys[rows], np.diff(codes) == 0
    same, kept = np.flatnonzero((np.diff(keys) == 0) & within), np.ones(len(keys), np.bool_)
    if same.size and not any(f"`{order.name}`" in problem.detail for problem in reader.findings.problems):
        first, second = (same, same + 1) if rows is None else (rows[same], rows[same + 1])
        equal = _equal(reader.table.data, first, second)
        if equal.any():
            kept[same[equal] + 1] = False
            where = rows_named(reader.table, np.sort(second[equal]))
            notes.append(f"{where}: a copy of another row in all columns, so it is used once.")
        if not equal.all():
            _add_duplicates(reader, order.name, first[~equal], second[~equal], grouped)
    return rows, kept, notes


def _equal(data: pa.Table, first: Rows, second: Rows) -> NDArray[np.bool_]:
    """Which pairs of rows are the same in all columns."""
    found = np.ones(len(first), np.bool_)
    for column in data.columns:
        one, other = (plain(column.take(pa.array(rows))) for rows in (first, second))
        if kind_of(column.type) in ("list", "empty", "other"):  # which Arrow does not compare
            same = pa.array([a == b for a, b in zip(one.to_pylist(), other.to_pylist(), strict=True)])
        else:
            same = pc.or_(pc.fill_null(pc.equal(one, other), False), pc.and_(pc.is_null(one), pc.is_null(other)))
        found &= np.asarray(
            same.to_numpy(zero_copy_only=False) if isinstance(same, pa.Array) else same.to_numpy(), bool
        )
    return found


def _add_duplicates(reader: Reader, name: str, first: Rows, second: Rows, grouped: bool) -> None:
    out = (
        "delete one of each, or add the column that tells them apart to the group (--group)"
        if grouped
        else "give the column that names the sequence or series of a row (--group NAME), or delete one of each"
    )
    value = reader.table.data.column(name)[int(second[0])].as_py()
    same = "a row of the same sequence" if grouped else "another row"
    reader.findings.add(
        rows_named(reader.table, second),
        f"`{name}` has the value of {same}: it is {value} in {reader.table.row_name(int(first[0]))} and in "
        f"{reader.table.row_name(int(second[0]))}; {out}",
    )
