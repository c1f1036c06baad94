"""Whatever a table holds: it becomes a data set that can be stored and read again, or it is refused in words."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from loopline.files import store
from loopline.files.build import build
from loopline.files.describe import describe
from loopline.files.inference import infer
from loopline.files.inspection import Inspection
from loopline.files.problems import FileInvalid
from loopline.files.report import report
from loopline.files.schema import Layout, Schema
from loopline.files.table import Format, Table

from tests.client.files.tables import differences
from tests.properties import examples

NAMES = st.sampled_from(
    (
        *("id", "t", "time", "label", "split", "weight", "text", "file", "folder", "value", "", "x", "x.1", "index"),
        *("x_0", "x_1", "x_2", "x_3", "y0", "y1", "y2", "y3", "column_1", "column_2", "column_3", "0", "1", "2", "t-1"),
    )
)
FLOATS = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from((0.0, 1.0, 2.0))
WORDS = st.sampled_from(
    ("a", "b", "train", "test", "1", "2.5", "", "2024-01-01", "=1+2", "one two three four")
) | st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
CELLS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(0, 3) | st.integers(-(1 << 63), (1 << 63) - 1)),
    (pa.uint64(), st.integers(0, (1 << 64) - 1)),
    (pa.int8(), st.integers(0, 2)),
    (pa.float64(), FLOATS),
    (pa.float32(), st.floats(width=32)),
    (pa.string(), WORDS),
    (pa.dictionary(pa.int32(), pa.string()), WORDS),
    (pa.bool_(), st.booleans()),
    (pa.date32(), st.dates()),
    (pa.timestamp("us"), st.datetimes()),
    (pa.timestamp("us", "UTC"), st.datetimes()),
    (pa.duration("ms"), st.integers(0, 1000)),
    (pa.time32("s"), st.integers(0, 86_399)),
    (pa.null(), st.none()),
    (pa.binary(), st.binary(max_size=3)),
    (pa.list_(pa.float64()), st.lists(st.none() | FLOATS, max_size=3)),
    (pa.list_(pa.string()), st.lists(st.none() | WORDS, max_size=3)),
    (pa.list_(pa.list_(pa.float64())), st.lists(st.lists(FLOATS, max_size=2), max_size=3)),
    (pa.struct([("a", pa.int64())]), st.just({"a": 1})),
]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    names = draw(st.lists(NAMES, min_size=1, max_size=7, unique=True))
    rows = draw(st.integers(0, 8))
    columns = []
    for _ in names:
        type_, cells = draw(st.sampled_from(CELLS))
        maybe = cells | st.none() if draw(st.booleans()) else cells
        columns.append(pa.array(draw(st.lists(maybe, min_size=rows, max_size=rows)), type_))
    cut = draw(st.integers(0, rows))
    data = pa.table(columns, names=names)
    data = pa.concat_tables([data.slice(0, cut), data.slice(cut)])  # in two chunks
    return Table(data, draw(st.sampled_from(get_args(Format))), lambda row: f"line {row + 2}")


@st.composite
def schemas(draw: st.DrawFn, table: Table) -> Schema:
    names = st.sampled_from(table.data.column_names)
    several = st.lists(names, min_size=1, max_size=2, unique=True)
    roles = {
        **dict.fromkeys(("group", "features", "static", "target", "known_future"), several),
        **dict.fromkeys(("order", "text", "weight", "split"), names),
        "layout": st.sampled_from(get_args(Layout)),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(roles)), max_size=3, unique=True))
    return Schema.from_document({role: draw(roles[role]) for role in chosen})


@given(st.data())
@examples(150)
def test_any_table_becomes_a_data_set_or_is_refused(data: st.DataObject) -> None:
    table = data.draw(tables())
    with suppress(FileInvalid):
        inferred = infer(table, data.draw(schemas(table)))
        found = build(table, inferred.schema)
        told = report(found, table)
        assert told.steps == len(found.x) == found.lengths.sum()
        assert describe(Inspection("a.csv", (), table, inferred, found, told))
        assert infer(table, inferred.schema).schema == inferred.schema
        with TemporaryDirectory() as folder:
            store.write(Path(folder) / "data", found)
            assert differences(store.read(Path(folder) / "data"), found) == []
