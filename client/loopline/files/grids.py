"""The equal steps in time of series, the rows that they lack, and the times that come next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
class Step:
    """The time between two steps."""

    usual: int | float
    """In nanoseconds, in months, or as a number."""
    in_months: bool = False

    @property
    def is_time(self) -> bool:
        """Whether steps have dates or times, and not numbers."""
        return isinstance(self.usual, int)

    def after(self, first: NDArray[Any], steps: int, begin: int = 0) -> NDArray[Any]:
        """The times of steps of each series, from `begin` up to `steps`, counted from a first one: (series, steps -
        begin). `first` (series, 1)."""
        apart = self.usual * np.arange(begin, steps)
        if not self.in_months:
            return np.asarray(first + apart)
        stamps = first.astype("datetime64[ns]")
        months = stamps.astype("datetime64[M]")
        return np.asarray(((months + apart).astype("datetime64[ns]") + (stamps - months)).astype(np.int64))

    def document(self) -> dict[str, Any]:
        return {"usual": self.usual, "in_months": self.in_months}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Step:
        """Undoes `document`. Raises KeyError."""
        return cls(document["usual"], bool(document["in_months"]))


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
    step: Step | None = None

    @property
    def absent(self) -> int:
        """How many rows can be added, so that all steps are equal."""
        return int((self.apart - 1).sum())


def of(
    times: NDArray[Any] | None,
    lengths: NDArray[np.int64],
    names: Sequence[str] | NDArray[np.str_] | None = None,
    known: Step | None = None,
) -> Grid:
    """The grid of series with these times (series, longest), in nanoseconds since 1970 as int64 or as float64. The step
    is the `known` one, or the commonest, which is the median. `names` are those of the series."""
    if times is None or times.shape[1] < 2:
        return Grid(step=known)
    valid = np.arange(1, times.shape[1]) < lengths[:, None]
    if not valid.any():
        return Grid(step=known)
    is_time = times.dtype.kind == "i"
    apart = _months_apart(times, lengths) if is_time and (known is None or known.in_months) else None
    in_months = apart is not None
    if known is not None and known.in_months and not in_months:
        return Grid(irregular=f"times are not {_months(int(known.usual))} apart", step=known)
    if apart is None:
        apart = np.diff(times, axis=1)
    step = known or Step(np.partition(apart[valid], valid.sum() // 2)[valid.sum() // 2].item(), in_months)
    if not step.usual > 0:
        return Grid()
    words = _months(int(step.usual)) if step.in_months else _duration(int(step.usual)) if is_time else f"{step.usual:g}"
    seasons = _seasons(int(step.usual), step.in_months) if is_time else []
    steps = np.where(valid, np.rint(apart / step.usual), 1).astype(np.int64)
    on_grid = ~valid | (steps > 0) & (np.abs(apart - steps * step.usual) <= (0 if is_time else _ROUNDED * apart))
    odd, there = ~on_grid | (steps != 1), int(valid.sum())
    if 2 * (there - int(odd.sum())) < there:
        few = f"no time between two steps is the usual one: only {there - int(odd.sum()):,} of {there:,} are {words}"
        return Grid(words, seasons, few, step=step)
    if not odd.any():
        return Grid(words, seasons, None, steps, step)
    why = _trouble(lengths, steps, on_grid, words, names)
    irregular = _first_gap(times, odd, words, names) + (f"; {why}" if why else "")
    return Grid(words, seasons, irregular, steps[:0] if why else steps, step)


def of_flat(times: NDArray[Any], lengths: NDArray[np.int64], names: Sequence[str] | NDArray[np.str_] | None) -> Grid:
    """The grid of series whose times stand one below the other: (steps of all series,)."""
    inside = np.arange(lengths.max()) < lengths[:, None]
    padded = np.zeros(inside.shape, times.dtype)
    padded[inside] = times
    return of(padded, lengths, names)


def filled(
    x: NDArray[Any], lengths: NDArray[np.int64], times: NDArray[Any], grid: Grid
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[Any]]:
    """x (series, longest, columns), lengths and times of series with a row for each step of their grid: rows that were
    added have no values. Where no rows can be added all is as it was."""
    if not grid.absent or grid.step is None:
        return x, lengths, times
    places = np.pad(grid.apart.cumsum(axis=1), ((0, 0), (1, 0)))
    rows, steps = np.nonzero(np.arange(places.shape[1]) < lengths[:, None])
    counts = lengths + (grid.apart - 1).sum(axis=1)
    inside = np.arange(counts.max()) < counts[:, None]
    found = np.zeros((*inside.shape, x.shape[2]), x.dtype)
    found[inside] = np.nan
    found[rows, places[rows, steps]] = x[rows, steps]
    moments = np.where(inside, grid.step.after(times[:, :1], inside.shape[1]), 0)
    moments[rows, places[rows, steps]] = times[rows, steps]
    return found, counts, moments


def _trouble(
    lengths: NDArray[np.int64], steps: NDArray[np.int64], on_grid: NDArray[np.bool_], words: str, names: Any
) -> str | None:
    """Why no rows can be added; None if they can."""
    if not on_grid.all():
        count = int((~on_grid).sum())
        return f"{count:,} {'step is' if count == 1 else 'steps are'} no multiple of {words}"
    absent = (steps - 1).sum(axis=1)
    row = int((absent - lengths).argmax())
    if absent[row] > lengths[row]:
        return f"the series{_of(names, row)} lacks {absent[row]:,} rows and has only {lengths[row]:,}"
    return None


def _first_gap(times: NDArray[Any], odd: NDArray[np.bool_], words: str, names: Any) -> str:
    is_time = times.dtype.kind == "i"
    places = np.argwhere(odd)
    row, step = (int(number) for number in places[0])
    long = times[row, step + 1] - times[row, step]
    found = _duration(int(long)) if is_time else f"{long:g}"
    where = f"from {_moment(times[row, step], is_time)} to {_moment(times[row, step + 1], is_time)}"
    told = f"the step{_of(names, row)} {where} is {found}, and most are {words}"
    return told + (f" ({len(places):,} steps are not)" if len(places) > 1 else "")


def _of(names: Any, row: int) -> str:
    return "" if names is None else f" of {names[row]}"


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
