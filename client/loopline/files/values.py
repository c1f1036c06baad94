"""What the cells of a column of text are: numbers, true and false, dates, times, or words.

A `Form` reads a whole array of cells at once. `guess` finds the form of a column from its first cells.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MISSING = (
    *("", "NA", "N/A", "n/a", "na", "NaN", "nan", "NAN", "-NaN", "-nan", "null", "NULL", "Null", "<NA>", "#N/A", "#NA"),
    *("#N/A N/A", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "-", "--", "?"),
)
"""Cells that mean that there is no value."""
TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
TIME = pa.timestamp("us")
ZONED = pa.timestamp("us", "UTC")

Kind = Literal["boolean", "integer", "number", "date", "time", "zoned", "words"]
_TYPES: dict[Kind, pa.DataType] = {
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "date": pa.date32(),
    "time": TIME,
    "zoned": ZONED,
    "words": pa.string(),
}
_SAMPLE, _MOST = 500, 5000
"""Cells that are looked at to find the forms that are possible, and to choose one."""
_ENOUGH = 0.95
"""A form needs this share of the first cells of a column; the others are reported, or the column is words."""

_CLOCK = r"(?:(?P<gap>[ T])\d{1,2}:\d\d(?P<seconds>:\d\d)?(?P<half> ?[AaPp][Mm])?)?"
_DAYS = re.compile(rf"\d{{1,2}}(?P<mark>[/.-])\d{{1,2}}(?P=mark)(?P<year>\d{{4}}|\d\d){_CLOCK}")
_YEAR_FIRST = re.compile(rf"\d{{4}}(?P<mark>[/.])\d{{1,2}}(?P=mark)\d{{1,2}}{_CLOCK}")
_DAY_AND_NAME = re.compile(rf"\d{{1,2}}(?P<mark>[ -])[A-Za-z]{{3,9}}(?P=mark)(?P<year>\d{{4}}|\d\d){_CLOCK}")
_NAME_AND_DAY = re.compile(rf"[A-Za-z]{{3,9}} \d{{1,2}}(?P<comma>,?) \d{{4}}{_CLOCK}")
_BEYOND_28 = r"(^|[^0-9:])(29|30|31)([^0-9:]|$)"


@dataclass(frozen=True)
class Form:
    """How the cells of one column are written."""

    kind: Kind
    decimal: str = "."
    thousands: str = ""
    pattern: str = ""
    """Of a date that is not ISO 8601: how it is written, as in `strptime`."""
    other: str | None = None
    """A second way to read the same cells (the month before the day; a comma between thousands). No cell seen so far
    tells which is right."""

    @property
    def type(self) -> pa.DataType:
        """Of the column as it is stored. A column whose form is undecided is stored as text."""
        if self.other is not None:
            return pa.string()
        return _TYPES[self.kind]

    @property
    def is_plain(self) -> bool:
        """Whether pyarrow reads it by itself."""
        return not (self.thousands or self.pattern or self.other)

    @property
    def meaning(self) -> str:
        """As a sentence says it: `is not a number`."""
        names = {"boolean": "true or false", "integer": "a number", "number": "a number", "words": "words"}
        return names.get(self.kind, "a date" if self.kind == "date" else "a date and time")

    def read(self, cells: pa.Array) -> pa.Array:
        """Typed values; null where a cell is null or not of this form."""
        if self.kind == "words" or self.other is not None:
            return cells
        return _READERS[self.kind](self, cells)


WORDS = Form("words")
TIMES = ("date", "time", "zoned")
ISO = (Form("date"), Form("time"), Form("zoned"))


@cache
def _missing() -> pa.Array:
    """Not when this module is imported: pyarrow imports pandas, if it is there, for the first array of Python's."""
    return pa.array(MISSING)


def cleaned(cells: pa.Array) -> pa.Array:
    """Without the spaces around cells; a missing value is null."""
    if _has_spaces(cells):
        cells = pc.utf8_trim_whitespace(cells)
    return pc.if_else(pc.is_in(cells, value_set=_missing()), pa.scalar(None, pa.string()), cells)


def _has_spaces(cells: pa.Array) -> bool:
    """Whether a cell may begin or end with a space. Beyond ASCII it may."""
    _, offsets, data = cells.buffers()
    if data is None or offsets is None or not len(cells):
        return False
    bounds = np.frombuffer(offsets, np.int32)[cells.offset : cells.offset + len(cells) + 1]
    if bounds[0] == bounds[-1]:
        return False
    letters = np.frombuffer(data, np.uint8)[: bounds[-1]]
    full = bounds[1:] > bounds[:-1]
    ends = np.concatenate([letters[bounds[:-1][full]], letters[bounds[1:][full] - 1]])
    return bool(((ends <= 32) | (ends >= 127)).any())


