"""How a table in a text file is written: its delimiter and its header, found by looking at the first lines."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from dataclasses import dataclass

from loopline.files.limits import Limits
from loopline.files.problems import refuse
from loopline.files.values import MISSING

DELIMITERS = {"\t": "a tab", ";": "a semicolon", "|": "a bar", ",": "a comma"}
"""In the order in which they win: a comma may also be a decimal comma, or part of a text."""
_LINES = 100
_BYTES = 256 << 10
_MOST_NAME = 200
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)*|[.,]\d+)([eE][+-]?\d+)?%?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T].*)?|\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}( .*)?")


@dataclass(frozen=True)
class Dialect:
    """What the first lines tell."""

    delimiter: str
    names: tuple[str, ...]
    has_header: bool
    skipped: int
    """Lines before the first row or header, such as Excel's `sep=;`."""
    notes: tuple[str, ...]


def find(data: bytes, limits: Limits, *, prefer: str | None = None) -> Dialect:
    """The dialect of a table that begins with these lines. Raises FileInvalid for a header that cannot be used."""
    text = _beginning(data)
    skipped, told = _preamble(text)
    text = text.split("\n", skipped)[-1] if skipped else text
    delimiter = told or _delimiter(text, prefer)
    rows = [row for row in _rows(text, delimiter) if row]
    if not rows:
        raise refuse("", "the file is empty: there is no row. Export it again.")
    if len(rows[0]) > limits.max_columns:
        raise refuse(
            f"line {skipped + 1}",
            f"there are {len(rows[0]):,} columns; at most {limits.max_columns:,} can be read. Write a row for each step"
            " instead of a column.",
        )
    notes = []
    if len(rows[0]) > 1 and delimiter != ",":
        notes.append(f"The delimiter is {DELIMITERS.get(delimiter, repr(delimiter))}.")
    if _is_header(rows):
        return Dialect(delimiter, _names(rows[0], skipped + 1), True, skipped, tuple(notes))
    notes.append("There is no header, so the columns are column_1, column_2 and so on.")
    return Dialect(delimiter, tuple(f"column_{n}" for n in range(1, len(rows[0]) + 1)), False, skipped, tuple(notes))


def is_table(data: bytes) -> bool:
    """Whether plain text is a table: as many cells in each line, and numbers or dates among them."""
    text = _beginning(data)
    delimiter = _delimiter(text, None)
    rows = [row for row in _rows(text, delimiter) if row]
    if len(rows) < 2 or len(rows[0]) < 2 or len({len(row) for row in rows}) > 1:
        return len(rows) > 1 and all(len(row) == 1 and _is_value(row[0]) for row in rows[1:])
    columns = list(zip(*rows[1:], strict=True))
    measured = sum(all(_is_value(cell) or cell in MISSING for cell in column) for column in columns)
    return measured > 1 if len(columns) == 2 else measured > 0


def _beginning(data: bytes) -> str:
    text = data[:_BYTES]
    if len(data) > _BYTES:
        text = text[: text.rfind(b"\n") + 1] or data[: data.find(b"\n") + 1]
    return text.decode(errors="replace")


def _preamble(text: str) -> tuple[int, str | None]:
    """Blank lines, and Excel's hint at the delimiter."""
    skipped = 0
    for line in text.split("\n", _LINES)[:_LINES]:
        if match := re.fullmatch(r'"?sep=(.)"?', line):
            return skipped + 1, match[1]
        if line.strip():
            break
        skipped += 1
    return skipped, None


def _rows(text: str, delimiter: str) -> list[list[str]]:
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    try:
        return [[cell.strip() for cell in row] for row in itertools.islice(reader, _LINES)]
    except csv.Error:  # a cell of more than 128 KiB
        return [line.split(delimiter) for line in text.split("\n", _LINES)[:_LINES] if line]


def _delimiter(text: str, prefer: str | None) -> str:
    best, score = ",", 0.0
    for candidate in DELIMITERS:
        counts = Counter(len(row) for row in _rows(text, candidate) if row)
        if not counts:
            continue
        width, often = counts.most_common(1)[0]
        share = often / counts.total()
        if width > 1 and share + (0.2 if candidate == prefer else 0) > score + 0.1:
            best, score = candidate, share
    return best


def _is_value(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell) or _DATE.fullmatch(cell))


def _is_header(rows: list[list[str]]) -> bool:
    first, others = rows[0], rows[1:]
    if all(not _is_value(cell) for cell in first):
        return any(cell not in MISSING for cell in first)
    if _counts(first) and not _counts([row[0] for row in rows]):
        return True
    for index, cell in enumerate(first):
        below = [row[index] for row in others if index < len(row) and row[index] not in MISSING]
        if not _is_value(cell) and cell not in MISSING and below and all(map(_is_value, below)):
            return True
    return False


def _counts(cells: list[str]) -> bool:
    """Whether cells are names that a program made: 0, 1, 2 and so on, or years after words."""
    numbers = [int(cell) for cell in cells if cell.isascii() and cell.isdigit()]
    words = [cell for cell in cells if not (cell.isascii() and cell.isdigit())]
    if len(numbers) < 2 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return False
    return not any(map(_is_value, words)) and (bool(words) or numbers[0] == 0)


def _names(cells: list[str], line: int) -> tuple[str, ...]:
    names: list[str] = []
    for number, cell in enumerate(cells, 1):
        name = cell or f"column_{number}"
        if len(name) > _MOST_NAME:
            raise refuse(f"line {line}", f"the name of column {number} has more than {_MOST_NAME} letters. Shorten it.")
        names.append(name)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise refuse(
            f"line {line}",
            f"the header names {', '.join(map(repr, twice[:5]))} more than once. Give each column a name of its own.",
        )
    return tuple(names)
