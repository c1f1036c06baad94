"""Series: sequences whose next steps can be forecast. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from loopline.files.sequences import Column
from numpy.typing import NDArray

from services.training.files.arrays import Arrays
from services.training.files.summary import SeriesSummary

_SECOND = 1_000_000_000
_MINUTE, _HOUR, _DAY, _WEEK = (_SECOND * seconds for seconds in (60, 3600, 86_400, 604_800))
_UNITS = ((_WEEK, "week"), (_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute"), (_SECOND, "second"))
_MOST_SEASON = 10_000
"""Steps; longer seasons are not suggested."""
_YEAR = {1: 12, 2: 6, 3: 4, 6: 2}
"""The steps of a year, by the months of a step."""
_SEVERAL_UNLIKE = 1e-6
"""How far apart, as a share of a step, equal steps of numbers may be: they were rounded."""


@dataclass(frozen=True)
class Series:
    """All series of a data set, one below the other."""

    values: NDArray[Any]
    """(series, longest, columns) float32 or float64, NaN where missing, anything in the padding."""
    lengths: NDArray[np.int64]
    columns: tuple[Column, ...]
    targets: tuple[int, ...]
    """Of the columns, those to predict."""
    known: tuple[int, ...]
    """Of the columns, those whose values are known ahead of time."""

    def __len__(self) -> int:
        return len(self.values)


def read(arrays: Arrays) -> Series:
    """The series of a data set whose summary has a `series` with targets."""
    names, inside = _targets(arrays)
    values, columns = arrays.x_in_memory, arrays.columns
    if not inside:  # whole numbers, which could be classes too
        values = np.concatenate((values, arrays.y.astype(values.dtype)), axis=2)
        columns = (*columns, *map(Column, names))
    place = {column.name: number for number, column in enumerate(columns)}
    known = [place[name] for name in _known(arrays)]
    return Series(values, arrays.lengths, columns, tuple(place[name] for name in names), tuple(known))


def summarised(arrays: Arrays) -> SeriesSummary | None:
    """What a forecast can be made of; None if nothing goes on after the last step."""
    if arrays.schema is None or arrays.y.ndim != 3 or arrays.y.dtype.kind == "U":
        return None
    names, inside = _targets(arrays)
    gaps = 0
    if inside and names:
        x = arrays.x_in_memory
        place = {column.name: number for number, column in enumerate(arrays.columns)}
        gaps = sum(bool(np.isnan(x[:, :, place[name]]).any()) for name in names)
    steps = _steps(arrays)
    return SeriesSummary(
        targets=list(names),
        columns=arrays.x.shape[2] + (0 if inside else len(names)),
        known_future=_known(arrays),
        gaps=gaps,
        steps=int(arrays.lengths.sum()),
        step=steps.words,
        seasons=list(steps.seasons),
        irregular=steps.irregular,
    )


def _targets(arrays: Arrays) -> tuple[tuple[str, ...], bool]:
    """The columns to predict, and whether they are among the features; without a name the only number is it."""
    numbers = [column.name for column in arrays.columns if column.kind in ("number", "boolean")]
    if arrays.y.shape[2]:
        return arrays.targets, False
    if arrays.targets:
        return (arrays.targets if set(arrays.targets) <= set(numbers) else ()), True
    return (tuple(numbers) if len(numbers) == 1 else ()), True


def _known(arrays: Arrays) -> list[str]:
    names = {column.name for column in arrays.columns}
    return [name for name in (arrays.schema.known_future if arrays.schema else None) or () if name in names]


@dataclass(frozen=True)
class _Steps:
    """The time between two steps."""

    words: str | None = None
    seasons: Sequence[int] = ()
    irregular: str | None = None


def _steps(arrays: Arrays) -> _Steps:
    times = arrays.times
    if times is None or times.shape[1] < 2:
        return _Steps()
    valid = np.arange(1, times.shape[1]) < arrays.lengths[:, None]
    apart = np.diff(times, axis=1)
    if not valid.any():
        return _Steps()
    is_time = times.dtype.kind == "i"
    if is_time and (months := _months(times, arrays.lengths)) is not None:
        seasons = [_YEAR[months]] if months in _YEAR else []
        return _Steps("1 month" if months == 1 else f"{months} months", seasons)
    usual = np.median(apart[valid]) if not is_time else np.partition(apart[valid], valid.sum() // 2)[valid.sum() // 2]
    same = apart == usual if is_time else np.abs(apart - usual) <= _SEVERAL_UNLIKE * abs(usual)
    words = _duration(int(usual)) if is_time else f"{usual:g}"
    odd = np.argwhere(valid & ~same)
    irregular = None
    if len(odd):
        row, step = (int(number) for number in odd[0])
        of = "" if arrays.groups is None else f" of {arrays.groups[row]}"
        found = _duration(int(apart[row, step])) if is_time else f"{apart[row, step]:g}"
        where = f"from {_moment(times[row, step], is_time)} to {_moment(times[row, step + 1], is_time)}"
        irregular = f"the step{of} {where} is {found}, and most are {words}"
        if len(odd) > 1:
            irregular += f" ({len(odd):,} steps are not)"
    return _Steps(words, _seasons(int(usual)) if is_time else [], irregular)


def _months(times: NDArray[np.int64], lengths: NDArray[np.int64]) -> int | None:
    """The months of a step if all steps are so many months from the first moment of their series; None if not."""
    stamps = times.astype("datetime64[ns]")
    months = stamps.astype("datetime64[M]")
    within = stamps - months.astype("datetime64[ns]")
    valid = np.arange(times.shape[1]) < lengths[:, None]
    apart = np.diff(months.astype(np.int64), axis=1)[valid[:, 1:]]
    same_day = (within == within[:, :1]) | ~valid
    is_so = bool(same_day.all() and apart[0] > 0 and (apart == apart[0]).all())
    return int(apart[0]) if is_so else None


def _seasons(step: int) -> list[int]:
    """A day and a week for steps of less than a day, a week for days, a year for weeks."""
    if step <= 0:
        return []
    if step == _WEEK:
        return [52]
    found = [whole // step for whole in (_DAY, _WEEK) if whole % step == 0 and whole // step > 1]
    return [season for season in found if season <= _MOST_SEASON]


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
