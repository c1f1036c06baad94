"""Plain text: one text a line. Where every line has a tab, one side of it is the text's label, and empty lines are left
out. Without labels they are kept: the lines are those of one long text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from loopline.files.columns import Column
from loopline.files.limits import Limits
from loopline.files.problems import Findings, refuse
from loopline.files.source import Source
from loopline.files.spool import Spool
from loopline.files.table import Table
from loopline.files.textual import Block, Lines, Text, count_byte

_MOST_LINES = 0.9
"""Where so many lines have a tab, the others are mistakes."""
_BLANK = r"^\s*$"


def read(source: Source, work: Path, limits: Limits) -> Table:
    """A table with the column `text`, and `label` where lines have one. Raises FileInvalid."""
    with Spool(work, source.name, limits) as spool:
        text = Text(source, limits)
        lines, label = Lines(), Column("label")
        side: str | None = None
        blank = 0
        for number, block in enumerate(text.blocks()):
            found, numbers = _lines(block)
            if number == 0:
                side = _side_of_label(found)
            breaks = count_byte(block.data)
            blank += breaks - len(found)
            if side is None:
                found = _split(block.data)
            if not len(found):
                continue
            lines.add(spool.rows, block.line, None if len(found) == breaks else numbers)
            spool.append(_batch(block.data, found, side, label, spool.rows, lines))
        if spool.rows == (blank if side is None else 0):
            raise refuse("", "the file is empty: there is no text. Export it again.")
        notes = [*text.notes]
        if label.is_words:  # labels are few: they are read again, as words
            raise refuse("", f"{label.note(lines.name)} Write all labels as words, or all as numbers.")
        findings = Findings()
        for problem in label.problems(lines.name):
            findings.add(problem.where, problem.detail)
        findings.check()
        if side:
            notes.append(f"The label of a text is {side} the tab.")
        if side and blank:
            notes.append(f"Empty lines were left out ({blank:,}).")
        return Table(spool.table(), "text", lines.name, tuple(notes))


def whole(source: Source, limits: Limits) -> tuple[str, list[str]]:
    """The text of a whole file, such as one review in a folder of reviews, and notes. Raises FileInvalid."""
    text = Text(source, limits)
    parts, size = [], 0
    for block in text.blocks():
        size += len(block.data)
        if size > limits.max_cell_bytes:
            raise refuse(source.name, f"the text has more than {limits.max_cell_bytes:,} bytes: split it.")
        parts.append(block.data)
    return b"".join(parts).decode().strip("\n"), text.notes


def _lines(block: Block) -> tuple[pa.Array, np.ndarray[tuple[int], np.dtype[np.int32]]]:
    """The lines that are not blank, and how far below the first of the block each is: nothing if none is blank."""
    found = _split(block.data)
    content = np.frombuffer(b"\n" + block.data, np.uint8)
    if not ((content[:-1] == 10) & (content[1:] <= 32)).any():
        return found, np.empty(0, np.int32)
    blank = pc.match_substring_regex(found, _BLANK).to_numpy(zero_copy_only=False)
    numbers = np.flatnonzero(~blank).astype(np.int32)
    return found.take(pa.array(numbers)), numbers


def _split(data: bytes) -> pa.Array:
    if b"\x1f" in data or b"\n\n" in data or data.startswith(b"\n"):
        return pc.split_pattern(pa.array([data[:-1].decode()]), "\n").flatten()
    return _parts(data, "\x1f", 1)[0]


def _parts(data: bytes, delimiter: str, count: int) -> list[pa.Array]:
    """Each line in so many parts; faster than to split texts."""
    names = [str(number) for number in range(count)]
    table = csv.read_csv(
        pa.py_buffer(data),
        read_options=csv.ReadOptions(use_threads=False, column_names=names, block_size=max(len(data) + 1, 1 << 10)),
        parse_options=csv.ParseOptions(delimiter=delimiter, quote_char=False),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), check_utf8=False),
    )
    return [column.combine_chunks() for column in table.columns]


def _side_of_label(found: pa.Array) -> str | None:
    """`before` or `after` the tab, if lines have one: the side with fewer different values, or the shorter one."""
    has_tab = pc.match_substring(found, "\t")
    if not len(found) or pc.mean(has_tab.cast(pa.float64())).as_py() < _MOST_LINES:
        return None
    found = found.filter(has_tab)
    sizes = []
    for reverse, index in ((False, 0), (True, 1)):
        part = pc.list_element(pc.split_pattern(found, "\t", max_splits=1, reverse=reverse), index)
        sizes.append((pc.count_distinct(part).as_py(), pc.mean(pc.utf8_length(part)).as_py()))
    return "before" if sizes[0] <= sizes[1] else "after"


def _batch(data: bytes, found: pa.Array, side: str | None, label: Column, row: int, lines: Lines) -> pa.RecordBatch:
    if side is None:
        return pa.RecordBatch.from_arrays([found], names=["text"])
    tabs = pc.count_substring(found, "\t").to_numpy()
    if not tabs.all():
        findings = Findings()
        for index in np.flatnonzero(tabs == 0)[:20].tolist():
            findings.add(
                lines.name(row + index), f"the line has no tab, so no label. Labels are {side} the tab of each line."
            )
        findings.check()
    if tabs.max() == 1 and len(found) == count_byte(data):
        one, two = _parts(data, "\t", 2)
    else:
        parts = pc.split_pattern(found, "\t", max_splits=1, reverse=side == "after")
        one, two = pc.list_element(parts, 0), pc.list_element(parts, 1)
    text, labels = (two, one) if side == "before" else (one, two)
    return pa.RecordBatch.from_arrays([text, label.take(labels, row)], names=["text", "label"])
