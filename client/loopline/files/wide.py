"""Tables with one row per sequence: numbered columns or lists are its steps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loopline.files.features import NUMBER, UNNAMED, Reader, Rows, Values, different, kind_of, numbered, plain
from loopline.files.long import Arrangement, named
from loopline.files.problems import Findings
from loopline.files.sequences import Column
from loopline.files.table import Table

FEWEST_STEPS = 3
"""Fewer numbered columns than this are values of their own, not the steps of a feature."""


@dataclass(frozen=True)
class Source:
    """Where the steps of one feature are: one column per step, or one column of lists."""

    name: str
    columns: tuple[str, ...]
    lists: bool = False


def sources(table: Table, features: Sequence[str], used: Collection[str], findings: Findings) -> list[Source]:
    """The source of each feature. Columns that are the steps of none are together one feature, in their order.

    `used` are columns with another role, which are no steps. Gaps in the numbers are a problem.
    """
    names = table.data.column_names
    stems = numbered(names)
    found: list[Source] = []
    loose: list[str] = []
    for feature in features:
        if feature in stems:
            stem = stems[feature]
            if stem.missing:
                _add_gap(findings, feature, stem.spelled(stem.missing[0]), len(stem.missing), stem.columns)
            found.append(Source(feature, tuple(name for name in stem.columns if name not in used)))
        elif feature in names and kind_of(table.data.schema.field(feature).type) == "list":
            found.append(Source(feature, (feature,), lists=True))
        else:
            loose.append(feature)
    if loose and found:
        findings.add(
            f"column {loose[0]}",
            f"`{loose[0]}` has one value per sequence, and the other features have a value per step; make it a static "
            f"column (--static {loose[0]})",
        )
    elif loose:
        found.append(Source(UNNAMED, tuple(loose)))
    _check_equally_long(found, findings)
    return found


def _add_gap(findings: Findings, feature: str, missing: str, count: int, columns: Sequence[str]) -> None:
    more = f" and {count - 1:,} more" if count > 1 else ""
    findings.add(
        f"column {missing}",
        f"there is no column `{missing}`{more} between `{columns[0]}` and `{columns[-1]}`, so the steps of `{feature}` "
        "have a gap; add it (empty cells are missing values), or name other features",
    )


def _check_equally_long(found: Sequence[Source], findings: Findings) -> None:
    steps = [source for source in found if not source.lists]
    if 0 < len(steps) < len(found):
        lists = next(source.name for source in found if source.lists)
        findings.add(
            f"column {lists}",
            f"`{lists}` has lists and `{steps[0].name}` numbered columns; use one form for all features",
        )
    for source in steps[1:]:
        if len(source.columns) != len(steps[0].columns):
            findings.add(
                f"column {source.columns[-1]}",
                f"`{source.name}` has {len(source.columns):,} numbered columns and `{steps[0].name}` "
                f"{len(steps[0].columns):,}; every feature needs the same steps. Name the features that belong "
                "together (--features)",
            )


def arranged(reader: Reader, found: Sequence[Source], group: Sequence[str]) -> Arrangement:
    """The length of each row: up to the last step with a value in any feature, or that of its lists."""
    lengths = _lengths(reader, found)
    empty = np.flatnonzero(lengths == 0)
    if empty.size:
        reader.findings.add(reader.named(empty), "the row has no values; delete it")
        lengths = np.maximum(lengths, 1)
    ids = None
    if group:
        columns = {name: reader.column(name) for name in group}
        nameless = np.flatnonzero(np.logical_or.reduce([values.is_null().to_numpy() for values in columns.values()]))
        if nameless.size:
            reader.findings.add(reader.named(nameless), f"`{group[0]}` is empty; every row needs a name, or goes")
        else:
            ids = named(reader.table, columns, group, np.arange(len(lengths)))
    return Arrangement(lengths=lengths, rows=None, by_step=False, ids=ids)


def _lengths(reader: Reader, found: Sequence[Source]) -> Rows:
    lengths = np.zeros(reader.table.data.num_rows, np.int64)
    for number, source in enumerate(found):
        if source.lists:
            own = np.asarray(pc.list_value_length(reader.column(source.name)).fill_null(0).to_numpy(), np.int64)
            odd = np.flatnonzero(own != lengths)
            if number and odd.size:
                reader.findings.add(
                    reader.named(odd),
                    f"`{source.name}` has {own[odd[0]]:,} steps and `{found[0].name}` {lengths[odd[0]]:,}; all "
                    "features of a sequence need equally many",
                )
            lengths = np.maximum(lengths, own)
            continue
        for step, name in enumerate(source.columns, start=1):
            lengths = np.maximum(lengths, step * ~np.asarray(_missing(reader.column(name))))
    return lengths


def _missing(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(values.is_null(nan_is_null=pa.types.is_floating(values.type)).to_numpy(), np.bool_)


def width(reader: Reader, source: Source) -> int:
    """The number of features of a source: 1, or of lists of lists as many as the first step has values."""
    if not source.lists:
        return 1
    inner = pc.list_flatten(reader.column(source.name))
    if kind_of(inner.type) != "list":
        return 1
    return max(1, int(pc.list_value_length(inner.slice(0, 1)).fill_null(1).to_pylist()[0])) if len(inner) else 1


def steps(reader: Reader, source: Source, lengths: Rows) -> Iterator[Values]:
    """The values (steps,) of a source, sequence after sequence. Lists of lists are several features."""
    if source.lists:
        return _of_lists(reader, source.name, lengths)
    return iter([_of_columns(reader, source, lengths)])


def _of_columns(reader: Reader, source: Source, lengths: Rows) -> Values:
    columns = [reader.column(name) for name in source.columns]
    starts = np.cumsum(lengths) - lengths
    data = np.full(int(lengths.sum()), np.nan)
    if _has_odd_words(reader, source, columns):
        return Values(Column(source.name), data)
    vocabulary = None
    if not any(kind_of(values.type) == "number" for values in columns):
        words = [values for values in columns if kind_of(values.type) == "category"]
        chunks = [chunk for values in columns for chunk in values.cast(pa.large_string()).chunks] if words else None
        vocabulary = different(pa.chunked_array(chunks, pa.large_string())) if chunks else None
    kinds = set()
    column = Column(source.name)
    for step, (name, values) in enumerate(zip(source.columns, columns, strict=True)):
        rows = np.flatnonzero(lengths > step)
        read = reader.values(name, values, vocabulary=vocabulary)
        data[starts[rows] + step] = read.data[rows]
        if kind_of(values.type) != "empty":
            kinds.add(read.column.kind)
            column = Column(source.name, read.column.kind, read.column.categories)
    return Values(column if len(kinds) == 1 else Column(source.name), data)


def _has_odd_words(reader: Reader, source: Source, columns: Sequence[pa.ChunkedArray]) -> bool:
    """Whether some columns of a feature have words and others numbers; each such column is a problem."""
    kinds = [kind_of(values.type) for values in columns]
    found = False
    for name, values, kind in zip(source.columns, columns, kinds, strict=True):
        if kind == "category" and "number" in kinds:
            odd = np.flatnonzero(pc.invert(pc.match_substring_regex(values, NUMBER)).fill_null(False).to_numpy())
            if odd.size:
                found = True
                reader.findings.add(
                    reader.named(odd),
                    f"`{name}` has the words {values[int(odd[0])].as_py()[:40]!r}, and other steps of `{source.name}` "
                    "have numbers; leave the cell empty where a number is missing",
                )
    return found


def _of_lists(reader: Reader, name: str, lengths: Rows) -> Iterator[Values]:
    column = reader.column(name)
    total = int(lengths.sum())
    values = plain(pc.list_flatten(column))
    parents = np.repeat(np.arange(len(column)), pc.list_value_length(column).fill_null(0).to_numpy())
    if kind_of(values.type) != "list":
        yield _fitting(reader.values(name, values, row_of=lambda places: parents[places]), total)
        return
    sizes = pc.list_value_length(values).fill_null(-1).to_numpy()
    wide = int(sizes[0]) if len(sizes) else 0
    odd = np.flatnonzero(sizes != wide)
    if odd.size or wide < 1:
        where = reader.named(np.unique(parents[odd])) if odd.size else f"column {name}"
        reader.findings.add(where, f"`{name}` has steps of different widths; each step needs equally many values")
        for _ in range(width(reader, Source(name, (name,), lists=True))):
            yield Values(Column(name), np.full(total, np.nan))
        return
    flat = plain(pc.list_flatten(values))
    for feature in range(wide):
        one = flat.take(pa.array(np.arange(feature, len(flat), wide)))
        yield _fitting(reader.values(f"{name}[{feature}]", one, row_of=lambda places: parents[places]), total)


def _fitting(values: Values, steps_: int) -> Values:
    """The values; those of a file with problems may be too few."""
    if len(values.data) == steps_:
        return values
    return Values(values.column, np.resize(values.data, steps_) if len(values.data) else np.full(steps_, np.nan))
