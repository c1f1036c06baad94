"""The columns of a file as they are read, block by block: their forms so far, and the cells that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loopline.files import values
from loopline.files.problems import Problem
from loopline.files.remark import Remark
from loopline.files.spool import Convert
from loopline.files.values import WORDS, Form

_SHOWN = 3
"""Cells of a column that are named."""
_FEW = 0.01
"""A column with a smaller share of cells of another form has mistakes; with a larger share it is words."""
_ALONE = 20
"""A single cell of another form among at least so many is a mistake too."""
_SHOWN_LETTERS = 60


@dataclass
class Column:
    """A column of text cells. `take` reads the cells of one block after the other."""

    name: str
    numbers: bool = True
    """Whether words may be numbers: not where the format itself tells numbers and text apart."""
    form: Form | None = None
    """None until there is a value."""
    count: int = 0
    """Values so far."""
    lost: int = 0
    """Values that do not have the column's form."""
    examples: list[tuple[int, str]] = field(default_factory=list)
    """The first of them, with their rows."""
    mixed: tuple[int, str] | None = None
    """The first cell that is a date of another form."""
    first: tuple[int, str] | None = None
    """The first cell."""
    marked: int = 0
    """Values with a comma, or a point, that, if it stands between thousands, could have been a decimal one."""
    first_marked: tuple[int, str] | None = None
    has_sure_mark: bool = False
    """Whether a value has one that can only stand between thousands."""
    margins: dict[Form, int] = field(default_factory=dict)
    """By rival form, how many more values than the column's form it reads, in blocks where that loses some."""

    @property
    def type(self) -> pa.DataType:
        return pa.null() if self.form is None else self.form.type

    @property
    def is_plain(self) -> bool:
        return self.form is not None and self.form.is_plain

    def take(self, cells: pa.Array, row: int) -> pa.Array:
        """The values of the cells from this row on, in the column's type, which may be a new one from now on."""
        cells = values.cleaned(cells)
        count = values.count_of(cells)
        self.count += count
        if self.form == WORDS:
            return cells
        if not count:
            return pa.nulls(len(cells), self.type)
        if self.first is None:
            index = int(np.argmax(cells.is_valid().to_numpy(zero_copy_only=False)))
            self.first = row + index, cells[index].as_py()
        if self.form is None:
            self.form = values.guess(cells, numbers=self.numbers)
        self._decide(cells)
        read = values.readable(self.form, cells)
        lost = values.wrong(cells, read)
        if len(lost) and (wide := values.wider(self.form, cells.take(pa.array(lost)))):
            self.form = wide
            self._decide(cells)
            read = values.readable(self.form, cells)
            lost = values.wrong(cells, read)
        if len(lost):
            self._note(self.form, cells, lost, row)
        self._count_marks(self.form, cells, row)
        return self.form.read(cells) if self.form.other else read

    def _decide(self, cells: pa.Array) -> None:
        """Takes the reading of an undecided form that more cells need."""
        if self.form is None or self.form.other is None:
            return
        first, second = values.telling(self.form, cells)
        if first or second:
            self.form = values.readings(self.form)[int(second > first)]

    def _note(self, form: Form, cells: pa.Array, lost: NDArray[np.int64], row: int) -> None:
        self.lost += len(lost)
        for rival in values.rivals(form):
            more = values.margin(rival, form, cells) - values.margin(form, rival, cells)
            self.margins[rival] = self.margins.get(rival, 0) + more
        for index in lost[: _SHOWN - len(self.examples)].tolist():
            self.examples.append((row + index, cells[index].as_py()))
        if form.kind in values.TIMES and self.mixed is None:
            other = values.are_other_times(form, cells.take(pa.array(lost)))
            if len(other):
                index = int(lost[other[0]])
                self.mixed = row + index, cells[index].as_py()

    def _count_marks(self, form: Form, cells: pa.Array, row: int) -> None:
        mark = form.thousands or form.other
        if form.kind != "number" or mark not in (",", "."):
            return
        unsure, sure = values.with_mark(form, mark, cells)
        self.has_sure_mark |= bool(pc.any(sure).as_py())
        self.marked += pc.sum(unsure).as_py() or 0
        if self.first_marked is None and (index := pc.index(unsure, True).as_py()) >= 0:
            self.first_marked = row + index, cells[index].as_py()

    @property
    def is_words(self) -> bool:
        """Whether, after the last block, too many cells do not fit for these to be mistakes."""
        if not self.lost or self.mixed:
            return False
        return self.lost >= _FEW * self.count and not (self.lost == 1 and self.count >= _ALONE)

    @property
    def rival(self) -> Form | None:
        """After the last block, a form that may read more values than the column's own."""
        margins = {form: more for form, more in self.margins.items() if form in values.rivals(self.form or WORDS)}
        best = max(margins, key=lambda form: margins[form], default=None)
        return best if best is not None and margins[best] > 0 else None

    def problems(self, row_name: Callable[[int], str]) -> list[Problem]:
        """What is wrong after the last block."""
        found = []
        if self.form is None:
            return []
        if self.mixed is not None and self.first is not None:
            row, text = self.mixed
            zones = values.has_zone(text) != values.has_zone(self.first[1])
            what = "one has a time zone and the other has none" if zones else "the two have different forms"
            found.append(
                Problem(
                    f"{row_name(row)}, column {self.name}",
                    f"{_shown(text)} is a date or time, and so is {_shown(self.first[1])} ({row_name(self.first[0])}),"
                    f" but {what}. Write all of them in one form, best like 2024-04-03T14:00:00Z.",
                )
            )
        elif self.lost:
            found = [
                Problem(
                    f"{row_name(row)}, column {self.name}",
                    f"{_shown(text)} is not {self.form.meaning}, as the other values of the column are"
                    f" ({self.lost:,} of {self.count:,} are not). Correct the value, or leave the cell"
                    " empty if it is missing.",
                )
                for row, text in self.examples
            ]
        if self.form.other is not None and self.first is not None:
            found.append(Problem(f"column {self.name}", _ambiguous(self.form, self.first[1])))
        return found

    def remarks(self, row_name: Callable[[int], str]) -> list[Remark]:
        """What may be wrong although every value can be read, after the last block."""
        few = self.marked < _FEW * self.count or self.marked == 1 < self.count
        mark = "" if self.form is None or self.has_sure_mark else self.form.thousands
        if mark not in (",", ".") or not few or self.first_marked is None:
            return []
        row, text = self.first_marked
        name, other = ("comma", "point") if mark == "," else ("point", "comma")
        detail = (
            f"a {name} is in only {self.marked:,} of {self.count:,} values of `{self.name}`, and {_shown(text)} is read"
            f" as {text.replace(mark, '')}; leave the {name} out, or write a {other} if it is a decimal {name}"
        )
        return [Remark("warning", "thousands", (self.name,), row_name(row), detail)]

    def choose(self, reading: int) -> tuple[pa.DataType, Convert]:
        """Decides for one of the two readings; returns how to read the cells that were stored as text."""
        form = self.form = values.readings(self.form or WORDS)[reading]
        return form.type, form.read

    def note(self, row_name: Callable[[int], str]) -> str:
        """Why a column that could have been numbers or dates is words."""
        row, text = self.examples[0]
        meaning = "" if self.form is None else self.form.meaning
        return (
            f"Column {self.name} is words: {self.lost:,} of {self.count:,} values are not {meaning}, first"
            f" {_shown(text)} ({row_name(row)})."
        )


