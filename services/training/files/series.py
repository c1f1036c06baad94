"""Series: sequences whose next steps can be forecast. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from loopline.files import calendar, grids
from loopline.files.sequences import Column
from numpy.typing import NDArray

from services.errors import DatasetInvalid, Problem
from services.training.files.arrays import Arrays
from services.training.files.summary import SeriesSummary


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


def with_calendar(arrays: Arrays, names: Sequence[str]) -> Arrays:
    """The series with these features of the calendar as columns that are known ahead of time, after all others.

    Raises DatasetInvalid as `calendar_columns`.
    """
    added = calendar_columns(arrays, names)
    if not added or arrays.times is None or arrays.schema is None:
        return arrays
    x = arrays.x_in_memory
    terms = calendar.fourier_terms(arrays.times[:, : x.shape[1]], names, x.dtype)
    terms[np.arange(x.shape[1]) >= arrays.lengths[:, None]] = 0
    known = (*(arrays.schema.known_future or ()), *(column.name for column in added))
    targets, inside = _targets(arrays)
    return replace(
        arrays,
        targets=targets if inside else arrays.targets,  # the only number is not the only one any more
        x=np.concatenate((x, terms), axis=2),
        features=(*arrays.columns, *added),
        schema=replace(arrays.schema, known_future=known),
    )


def calendar_columns(arrays: Arrays, names: Sequence[str]) -> tuple[Column, ...]:
    """The columns that `with_calendar` adds.

    Raises DatasetInvalid where steps have no times, or a column has the name of such a feature.
    """
    if not names:
        return ()
    added = calendar.columns(names)
    why = None
    if arrays.times is None or arrays.times.dtype.kind != "i" or arrays.schema is None:
        why = "the steps have no dates or times"
    elif taken := sorted({column.name for column in arrays.columns} & {column.name for column in added}):
        why = f"the data has a column {taken[0]} of its own, so rename it"
    if why is not None:
        detail = f"{why}, or set task.calendar to none"
        raise DatasetInvalid(f"The calendar cannot be read: {detail}.", [Problem("/task/calendar", detail)])
    return added


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
    grid = grids.of(arrays.times, arrays.lengths, arrays.groups)
    return SeriesSummary(
        targets=list(names),
        columns=arrays.x.shape[2] + (0 if inside else len(names)),
        known_future=_known(arrays),
        gaps=gaps,
        steps=int(arrays.lengths.sum()),
        step=grid.words,
        usual=None if grid.step is None else grid.step.usual,
        in_months=grid.step is not None and grid.step.in_months,
        seasons=list(grid.seasons),
        irregular=grid.irregular,
        absent=grid.absent,
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