def count_of(cells: pa.Array) -> int:
    return int(len(cells) - cells.null_count)


def wrong(cells: pa.Array, values: pa.Array) -> NDArray[np.int64]:
    """Indices of cells that have text but no value."""
    if values.null_count == cells.null_count:
        return np.empty(0, np.int64)
    mask = pc.and_(cells.is_valid(), values.is_null())
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False))


def guess(cells: pa.Array, *, numbers: bool = True) -> Form:
    """The form of most cells. Where dates have several forms it is the most frequent. Without `numbers` only times are
    tried.

    `cells` is clean and has at least one value.
    """
    cells = _spread(cells.drop_null(), _MOST)
    if numbers:
        for kind in ("integer", "number"):
            form = Form(kind)
            if _whole(cells, form.type) is not None:
                return _with_plus(form, cells)
    sample = _spread(cells, _SAMPLE)
    texts = sample.to_pylist()
    candidates = [*(_numbers(texts) if numbers else ()), *ISO, *_dates(texts)]
    shares = [(count_of(readable(form, sample)) / len(sample), form) for form in candidates]
    possible = [form for share, form in shares if share >= 0.5]
    scored = [(count_of(readable(form, cells)), form) for form in possible]
    best: Form
    most, best = max(scored, key=lambda each: each[0], default=(0, WORDS))
    if most >= _ENOUGH * count_of(cells):
        return best
    times = [(share, form) for share, form in shares if share and form.kind in TIMES]
    if times and count_of(_any_time([form for _, form in times], cells)) >= _ENOUGH * count_of(cells):
        best = max(times, key=lambda each: each[0])[1]
        return best
    return WORDS


def _spread(cells: pa.Array, count: int) -> pa.Array:
    """So many of the cells, evenly spread, or all."""
    if len(cells) <= count:
        return cells
    return cells.take(pa.array(np.linspace(0, len(cells) - 1, count).astype(np.int64)))


def _with_plus(form: Form, cells: pa.Array) -> Form:
    """Integers with a plus sign are integers too; a cast takes them for numbers only."""
    plus = form.kind == "number" and pc.any(pc.starts_with(cells, "+")).as_py()
    return Form("integer") if plus and not len(wrong(cells, Form("integer").read(cells))) else form


def are_other_times(form: Form, cells: pa.Array) -> NDArray[np.int64]:
    """Indices of those of these cells, none of which is of this form, that are dates or times of another form."""
    forms = [*ISO, *_dates(cells.drop_null().to_pylist()[:_SAMPLE])]
    found = _any_time([one for one in forms if one != form], cells).is_valid()
    return np.flatnonzero(found.to_numpy(zero_copy_only=False))


def _any_time(forms: list[Form], cells: pa.Array) -> pa.Array:
    return pc.coalesce(*[readable(form, cells).cast(ZONED) for form in forms])


def readable(form: Form, cells: pa.Array) -> pa.Array:
    """Values; of an undecided form by whichever reading gives one."""
    if form.other is None:
        return form.read(cells)
    return pc.coalesce(*(one.read(cells) for one in readings(form)))


def telling(form: Form, cells: pa.Array) -> tuple[int, int]:
    """How many cells only the first, and only the second reading of an undecided form can read."""
    first, second = readings(form)
    return margin(first, second, cells), margin(second, first, cells)


def margin(form: Form, other: Form, cells: pa.Array) -> int:
    """How many cells the form can read and the other cannot."""
    return pc.sum(pc.and_(form.read(cells).is_valid(), other.read(cells).is_null())).as_py() or 0