@dataclass
class Known:
    """What earlier readings of a file told of its columns, by name."""

    forms: dict[str, Form] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _before: dict[str, tuple[Form, int] | None] = field(default_factory=dict)
    """The form before a rival was tried, and the values that it lost; None once one of the two is chosen."""

    def learn(self, columns: Sequence[Column], row_name: Callable[[int], str]) -> bool:
        """Whether the file has to be read again: a form that reads more values may win, or a column is words."""
        old = dict(self.forms)
        for column in columns:
            form = self._chosen(column)
            if form is None and column.is_words:
                self.notes.append(column.note(row_name))
                form = WORDS
            if form is not None:
                self.forms[column.name] = form
        return self.forms != old

    def _chosen(self, column: Column) -> Form | None:
        name = column.name
        if name not in self._before:
            if column.rival is None or column.form is None:
                return None
            self._before[name] = column.form, column.lost
            return column.rival
        before, self._before[name] = self._before[name], None
        return before[0] if before is not None and column.lost >= before[1] else None


def convert_decided(column: Column, old: pa.DataType) -> Convert:
    """Reads the cells of earlier blocks, stored as text, by what a later block told."""
    form = column.form or WORDS
    if pa.types.is_string(old):
        return form.read
    return lambda array: array.cast(form.type, safe=False)


def agree_on_commas(columns: Sequence[Column]) -> int | None:
    """Which reading of an undecided comma the other columns of a file speak for: 0 a decimal comma, 1 thousands."""
    forms = [column.form for column in columns if column.form is not None and column.form.kind == "number"]
    if any(form.decimal == "," and form.other is None for form in forms):
        return 0
    if any(form.decimal == "." for form in forms):
        return 1
    return None


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_LETTERS else text[:_SHOWN_LETTERS] + "...")


def _ambiguous(form: Form, text: str) -> str:
    if form.kind == "number":
        return (
            f"in {_shown(text)} the comma may be a decimal comma or stand between thousands; no value of the"
            " file tells which. Write numbers without thousands separators and with a decimal point."
        )
    return (
        f"in {_shown(text)} the day or the month may come first; no value of the column tells which."
        " Write dates like 2024-04-03."
    )
