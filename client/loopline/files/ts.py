"""The `.ts` format of the time series archives: a header, then a series a line, dimensions between colons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from loopline.files import values
from loopline.files.columns import Column
from loopline.files.limits import Limits
from loopline.files.problems import Findings, refuse
from loopline.files.source import Source
from loopline.files.spool import Spool
from loopline.files.table import Table
from loopline.files.textual import Block, Lines, Text

_LONGEST_LINE = 32
"""A line is a whole series, so it may be this many times as long as a line of another format."""
_MOST_HEADER = 10_000
_SHOWN = 20


@dataclass(frozen=True)
class _Header:
    """What the header says that matters. Counts and lengths are taken from the data."""

    labelled: bool
    classes: frozenset[str] | None


def read(source: Source, work: Path, limits: Limits) -> Table:
    """A long table: `id` and `step` from 0, a column for each dimension, and `label`. Raises FileInvalid."""
    text = Text(source, replace(limits, max_cell_bytes=_LONGEST_LINE * limits.max_cell_bytes))
    with Spool(work, source.name, limits) as spool:
        reading: _Series | None = None
        header: list[str] = []
        for block in text.blocks():
            if reading is None:
                block, done = _header(block, header)
                if not done:
                    continue
                reading = _Series(_parsed(header), limits)
            for batch in reading.batches(block):
                spool.append(batch)
        if reading is None:
            raise refuse("", "there is no line @data, after which the series begin. Copy the file again.")
        if not spool.rows:
            raise refuse("", "the file has a header, but no series below it. Copy it again.")
        reading.finish()
        return Table(spool.table(), "ts", reading.row_name, tuple(text.notes))


def _header(block: Block, header: list[str]) -> tuple[Block, bool]:
    """Moves lines to the header up to `@data`; returns what is left of the block."""
    position, line = 0, block.line
    while position < len(block.data):
        end = block.data.index(b"\n", position) + 1
        found = block.data[position:end].decode().strip()
        position, line = end, line + 1
        if found.lower() == "@data":
            return Block(block.data[position:], line), True
        if found and not found.startswith(("@", "#", "%")):
            raise refuse(f"line {line - 1:,}", "a series begins before the line @data. Write the header first.")
        if len(header) == _MOST_HEADER:
            raise refuse(f"line {line - 1:,}", "the header is too long: there is no line @data.")
        header.append(found)
    return Block(b"", line), False


def _parsed(header: list[str]) -> _Header:
    labelled, classes = False, None
    for line, text in enumerate(header, 1):
        if not text.startswith("@"):
            continue
        name, *words = text[1:].split() or [""]
        given = words[0].lower() if words else ""
        if name.lower() == "timestamps" and given == "true":
            raise refuse(
                f"line {line:,}",
                "the series have timestamps, written as (time,value), which cannot be read. Write the values alone,"
                " or a CSV with a row for each time.",
            )
        if name.lower() in ("classlabel", "targetlabel") and given == "true":
            labelled = True
            if name.lower() == "classlabel" and len(words) > 1:
                classes = frozenset(words[1:])
    return _Header(labelled, classes)


class _Series:
    """The lines below the header."""

    def __init__(self, header: _Header, limits: Limits) -> None:
        self.header, self.limits = header, limits
        self.dimensions = 0
        self.label = Column("label")
        self.lines = Lines()
        self.ends: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        """The row behind the last step of each series, block by block."""
        self.series = 0
        self.rows = 0
        self._labels: list[pa.Array] = []

    def batches(self, block: Block) -> Iterator[pa.RecordBatch]:
        if not block.data:
            return
        found = pc.utf8_trim_whitespace(pc.split_pattern(pa.array([block.data[:-1].decode()]), "\n").flatten())
        numbers = np.flatnonzero(pc.not_equal(found, "").to_numpy(zero_copy_only=False)).astype(np.int32)
        if not len(numbers):
            return
        self.lines.add(self.series, block.line, numbers)
        yield self._batch(found.take(pa.array(numbers)))

    def _batch(self, found: pa.Array) -> pa.RecordBatch:
        parts = pc.split_pattern(found, ":")
        counts = pc.list_value_length(parts).to_numpy()
        if not self.dimensions:
            self.dimensions = int(counts[0]) - self.header.labelled
            if not 0 < self.dimensions <= self.limits.max_columns:
                raise refuse(self._line(0), f"the series has {self.dimensions:,} dimensions. Copy the file again.")
        wanted = self.dimensions + self.header.labelled
        self._check(counts != wanted, f"the line has not {wanted} parts between colons, as the first series has.")
        columns: list[pa.Array] = []
        lengths = np.empty(0, np.int32)
        for dimension in range(self.dimensions):
            cells = pc.split_pattern(pc.list_element(parts, dimension), ",")
            count = pc.list_value_length(cells).to_numpy()
            if dimension:
                self._check(
                    count != lengths, "the dimensions of the series have different lengths. Fill the shorter with ?."
                )
            lengths = count
            columns.append(self._values(cells, count, dimension))
        ids = np.repeat(np.arange(self.series, self.series + len(found)), lengths)
        ends = np.cumsum(lengths, dtype=np.int64)
        steps = np.arange(int(ends[-1])) - np.repeat(ends - lengths, lengths)
        arrays = [pa.array(ids), pa.array(steps), *columns]
        names = ["id", "step", *(f"dim_{number}" for number in range(self.dimensions))]
        if self.header.labelled:
            labels = self._checked(pc.utf8_trim_whitespace(pc.list_element(parts, self.dimensions)))
            arrays.append(self.label.take(labels, self.series).take(pa.array(ids - self.series)))
            names.append("label")
        self.ends.append(self.rows + ends)
        self.series += len(found)
        self.rows += int(ends[-1])
        return pa.RecordBatch.from_arrays(arrays, names=names)

    def _values(self, cells: pa.Array, counts: np.ndarray[tuple[int], np.dtype[np.int32]], dimension: int) -> pa.Array:
        flat = cells.flatten()
        quick = values.numbers(flat)
        if quick is not None:
            return quick
        flat = values.cleaned(flat)
        read = values.Form("number").read(flat)
        lost = values.wrong(flat, read)
        if len(lost):
            findings = Findings()
            ends = np.cumsum(counts)
            for index in lost[:_SHOWN].tolist():
                series = int(np.searchsorted(ends, index, side="right"))
                step = index - int(ends[series] - counts[series])
                findings.add(
                    f"{self._line(series)}, dimension {dimension}, step {step:,}",
                    f"{flat[index].as_py()[:60]!r} is not a number. Write ? for a missing value.",
                )
            findings.check()
        return read

    def _checked(self, labels: pa.Array) -> pa.Array:
        if self.header.classes is not None:
            known = pc.is_in(labels, value_set=pa.array(sorted(self.header.classes)))
            self._check(
                ~known.to_numpy(zero_copy_only=False),
                "the label is none of those that the header names in @classLabel.",
            )
        return labels

    def _check(self, bad: np.ndarray[tuple[int], np.dtype[np.bool_]], detail: str) -> None:
        findings = Findings()
        for index in np.flatnonzero(bad)[:_SHOWN].tolist():
            findings.add(self._line(index), detail)
        findings.check()

    def _line(self, series: int) -> str:
        """Of a series of the present block."""
        return self.lines.name(self.series + series)

    def finish(self) -> None:
        findings = Findings()
        if self.label.is_words:
            findings.add("", f"{self.label.note(self.lines.name)} Write all labels as words, or all as numbers.")
        for problem in self.label.problems(self.lines.name):
            findings.add(problem.where, problem.detail)
        findings.check()

    def row_name(self, row: int) -> str:
        ends = np.concatenate(self.ends)
        series = int(np.searchsorted(ends, row, side="right"))
        step = row - (int(ends[series - 1]) if series else 0)
        return f"{self.lines.name(series)}, step {step:,}"