def with_mark(form: Form, mark: str, cells: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Which cells of a column of numbers have a mark between thousands, a comma or a point, that might be a decimal one
    as well; and which have one that cannot."""
    has = pc.and_(pc.fill_null(pc.match_substring(cells, mark), False), readable(form, cells).is_valid())
    decimal = Form("number", decimal=mark).read(cells).is_valid()
    return pc.and_(has, decimal), pc.and_(has, pc.invert(decimal))


def rivals(form: Form) -> list[Form]:
    """Other forms that a cell or two may take a column of this form for: with the comma, or the day and the month, the
    other way round."""
    if form.other is not None or form.pattern.startswith("%Y"):
        return []
    if form.kind in ("integer", "number") and form.thousands in ("", ",", "."):
        forms = [Form("number"), Form("number", decimal=","), Form("number", thousands=",")]
        if form.decimal == ",":  # a single 1,5 makes no thousands of a column of 36.625
            forms.append(Form("number", decimal=",", thousands="."))
        return [each for each in forms if each != form]
    if "%d" in form.pattern and "%m" in form.pattern:
        swapped = {"%d": "%m", "%m": "%d"}
        return [replace(form, pattern=re.sub("%[dm]", lambda found: swapped[found[0]], form.pattern))]
    return []


def readings(form: Form) -> tuple[Form, Form]:
    """The two ways to read an undecided form."""
    first = replace(form, other=None)
    if form.kind == "number":
        return first, Form("number", decimal=".", thousands=",")
    return first, replace(first, pattern=form.other or "")


def wider(form: Form, lost: pa.Array) -> Form | None:
    """A form that reads all that this one reads, and cells that it cannot read."""
    if form.kind == "date" and form.is_plain and count_of(Form("time").read(lost)):
        return Form("time")
    if form.kind == "integer" and (found := guess(lost)).kind == "number":
        return found
    return None


def numbers(cells: pa.Array) -> pa.Array | None:
    """Cells that are all numbers, NaN as null; None if one is something else."""
    found = _whole(cells, pa.float64())
    if found is None or not pc.any(pc.is_nan(found)).as_py():
        return found
    return pc.if_else(pc.is_nan(found), pa.scalar(None, pa.float64()), found)


def _whole(cells: pa.Array, kind: pa.DataType) -> pa.Array | None:
    try:
        return cells.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _by_cast(
    kind: pa.DataType, pattern: str, prepare: Callable[[pa.Array], pa.Array] = lambda cells: cells
) -> Callable[[Form, pa.Array], pa.Array]:
    """Reads cells by a cast. Where some cannot be cast, those that a pattern lets through are, and then one by one."""

    def read(form: Form, cells: pa.Array) -> pa.Array:
        cells = prepare(cells)
        values = _whole(cells, kind)
        if values is not None:
            return values
        likely = pc.if_else(pc.match_substring_regex(cells, pattern), cells, pa.scalar(None, pa.string()))
        return _halves(likely, kind)

    return read


def _halves(cells: pa.Array, kind: pa.DataType) -> pa.Array:
    values = _whole(cells, kind)
    if values is not None:
        return values
    if len(cells) == 1:
        return pa.nulls(1, kind)
    middle = len(cells) // 2
    return pa.concat_arrays([_halves(cells[:middle], kind), _halves(cells[middle:], kind)])


def _booleans(form: Form, cells: pa.Array) -> pa.Array:
    yes, no = pc.is_in(cells, value_set=pa.array(TRUE)), pc.is_in(cells, value_set=pa.array(FALSE))
    return pc.if_else(yes, True, pc.if_else(no, False, pa.scalar(None, pa.bool_())))


_DIGITS = r"^[+-]?[0-9]+$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$|^[+-]?[iI]nf(inity)?$"
_plain_numbers = _by_cast(pa.float64(), _NUMBER)
_plain_integers = _by_cast(pa.int64(), _DIGITS, lambda cells: pc.replace_substring_regex(cells, r"^\+", ""))


def _read_numbers(form: Form, cells: pa.Array) -> pa.Array:
    if form.thousands:
        mark, point = re.escape(form.thousands), re.escape(form.decimal)
        grouped = rf"^[+-]?([1-9][0-9]{{0,2}}({mark}[0-9]{{3}})+|[0-9]+)({point}[0-9]*)?$"
        cells = pc.if_else(pc.match_substring_regex(cells, grouped), cells, pa.scalar(None, pa.string()))
        cells = pc.replace_substring(cells, form.thousands, "")
    elif form.decimal != ".":  # a point would be read as one of thousands by its writer
        cells = pc.if_else(pc.match_substring(cells, "."), pa.scalar(None, pa.string()), cells)
    if form.decimal != ".":
        cells = pc.replace_substring(cells, form.decimal, ".")
    return _plain_numbers(form, cells)


def _read_dates(form: Form, cells: pa.Array) -> pa.Array:
    if form.pattern:
        return _parsed(form, cells).cast(pa.date32())
    return _iso_dates(form, cells)


def _read_times(form: Form, cells: pa.Array) -> pa.Array:
    return _parsed(form, cells) if form.pattern else _iso_times(form, cells)


def _parsed(form: Form, cells: pa.Array) -> pa.Array:
    values = pc.strptime(cells, format=form.pattern, unit="us", error_is_null=True)
    year = pc.year(values)
    odd = pc.less(year, 1000)
    if pc.any(pc.less_equal(pc.day(values), 3)).as_py():  # 31 February would become 2 March
        odd = pc.or_(odd, pc.and_(pc.less_equal(pc.day(values), 3), pc.match_substring_regex(cells, _BEYOND_28)))
    return pc.if_else(odd, pa.scalar(None, TIME), values)


def _to_microseconds(cells: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(cells, r"(\.[0-9]{6})[0-9]{1,3}", r"\1")


_ISO_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
_iso_dates = _by_cast(pa.date32(), _ISO_DATE + "$")
_iso_times = _by_cast(
    TIME,
    _ISO_DATE + r"([ T][0-9]{2}(:?[0-9]{2}(:?[0-9]{2}(\.[0-9]{1,6})?)?)?)?$",
    lambda cells: _to_microseconds(cells),
)
_zoned_times = _by_cast(
    ZONED,
    _ISO_DATE + r"[ T][0-9]{2}(:?[0-9]{2}(:?[0-9]{2}(\.[0-9]{1,6})?)?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$",
    lambda cells: pc.replace_substring_regex(_to_microseconds(cells), " ?(UTC|GMT)$", "Z"),
)

_READERS: dict[Kind, Callable[[Form, pa.Array], pa.Array]] = {
    "boolean": _booleans,
    "integer": lambda form, cells: _plain_integers(form, cells),
    "number": _read_numbers,
    "date": _read_dates,
    "time": _read_times,
    "zoned": lambda form, cells: _zoned_times(form, cells),
}


def _numbers(texts: list[str]) -> list[Form]:
    """How the numbers among these cells may be written. The plain forms come first."""
    forms = [Form("boolean"), Form("integer"), Form("number")]
    commas = [text for text in texts if "," in text and re.fullmatch(r"[+-]?[\d.,' \u00a0\u202f]+", text)]
    if commas:
        if any(re.search(r"\.\d{3},|\.\d{3}\.", text) for text in commas):
            forms.append(Form("number", decimal=",", thousands="."))
        elif any(re.search(r",\d+\.|,\d{3},", text) for text in commas):
            forms.append(Form("number", thousands=","))
        else:
            forms.append(Form("number", decimal=",", other=","))
    elif any(re.fullmatch(r"[+-]?\d{1,3}(\.\d{3}){2,}", text) for text in texts):
        forms.append(Form("number", decimal=",", thousands="."))
    for mark in "' \u00a0\u202f":
        if any(re.match(rf"[+-]?\d{{1,3}}{mark}\d{{3}}", text) for text in texts):
            point = "," if any("," in text for text in texts) else "."
            forms.append(Form("number", decimal=point, thousands=mark))
    return forms


def _dates(texts: list[str]) -> list[Form]:
    """Each way in which dates are written among these cells, other than ISO 8601."""
    found: dict[Form, None] = {}
    for text in texts:
        form = _date(text)
        if form is not None:
            found[form] = None
    return list(found)


def _date(text: str) -> Form | None:
    if match := _DAYS.fullmatch(text):
        mark, year = match["mark"], "%Y" if len(match["year"]) == 4 else "%y"
        clock = _clock(match)
        days, months = (f"{date}{mark}{year}{clock}" for date in (f"%d{mark}%m", f"%m{mark}%d"))
        return Form(_kind(clock), pattern=days, other=months)
    if match := _YEAR_FIRST.fullmatch(text):
        clock = _clock(match)
        return Form(_kind(clock), pattern=f"%Y{match['mark']}%m{match['mark']}%d{clock}")
    if match := _DAY_AND_NAME.fullmatch(text):
        clock, mark, year = _clock(match), match["mark"], "%Y" if len(match["year"]) == 4 else "%y"
        return Form(_kind(clock), pattern=f"%d{mark}%b{mark}{year}{clock}")
    if match := _NAME_AND_DAY.fullmatch(text):
        clock = _clock(match)
        return Form(_kind(clock), pattern=f"%b %d{match['comma']} %Y{clock}")
    return None


def _clock(match: re.Match[str]) -> str:
    if match["gap"] is None:
        return ""
    seconds = ":%S" if match["seconds"] else ""
    if match["half"]:
        return f"{match['gap']}%I:%M{seconds}{' ' if match['half'].startswith(' ') else ''}%p"
    return f"{match['gap']}%H:%M{seconds}"


def _kind(clock: str) -> Kind:
    return "time" if clock else "date"


def has_zone(text: str) -> bool:
    """Whether a time ends with a zone."""
    return bool(re.search(r":\d\d(\.\d+)? ?(Z|UTC|GMT|[+-]\d\d(:?\d\d)?)$", text))
