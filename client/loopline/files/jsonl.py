"""JSONL: one object a line, whose keys are columns. A value is a number, a text, a boolean, null, or a list of these.

pyarrow parses a block with the types of the columns so far. A block that does not fit is parsed line by line in Python,
which finds new keys, wider types, `NaN`, and the line of a mistake.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pj

from loopline.files import columns
from loopline.files.columns import Column
from loopline.files.limits import Limits
from loopline.files.problems import FileInvalid, Findings, refuse
from loopline.files.source import Source
from loopline.files.spool import Spool
from loopline.files.table import Table
from loopline.files.textual import Block, Lines, Text, count_byte
from loopline.files.values import WORDS

_DEEPEST = 3
"""An object, with a list, of lists."""
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_FIRST_LINES = 1000
_MOST_NAME = 200
_AHEAD = 2
_ONE_A_LINE = "Write one object a line; `jq -c '.[]'` does that with a JSON array."


def read(source: Source, work: Path, limits: Limits) -> Table:
    """A table with a row for each line. Raises FileInvalid."""
    words: frozenset[str] = frozenset()
    notes: list[str] = []
    while True:
        reading = _Reading(source, limits, words)
        with Spool(work, source.name, limits) as spool:
            reading.fill(spool)
            found = [column for column in reading.columns.values() if column.is_words]
            if not found:
                reading.finish()
                return Table(spool.table(), "jsonl", reading.lines.name, (*reading.notes, *notes))
            notes += [column.note(reading.lines.name) for column in found]
        words |= {column.name for column in found}


@dataclass
class _Reading:
    source: Source
    limits: Limits
    words: frozenset[str]
    types: dict[str, pa.DataType] = field(default_factory=dict)
    """As parsed. Texts may become times, see `columns`."""
    columns: dict[str, Column] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    """The line that first has a value of the key."""
    lines: Lines = field(default_factory=Lines)
    notes: list[str] = field(default_factory=list)
    _rows: int = 0

    def fill(self, spool: Spool) -> None:
        text = Text(self.source, self.limits)
        blocks = text.blocks()
        with ThreadPoolExecutor(_AHEAD) as pool:
            waiting: list[tuple[Block, Any]] = []
            for number, block in enumerate(blocks):
                if number == 0:
                    self._learn(block, spool)
                waiting.append((block, pool.submit(_parse, block.data, dict(self.types))))
                if len(waiting) > _AHEAD:
                    self._take(*waiting.pop(0), spool)
            while waiting:
                self._take(*waiting.pop(0), spool)
        if not self._rows:
            raise refuse("", "the file is empty: there is no object. Export it again.")
        self.notes += text.notes
        self.notes += [f"Line 1 has no {name!r}; line {line:,} does." for name, line in self._late().items()]

    def _late(self) -> dict[str, int]:
        first = min(self.since.values(), default=0)
        late = {name: line for name, line in self.since.items() if line > first}
        return dict(list(late.items())[:5])

    def finish(self) -> None:
        findings = Findings()
        for column in self.columns.values():
            for problem in column.problems(self.lines.name):
                findings.add(problem.where, problem.detail)
        findings.check()

    def _learn(self, block: Block, spool: Spool) -> None:
        """The types of the first lines, so that pyarrow need not guess."""
        end = 0
        for _ in range(_FIRST_LINES):
            end = block.data.find(b"\n", end) + 1 or len(block.data)
        self._objects(Block(block.data[:end], block.line), spool)

    def _take(self, block: Block, parsed: Any, spool: Spool) -> None:
        table = parsed.result()
        full = table is not None and table.schema.names == list(self.types)
        if not full or not table.schema.equals(pa.schema(self.types)):
            table = _parse(block.data, self.types)
        breaks = count_byte(block.data)
        if table is None or table.num_rows != breaks:
            numbers, objects = self._objects(block, spool)
            table = self._table(objects)
            self.lines.add(self._rows, block.line, np.array(numbers, np.int32) - block.line)
        else:
            self.lines.add(self._rows, block.line, None)
        if table.num_rows:
            self._append(table, spool)

    def _append(self, table: pa.Table, spool: Spool) -> None:
        arrays = []
        for index, (name, column) in enumerate(self.columns.items()):
            array = table.column(name).combine_chunks()
            array = array if isinstance(array, pa.Array) else array.chunk(0)
            if pa.types.is_string(array.type):
                before = column.type
                array = column.take(array, self._rows)
                if spool.rows and column.type != before and pa.types.is_string(before):
                    spool.convert({index: (column.type, columns.convert_decided(column, before))})
            arrays.append(array)
        spool.append(pa.RecordBatch.from_arrays(arrays, names=list(self.columns)))
        self._rows += table.num_rows

    def _objects(self, block: Block, spool: Spool) -> tuple[list[int], list[dict[str, Any]]]:
        """The objects of a block and their lines, after their types were added to those known."""
        numbers, objects = [], []
        findings = Findings()
        for line, text in enumerate(block.data.split(b"\n"), block.line):
            if not text.strip():
                continue
            try:
                found = _object(text, line)
                self._widen(found, line, spool)
            except FileInvalid as error:
                for problem in error.problems:
                    findings.add(problem.where, problem.detail)
                continue
            numbers.append(line)
            objects.append(found)
        findings.check()
        return numbers, objects

    def _widen(self, found: Mapping[str, Any], line: int, spool: Spool) -> None:
        for name, value in found.items():
            where = f"line {line:,}, key {name[:_MOST_NAME]}"
            kind = _type(value, where)
            if name not in self.types:
                self._add(name, kind, where, spool)
            elif not kind.equals(self.types[name]):
                wide = _common(self.types[name], kind)
                if wide is None:
                    raise refuse(
                        where,
                        f"the value is {_named(kind)}, but line {self.since[name]:,} has {_named(self.types[name])}."
                        " Give a key one type of values.",
                    )
                self.types[name] = wide
            if not pa.types.is_null(kind):
                self.since.setdefault(name, line)

    def _add(self, name: str, kind: pa.DataType, where: str, spool: Spool) -> None:
        if len(name) > _MOST_NAME or not name:
            raise refuse(where, f"a key has 1 to {_MOST_NAME} letters. Rename it.")
        if len(self.types) == self.limits.max_columns:
            raise refuse(where, f"there are more than {self.limits.max_columns:,} keys. Write lists instead of keys.")
        self.types[name] = kind
        self.columns[name] = Column(name, numbers=False, form=WORDS if name in self.words else None)
        spool.add_column(name)

    def _table(self, objects: list[dict[str, Any]]) -> pa.Table:
        arrays = [_array([found.get(name) for found in objects], kind) for name, kind in self.types.items()]
        return pa.Table.from_arrays(arrays, names=list(self.types))


def _array(found: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(_floats(found, kind) if "double" in str(kind) else found, kind)


def _floats(found: list[Any], kind: pa.DataType) -> list[Any]:
    """The values of a column of numbers, or of lists of them; integers beyond 64 bits become numbers too."""
    if pa.types.is_list(kind):
        return [None if one is None else _floats(one, kind.value_type) for one in found]
    return [None if value is None else float(value) for value in found]


def _parse(data: bytes, types: dict[str, pa.DataType]) -> pa.Table | None:
    """What pyarrow reads; None where it finds something else than these columns."""
    if b"NaN" in data or _depth(data) > _DEEPEST or any(pa.types.is_null(kind) for kind in types.values()):
        return None
    try:
        return pj.read_json(
            pa.BufferReader(data),
            read_options=pj.ReadOptions(use_threads=False, block_size=max(len(data), 1 << 10)),
            parse_options=pj.ParseOptions(explicit_schema=pa.schema(types), unexpected_field_behavior="error"),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _depth(data: bytes) -> int:
    """How deep brackets are nested, those in texts too. pyarrow recurses that deep."""
    brackets = np.frombuffer(data.translate(None, _NOT_BRACKETS), np.uint8)
    return int(np.cumsum(_STEPS[brackets], dtype=np.int32).max(initial=0))


def _object(text: bytes, line: int) -> dict[str, Any]:
    where = f"line {line:,}"
    if max(accumulate(_STEPS[np.frombuffer(text.translate(None, _NOT_BRACKETS), np.uint8)].tolist()), default=0) > 500:
        raise refuse(where, f"values are nested too deeply. {_ONE_A_LINE}")
    try:
        found = json.loads(text, parse_constant=lambda name: None if name == "NaN" else float(name))
    except (ValueError, RecursionError) as error:
        raise refuse(where, f"this is no JSON object ({str(error)[:80]}). {_ONE_A_LINE}") from error
    if not isinstance(found, dict):
        raise refuse(where, f'this is JSON, but no object such as {{"x": [1, 2], "y": 0}}. {_ONE_A_LINE}')
    return found


def _type(value: Any, where: str) -> pa.DataType:
    if value is None:
        return pa.null()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if -(1 << 63) <= value < 1 << 63 else pa.float64()
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, str):
        return pa.string()
    if isinstance(value, list):
        return pa.list_(_item_type(value, where, deepest=False))
    raise refuse(where, "the value is an object. Give each of its values a key of its own.")


def _item_type(items: list[Any], where: str, *, deepest: bool) -> pa.DataType:
    kinds = {type(item) for item in items} - {type(None)}
    if kinds <= {int, float}:
        whole = kinds == {int} and all(item is None or -(1 << 63) <= item < 1 << 63 for item in items)
        return pa.int64() if whole else pa.float64() if kinds else pa.null()
    if kinds in ({bool}, {str}):
        return pa.bool_() if kinds == {bool} else pa.string()
    if kinds == {list} and not deepest:
        inner: pa.DataType | None = pa.null()
        for item in items:
            inner = inner and _common(inner, _item_type(item or [], where, deepest=True))
        if inner is not None and not pa.types.is_string(inner):
            return pa.list_(inner)
    raise refuse(
        where, "the list has objects, or several types of values. Write a key with a list of numbers for each feature."
    )


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one.equals(other) or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        item = _common(one.value_type, other.value_type)
        return None if item is None else pa.list_(item)
    return None


def _named(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return "a list" if pa.types.is_null(kind.value_type) else f"a list with {_named(kind.value_type)} in it"
    if pa.types.is_boolean(kind):
        return "true or false"
    return "text" if pa.types.is_string(kind) else "a number"
