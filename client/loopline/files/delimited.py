"""CSV, TSV and their relatives: cells between delimiters, a row a line.

The file is read once in blocks. pyarrow parses each block with the types of the columns so far. Cells that do not fit
change the type of their column, or are reported. The file is read again only if a column turns out to be words, or most
of its cells are written in another way than the first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from loopline.files import columns, dialect, values
from loopline.files.columns import Column
from loopline.files.dialect import Dialect
from loopline.files.limits import Limits
from loopline.files.problems import Findings, refuse
from loopline.files.source import Source
from loopline.files.spool import Spool
from loopline.files.table import Table
from loopline.files.textual import Block, Lines, Text, count_byte

QUOTE = ord('"')
_AHEAD = 2
"""Blocks that are parsed at the same time."""


def read(source: Source, work: Path, limits: Limits, *, prefer: str | None = None, raw: bool = False) -> Table:
    """A table of the rows. With `raw` all columns are text, and cells are as they are in the file.

    Raises FileInvalid.
    """
    known = columns.Known()
    while True:
        reading = _Reading(source, limits, prefer, known.forms, raw)
        with Spool(work, source.name, limits) as spool:
            reading.fill(spool)
            if known.learn(reading.columns, reading.lines.name):
                continue
            reading.finish(spool)
            data = reading.without_unnamed(spool.table())
            form = "tsv" if reading.dialect.delimiter == "\t" else "csv"
            notes = (*reading.notes, *known.notes)
            remarks = tuple(one for column in reading.columns for one in column.remarks(reading.lines.name))
            return Table(data, form, reading.lines.name, notes, remarks)  # type: ignore[arg-type]


@dataclass
class _Reading:
    source: Source
    limits: Limits
    prefer: str | None
    known: Mapping[str, values.Form]
    raw: bool
    columns: list[Column] = field(default_factory=list)
    lines: Lines = field(default_factory=Lines)
    notes: list[str] = field(default_factory=list)
    decimal: str = "."
    header: bytes = b""
    dialect: Dialect = field(init=False)
    blank: int = 0
    repeated: list[int] = field(default_factory=list)
    _rows: int = 0

    def fill(self, spool: Spool) -> None:
        """Reads all blocks. The first decides how columns are parsed; then some are parsed ahead."""
        text = Text(self.source, self.limits)
        blocks = self._whole_rows(text)
        first = next(blocks, None)
        if first is None:
            what = "has a header, but no row below it" if self.header else "is empty: there is no row"
            raise refuse("", f"the file {what}. Export it again.")
        self._take(first, None, spool)
        with ThreadPoolExecutor(_AHEAD) as pool:
            waiting: list[tuple[Block, Future[pa.Table | None]]] = []
            try:
                for block in blocks:
                    waiting.append((block, pool.submit(self._parse_ahead, block)))
                    if len(waiting) > _AHEAD:
                        self._take(*waiting.pop(0), spool)
                while waiting:
                    self._take(*waiting.pop(0), spool)
            finally:
                for _, future in waiting:
                    future.cancel()
        if not self._rows:
            raise refuse("", "the file has a header, but no row below it. Export it again.")
        self.notes += [*text.notes, *self._remarks()]

    def finish(self, spool: Spool) -> None:
        """Decides what only the whole file tells. Raises FileInvalid if cells do not fit."""
        agreed = columns.agree_on_commas(self.columns)
        changes = {}
        for index, column in enumerate(self.columns):
            if column.form is not None and column.form.other and column.form.kind == "number" and agreed is not None:
                changes[index] = column.choose(agreed)
        if changes:
            spool.convert(changes)
        findings = Findings()
        for column in self.columns:
            for problem in column.problems(self.lines.name):
                findings.add(problem.where, problem.detail)
        findings.check()

    def without_unnamed(self, data: pa.Table) -> pa.Table:
        """Without columns that have neither a name nor a value: they come from a delimiter at the end of each line."""
        empty = [
            name
            for number, name in enumerate(data.column_names, 1)
            if name == f"column_{number}" and data.column(number - 1).null_count == data.num_rows
        ]
        return data.drop_columns(empty) if 0 < len(empty) < data.num_columns else data

    def _remarks(self) -> Iterator[str]:
        yield from self.dialect.notes
        if any(column.form is not None and column.form.decimal == "," for column in self.columns):
            yield "Numbers have a decimal comma."
        for column in self.columns:
            if column.form is not None and "%d" in column.form.pattern and not column.form.other:
                day, month = column.form.pattern.find("%d"), column.form.pattern.find("%m")
                if month >= 0 and not column.form.pattern.startswith("%Y"):
                    yield f"In column {column.name} the {'day' if day < month else 'month'} comes first."
        if self.blank:
            yield f"Empty lines were left out ({self.blank:,})."
        if self.repeated:
            shown = ", ".join(f"{line:,}" for line in self.repeated[:5])
            more = ", ..." if len(self.repeated) > 5 else ""
            yield f"Repeated headers were left out ({len(self.repeated):,}; line {shown}{more})."

    def _whole_rows(self, text: Text) -> Iterator[Block]:
        """Blocks that end where a row ends, the first of them without the header."""
        rest, line, started = b"", 1, False
        for block in text.blocks():
            data = rest + block.data
            if not started:
                started = True
                self.dialect = dialect.find(data, self.limits, prefer=self.prefer)
                self.columns = [Column(name, form=self._given(name)) for name in self.dialect.names]
                data, line = self._without_header(data)
            end = _complete(data, self.dialect.delimiter)
            rest = data[end:]
            if len(rest) > self.limits.max_cell_bytes:
                raise self._unclosed(line + count_byte(data[:end]))
            if end:
                yield self._without_repeats(Block(data[:end], line))
                line += count_byte(data[:end])
        if rest:
            raise self._unclosed(line)

    def _given(self, name: str) -> values.Form | None:
        return values.WORDS if self.raw else self.known.get(name)

    def _unclosed(self, line: int) -> Exception:
        return refuse(
            f"line {line:,}",
            "a quotation mark opens here and is not closed. Close it, or write a quotation mark within quotes twice.",
        )

    def _without_header(self, data: bytes) -> tuple[bytes, int]:
        position = 0
        for _ in range(self.dialect.skipped):
            position = data.index(b"\n", position) + 1
        if self.dialect.has_header:
            end = data.index(b"\n", position) + 1
            while end < len(data) and _complete(data[position:end], self.dialect.delimiter) < end - position:
                end = data.index(b"\n", end) + 1
            self.header, position = data[position:end], end
        return data[position:], 1 + data.count(b"\n", 0, position)

    def _without_repeats(self, block: Block) -> Block:
        """Headers in the middle, of exports that were put one behind the other, become empty lines."""
        if not self.header:
            return block
        data = block.data
        if data.startswith(self.header):
            self.repeated.append(block.line)
            data = b"\n" * self.header.count(b"\n") + data[len(self.header) :]
        needle = b"\n" + self.header
        start = data.find(needle)
        while start >= 0:
            self.repeated.append(block.line + data.count(b"\n", 0, start + 1))
            data = data[: start + 1] + b"\n" * self.header.count(b"\n") + data[start + len(needle) :]
            start = data.find(needle, start)
        return Block(data, block.line)

    def _parse_ahead(self, block: Block) -> pa.Table | None:
        try:
            return self._parse(block.data, [self._type_to_parse(column) for column in self.columns])
        except pa.ArrowInvalid:
            return None

    def _type_to_parse(self, column: Column) -> pa.DataType:
        if column.form is None or not column.is_plain:
            return pa.string()
        if column.form.kind == "number" and column.form.decimal != self.decimal:
            return pa.string()
        return column.form.type

    def _parse(
        self, data: bytes, types: list[pa.DataType], bad: Callable[[csv.InvalidRow], str] | None = None
    ) -> pa.Table:
        names = [str(number) for number in range(len(types))]
        return csv.read_csv(
            pa.py_buffer(data),
            read_options=csv.ReadOptions(use_threads=False, column_names=names, block_size=max(len(data) + 1, 1 << 10)),
            parse_options=csv.ParseOptions(
                delimiter=self.dialect.delimiter, newlines_in_values=True, invalid_row_handler=bad
            ),
            convert_options=csv.ConvertOptions(
                column_types=dict(zip(names, types, strict=True)),
                null_values=[""] if self.raw else list(values.MISSING),
                strings_can_be_null=True,
                true_values=list(values.TRUE),
                false_values=list(values.FALSE),
                decimal_point=self.decimal,
                check_utf8=False,  # `Text` did
            ),
        )

    def _take(self, block: Block, parsed: Future[pa.Table | None] | None, spool: Spool) -> None:
        table = parsed.result() if parsed is not None else None
        if table is None:
            table = self._parse_as_text(block)
        if not table.num_rows:
            return
        self._mark(block, table.num_rows)
        (parts,) = table.combine_chunks().to_batches()
        arrays = []
        for index, (column, cells) in enumerate(zip(self.columns, parts.columns, strict=True)):
            before = column.type
            if self.raw:
                pass
            elif pa.types.is_string(cells.type):
                cells = column.take(cells, self._rows)
            else:
                column.count += len(cells) - cells.null_count
                cells = cells if cells.type == column.type else cells.cast(column.type)
            if spool.rows and column.type != before and pa.types.is_string(before):
                spool.convert({index: (column.type, columns.convert_decided(column, before))})
            arrays.append(cells)
        names = [column.name for column in self.columns]
        spool.append(pa.RecordBatch.from_arrays(arrays, names=names))
        if self._rows == 0 and any(
            column.form is not None and column.form.kind == "number" and column.is_plain and column.form.decimal == ","
            for column in self.columns
        ):
            self.decimal = ","
        self._rows += table.num_rows

    def _parse_as_text(self, block: Block) -> pa.Table:
        """All cells as text. Raises FileInvalid if a row has more or fewer cells than there are columns."""
        bad: list[csv.InvalidRow] = []

        def note(row: csv.InvalidRow) -> str:
            bad.append(row)
            return "skip"

        table = self._parse(block.data, [pa.string()] * len(self.columns), note)
        if bad:
            lines = _row_lines(block.data, self.dialect.delimiter)
            findings = Findings()
            head = "the header has" if self.dialect.has_header else "the first line has"
            for row in bad[:20]:
                where = block.line + int(lines[row.number - 1]) if row.number <= len(lines) else block.line
                findings.add(
                    f"line {where:,}",
                    f"{row.actual_columns:,} cells instead of {row.expected_columns:,}, which {head}. Put quotes"
                    " around a cell that has the delimiter in it.",
                )
            findings.check()
        return table

    def _mark(self, block: Block, rows: int) -> None:
        offsets = None
        breaks = count_byte(block.data)
        blank = breaks - rows - sum(line >= block.line for line in self.repeated) * self.header.count(b"\n")
        if breaks != rows:
            found = _row_lines(block.data, self.dialect.delimiter)
            offsets = found if len(found) == rows else None
            quoted = len(found) == rows and b'"' in block.data
            self.blank += 0 if quoted else max(blank, 0)
        self.lines.add(self._rows, block.line, offsets)


def _quoted(delimiter: str) -> re.Pattern[bytes]:
    """A quoted cell, with the newline or delimiter before it."""
    return re.compile(rb"(?:^|[\n" + re.escape(delimiter.encode()) + rb'])("[^"]*(?:""[^"]*)*("|$))')


def _complete(data: bytes, delimiter: str) -> int:
    """Where the last row begins that is cut off within quotes; else the end."""
    if b'"' not in data or count_byte(data, QUOTE) % 2 == 0:
        return len(data)
    row, behind = 0, 0
    for match in _quoted(delimiter).finditer(data):
        row = max(row, data.rfind(b"\n", behind, match.start(1)) + 1)
        if not match[2]:
            return row
        behind = match.end()
    return len(data)


def _row_starts(data: bytes, delimiter: str) -> NDArray[np.int64]:
    """The positions at which rows begin, without empty lines, and the end of the data."""
    content = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(content == 10)
    if b'"' in data:
        spans = [match.span(1) for match in _quoted(delimiter).finditer(data) if b"\n" in match[1]]
        if spans:
            bounds = np.array(spans).reshape(-1)
            ends = ends[np.searchsorted(bounds, ends, side="right") % 2 == 0]
    starts = np.concatenate([[0], ends + 1]) if len(ends) else np.array([0])
    lengths = np.diff(np.append(starts, len(data)))
    return np.append(starts[:-1][lengths[:-1] > 1], starts[-1])


def _row_lines(data: bytes, delimiter: str) -> NDArray[np.int32]:
    """How many lines below the first each row begins."""
    starts = _row_starts(data, delimiter)[:-1]
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
    return np.searchsorted(ends, starts, side="left").astype(np.int32)
