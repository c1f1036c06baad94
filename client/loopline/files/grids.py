"""The equal steps in time of series, and the rows that they lack. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.training.files.arrays import Arrays

_SECOND = 1_000_000_000
_MINUTE, _HOUR, _DAY, _WEEK = (_SECOND * seconds for seconds in (60, 3600, 86_400, 604_800))
_UNITS = ((_WEEK, "week"), (_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute"), (_SECOND, "second"))
_MOST_SEASON = 10_000
"""Steps; longer seasons are not suggested."""
_YEAR = {1: 12, 2: 6, 3: 4, 6: 2}
"""The steps of a year, by the months of a step."""
_ROUNDED = 1e-6
"""How far apart, as a share of a step, equal steps of numbers may be: they were rounded."""


@dataclass(frozen=True)
class Grid:
    """The time between two steps of series."""

    words: str | None = None
    """Such as `1 hour`; None if it is unknown."""
    seasons: Sequence[int] = ()
    irregular: str | None = None
    """Where the time between two steps is another one, in words; None if it is nowhere."""
    apart: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), np.int64))
    """(series, longest - 1): from each step to the next one, in steps of the grid; 1 in the padding. Empty if no rows
    can be added."""
    usual: Any = 0
    """The time between two steps in nanoseconds, in months, or as a number."""
    in_months: bool = False

    @property
    def absent(self) -> int:
        """How many rows can be added, so that all steps are equal."""
        return int((self.apart - 1).sum())


def of(arrays: Arrays) -> Grid:
    """The grid of a data set whose sequences are series. It takes the commonest time between two steps, the median."""
    times, lengths = arrays.times, arrays.lengths
    if times is None or times.shape[1] < 2:
        return Grid()
    valid = np.arange(1, times.shape[1]) < lengths[:, None]
    if not valid.any():
        return Grid()
    is_time = times.dtype.kind == "i"
    apart = _months_apart(times, lengths) if is_time else None
    in_months = apart is not None
    if apart is None:
        apart = np.diff(times, axis=1)
    usual = np.partition(apart[valid], valid.sum() // 2)[valid.sum() // 2]
    if not usual > 0:
        return Grid()
    words = _months(int(usual)) if in_months else _duration(int(usual)) if is_time else f"{usual:g}"
    seasons = _seasons(int(usual), in_months) if is_time else []
    steps = np.where(valid, np.rint(apart / usual), 1).astype(np.int64)
    on_grid = ~valid | (steps > 0) & (np.abs(apart - steps * usual) <= (0 if is_time else _ROUNDED * apart))
    odd, there = ~on_grid | (steps != 1), int(valid.sum())
    if 2 * (there - int(odd.sum())) < there:
        few = f"no time between two steps is the usual one: only {there - int(odd.sum()):,} of {there:,} are {words}"
        return Grid(words, seasons, few)
    if not odd.any():
        return Grid(words, seasons, None, steps, usual, in_months)
    why = _trouble(arrays, steps, on_grid, words)
    irregular = _first_gap(arrays, odd, words) + (f"; {why}" if why else "")
    return Grid(words, seasons, irregular, steps[:0] if why else steps, usual, in_months)


def filled(arrays: Arrays) -> Arrays:
    """The data set with a row for each step of its grid: x of the rows that were added has no values. Of targets beside
    x there may be none. Where no rows can be added the data set is as it was."""
    grid = of(arrays)
    if not grid.absent or arrays.times is None:
        return arrays
    places = np.pad(grid.apart.cumsum(axis=1), ((0, 0), (1, 0)))
    rows, steps = np.nonzero(np.arange(places.shape[1]) < arrays.lengths[:, None])
    lengths = arrays.lengths + (grid.apart - 1).sum(axis=1)
    given = arrays.x_in_memory
    inside = np.arange(lengths.max()) < lengths[:, None]
    x = np.zeros((*inside.shape, given.shape[2]), given.dtype)
    x[inside] = np.nan
    x[rows, places[rows, steps]] = given[rows, steps]
    times = np.where(inside, _times(arrays.times[:, :1], grid, inside.shape[1]), 0)
    times[rows, places[rows, steps]] = arrays.times[rows, steps]
    return replace(arrays, x=x, lengths=lengths, times=times, y=np.empty((*inside.shape, 0), arrays.y.dtype))


def _times(first: NDArray[Any], grid: Grid, steps: int) -> NDArray[Any]:
    """The times of so many steps from the first one of each series on: (series, steps)."""
    after = grid.usual * np.arange(steps)
    if not grid.in_months:
        return np.asarray(first + after)
    stamps = first.astype("datetime64[ns]")
    months = stamps.astype("datetime64[M]")
    return np.asarray(((months + after).astype("datetime64[ns]") + (stamps - months)).astype(np.int64))


def _trouble(arrays: Arrays, steps: NDArray[np.int64], on_grid: NDArray[np.bool_], words: str) -> str | None:
    """Why no rows can be added; None if they can."""
    if not on_grid.all():
        count = int((~on_grid).sum())
        return f"{count:,} {'step is' if count == 1 else 'steps are'} no multiple of {words}"
    absent = (steps - 1).sum(axis=1)
    row = int((absent - arrays.lengths).argmax())
    if absent[row] > arrays.lengths[row]:
        return f"the series{_of(arrays, row)} lacks {absent[row]:,} rows and has only {arrays.lengths[row]:,}"
    return None


def _first_gap(arrays: Arrays, odd: NDArray[np.bool_], words: str) -> str:
    assert arrays.times is not None  # noqa: S101
    times, is_time = arrays.times, arrays.times.dtype.kind == "i"
    places = np.argwhere(odd)
    row, step = (int(number) for number in places[0])
    long = times[row, step + 1] - times[row, step]
    found = _duration(int(long)) if is_time else f"{long:g}"
    where = f"from {_moment(times[row, step], is_time)} to {_moment(times[row, step + 1], is_time)}"
    told = f"the step{_of(arrays, row)} {where} is {found}, and most are {words}"
    return told + (f" ({len(places):,} steps are not)" if len(places) > 1 else "")


def _of(arrays: Arrays, row: int) -> str:
    return "" if arrays.groups is None else f" of {arrays.groups[row]}"


def _months_apart(times: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The months from each step to the next one, (series, longest - 1), if all steps are whole months after the first
    moment of their series; None if not."""
    stamps = times.astype("datetime64[ns]")
    months = stamps.astype("datetime64[M]")
    within = stamps - months.astype("datetime64[ns]")
    valid = np.arange(times.shape[1]) < lengths[:, None]
    if not ((within == within[:, :1]) | ~valid).all():
        return None
    numbers: NDArray[np.int64] = months.astype(np.int64)
    return np.diff(numbers, axis=1)


def _seasons(step: int, in_months: bool) -> list[int]:
    """A day and a week for steps of less than a day, a week for days, a year for weeks and months."""
    if in_months:
        return [_YEAR[step]] if step in _YEAR else []
    if step == _WEEK:
        return [52]
    found = [whole // step for whole in (_DAY, _WEEK) if whole % step == 0 and whole // step > 1]
    return [season for season in found if season <= _MOST_SEASON]


def _months(count: int) -> str:
    return "1 month" if count == 1 else f"{count} months"


def _duration(nanoseconds: int) -> str:
    for size, name in _UNITS:
        if nanoseconds and nanoseconds % size == 0:
            count = nanoseconds // size
            return f"1 {name}" if count == 1 else f"{count:,} {name}s"
    return f"{nanoseconds / _SECOND:g} seconds"


def _moment(time: Any, is_time: bool) -> str:
    if not is_time:
        return f"{time:g}"
    return str(np.datetime64(int(time), "ns").astype("datetime64[s]")).replace("T", " ")
