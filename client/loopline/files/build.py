"""Makes sequences of a table, by a schema that says which columns are what."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.files import long, rounding, wide
from loopline.files.features import Floats, Reader, Rows, Values, kind_of, numbered
from loopline.files.limits import Limits
from loopline.files.long import Arrangement
from loopline.files.names import check_names
from loopline.files.problems import refuse
from loopline.files.schema import Schema
from loopline.files.sequences import Column, Sequences
from loopline.files.table import Table
from loopline.files.targets import Predicted, predicted

SPLITS = {
    **dict.fromkeys(("train", "training", "0"), 0),
    **dict.fromkeys(("validation", "valid", "val", "dev", "1"), 1),
    **dict.fromkeys(("test", "testing", "2"), 2),
}
"""What a column of splits may say, in small letters."""
_SAMPLE_STARTS = 64
_SAMPLE_VALUES = 1 << 17
_DEFAULT = Limits()


def build(table: Table, schema: Schema, limits: Limits = _DEFAULT) -> Sequences:
    """The sequences of a table. `schema` must be one that `infer` has completed.

    Raises FileInvalid with everything that is wrong, by row and column.
    """
    reader = Reader(table, limits)
    check_names(table, schema)
    if schema.layout == "text":
        return _of_texts(reader, schema)
    found = _wide(reader, schema) if schema.layout == "wide" else _long(reader, schema)
    reader.findings.check()
    arrangement = found.arrangement
    x, features = _filled(found)
    static = _static(reader, arrangement, schema)
    target = predicted(reader, arrangement, found.targets, by_step=found.targets_by_step) if found.targets else None
    weights, split = _weights(reader, arrangement, schema.weight), _split(reader, arrangement, schema.split)
    reader.findings.check()
    return _sequences(
        schema,
        arrangement,
        x,
        features,
        target=target,
        names=found.targets,
        static=static,
        weights=weights,
        split=split,
    )


def _sequences(
    schema: Schema,
    arrangement: Arrangement,
    x: NDArray[Any],
    features: tuple[Column, ...],
    *,
    target: Predicted | None,
    names: Sequence[Values],
    static: Sequence[Values] = (),
    weights: Floats | None = None,
    split: NDArray[np.int8] | None = None,
    texts: tuple[str, ...] | None = None,
) -> Sequences:
    return Sequences(
        x=x,
        lengths=arrangement.lengths,
        features=features,
        schema=schema,
        y=target.y if target else None,
        targets=target.targets if target else None,
        target_names=tuple(values.column.name for values in names) if target else (),
        classes=target.classes if target else None,
        static=np.stack([values.data for values in static], axis=1) if static else None,
        static_columns=tuple(values.column for values in static),
        weights=weights,
        split=split,
        ids=arrangement.ids,
        times=arrangement.times,
        time_kind=arrangement.time_kind,
        zoned=arrangement.zoned,
        texts=texts,
        notes=arrangement.notes,
    )


# ---- layouts


@dataclass(frozen=True)
class _Found:
    """A table with its rows put in order. Features are read when they are needed, one after the other."""

    arrangement: Arrangement
    features: Sequence[Callable[[], Iterator[Values]]]
    width: int
    """Features of x."""
    targets: Sequence[Values]
    targets_by_step: bool


def _long(reader: Reader, schema: Schema) -> _Found:
    arrangement = long.arranged(reader, schema.group or (), schema.order)

    def ordered(name: str, *, as_words: bool = False) -> Values:
        found = reader.values(name, as_words=as_words)
        return Values(found.column, arrangement.ordered(found.data), found.whole)

    def feature(name: str) -> Callable[[], Iterator[Values]]:
        return lambda: iter([ordered(name)])

    targets = [ordered(name, as_words=True) for name in schema.target or ()]
    features = [feature(name) for name in schema.features or ()]
    return _Found(arrangement, features, len(features), targets, targets_by_step=True)


def _wide(reader: Reader, schema: Schema) -> _Found:
    used = set().union(*(getattr(schema, role) or () for role in ("group", "static", "target")))
    used |= {name for name in (schema.weight, schema.split) if name}
    found = wide.sources(reader.table, schema.features or (), used, reader.findings)
    targets = wide.sources(reader.table, _stems(reader.table, schema.target or ()), (), reader.findings)
    reader.findings.check()
    arrangement = wide.arranged(reader, found, schema.group or ())

    def feature(source: wide.Source) -> Callable[[], Iterator[Values]]:
        return lambda: wide.steps(reader, source, arrangement.lengths)

    features = [feature(source) for source in found]
    width = sum(wide.width(reader, source) for source in found)
    if not targets:
        read = [reader.values(name, as_words=True) for name in schema.target or ()]
        return _Found(arrangement, features, width, read, targets_by_step=False)
    read = [values for source in targets for values in wide.steps(reader, source, arrangement.lengths)]
    return _Found(arrangement, features, width, read, targets_by_step=True)


def _stems(table: Table, target: Sequence[str]) -> list[str]:
    """The targets that have a value for each step: lists, or numbered columns."""
    names = table.data.column_names
    stems = numbered(names)
    return [
        name
        for name in target
        if (kind_of(table.data.schema.field(name).type) == "list" if name in names else name in stems)
    ]


def _of_texts(reader: Reader, schema: Schema) -> Sequences:
    if not schema.text:
        raise refuse("", "no column has texts; name one (--text NAME), or give another layout (--layout)")
    column = reader.column(schema.text)
    count = len(column)
    if kind_of(column.type) != "category":
        reader.findings.add(f"column {schema.text}", f"`{schema.text}` has {column.type}, not texts")
        reader.findings.check()
    empty = np.flatnonzero(column.is_null().to_numpy())
    if empty.size:
        reader.findings.add(reader.named(empty), f"`{schema.text}` is empty; delete the row, or add its text")
    arrangement = Arrangement(np.ones(count, np.int64), None, by_step=False)
    if schema.group:
        names = {name: reader.column(name) for name in schema.group}
        arrangement = Arrangement(
            arrangement.lengths,
            None,
            by_step=False,
            ids=long.named(reader.table, names, schema.group, np.arange(count)),
        )
    targets = [reader.values(name, as_words=True) for name in schema.target or ()]
    target = predicted(reader, arrangement, targets, by_step=False) if targets else None
    static = _static(reader, arrangement, schema)
    weights, split = _weights(reader, arrangement, schema.weight), _split(reader, arrangement, schema.split)
    reader.findings.check()
    return _sequences(
        schema,
        arrangement,
        np.zeros((count, 0), np.float32),
        (),
        target=target,
        names=targets,
        static=static,
        weights=weights,
        split=split,
        texts=tuple(column.to_pylist()),
    )


# ---- x


def _filled(found: _Found) -> tuple[NDArray[Any], tuple[Column, ...]]:
    """x and its columns: float32, unless that cannot hold the differences of a feature."""
    lengths = found.arrangement.lengths
    x = np.empty((int(lengths.sum()), found.width), np.float32)
    sample = _sample(lengths, found.width)
    columns: list[Column] = []
    sampled: list[Floats] = []
    for values in _each(found.features):
        sampled.append(_known(values.data[sample]))
        with np.errstate(over="ignore"):
            x[:, len(columns)] = values.data
        columns.append(values.column)
    if columns and rounding.lost(np.stack(sampled, axis=2)):
        x = np.empty(x.shape, np.float64)
        for place, values in enumerate(_each(found.features)):
            x[:, place] = values.data
    return x, tuple(columns)


def _each(features: Sequence[Callable[[], Iterator[Values]]]) -> Iterator[Values]:
    return itertools.chain.from_iterable(feature() for feature in features)


def _sample(lengths: Rows, features: int) -> Rows:
    """Indices (pieces, steps) of some pieces of sequences. A piece that would go beyond its sequence repeats the last
    step of it."""
    ends = np.cumsum(lengths)
    size = int(min(lengths.max(), max(2, _SAMPLE_VALUES // (2 * max(1, features)))))
    pieces = int(max(2, min(_SAMPLE_STARTS, _SAMPLE_VALUES // (size * max(1, features)))))
    starts = np.unique(np.linspace(0, ends[-1] - 1, pieces).astype(np.int64))
    last = ends[np.searchsorted(ends, starts, side="right")] - 1
    return np.asarray(np.minimum(starts[:, None] + np.arange(size), last[:, None]), np.int64)


def _known(values: Floats) -> Floats:
    """The values with each missing one replaced by the one before it, or by the first in its piece that is known."""
    known = ~np.isnan(values)
    before = np.maximum.accumulate(np.where(known, np.arange(values.shape[1]), 0), axis=1)
    found = np.take_along_axis(values, before, axis=1)
    first = np.take_along_axis(values, known.argmax(axis=1)[:, None], axis=1)
    found = np.where(np.isnan(found), first, found)
    some = values[known][0] if known.any() else 0.0
    return np.where(np.isnan(found), some, found)


# ---- what a sequence has besides


def _by_sequence(reader: Reader, arrangement: Arrangement, role: str, values: Values) -> Floats:
    """One value for each sequence; several are a problem."""
    data = arrangement.ordered(values.data)
    if not arrangement.by_step:
        return data
    odd = arrangement.varying(data)
    if odd.size:
        name = values.column.name
        out = "make it a feature" if role == "static" else "give all rows of a sequence the same"
        reader.findings.add(
            reader.named(arrangement.row_of(odd)),
            f"`{name}` has another value than earlier in the same sequence; {out}",
        )
    found: Floats = data[arrangement.starts]
    return found


def _row_of_sequence(arrangement: Arrangement, sequences: Rows) -> Rows:
    return arrangement.row_of(arrangement.starts[sequences]) if arrangement.by_step else sequences


def _static(reader: Reader, arrangement: Arrangement, schema: Schema) -> list[Values]:
    found = []
    for name in schema.static or ():
        values = reader.values(name)
        found.append(Values(values.column, _by_sequence(reader, arrangement, "static", values)))
    return found


def _weights(reader: Reader, arrangement: Arrangement, name: str | None) -> Floats | None:
    if name is None:
        return None
    values = reader.values(name)
    found = _by_sequence(reader, arrangement, "weight", values)
    if values.column.kind == "category":
        reader.findings.add(f"column {name}", f"`{name}` has words, and a weight is a number above 0")
        return None
    bad = np.flatnonzero(~(found > 0))
    if bad.size:
        reader.findings.add(
            reader.named(_row_of_sequence(arrangement, bad)),
            f"the weight `{name}` must be above 0; to leave a sequence out, delete its rows",
        )
    return found


def _split(reader: Reader, arrangement: Arrangement, name: str | None) -> NDArray[np.int8] | None:
    if name is None:
        return None
    values = reader.values(name, as_words=True)
    words = values.column.categories or tuple(
        f"{number:g}" for number in np.unique(values.data[~np.isnan(values.data)])
    )
    codes = values.data if values.column.categories else np.searchsorted([float(word) for word in words], values.data)
    known = np.array([SPLITS.get(word.strip().lower(), -1) for word in words] or [-1])
    parts = np.where(
        np.isnan(values.data), -1, known[np.nan_to_num(np.minimum(codes, len(known) - 1)).astype(np.int64)]
    )
    bad = np.flatnonzero(parts < 0)
    if bad.size:
        value = reader.column(name)[int(bad[0])].as_py()
        said = "is empty" if value is None else f"is {value!r}"
        reader.findings.add(
            reader.named(bad), f"the split `{name}` {said}; write train, validation or test (or 0, 1, 2)"
        )
        return None
    return _by_sequence(reader, arrangement, "split", Values(values.column, parts.astype(np.float64))).astype(np.int8)
