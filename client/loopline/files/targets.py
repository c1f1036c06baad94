"""What a model is to predict: classes, labels or values, for each sequence or for each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.files.features import Floats, Reader, Rows, Values
from loopline.files.long import Arrangement
from loopline.files.sequences import Targets

MOST_WHOLE_CLASSES = {True: 20, False: 100}
"""So many different whole numbers per step (True), or per sequence, are taken as classes; more are values."""
RowOf = Callable[[Rows], Rows]
"""The rows of some values, in the order of the file."""


@dataclass(frozen=True)
class Predicted:
    """The targets, in the form of `Sequences`."""

    y: NDArray[Any]
    targets: Targets
    classes: tuple[int | str, ...] | None = None


def predicted(
    reader: Reader, arrangement: Arrangement, columns: Sequence[Values], *, by_step: bool
) -> Predicted | None:
    """The targets from columns that have a value for each step if `by_step`, else for each sequence.

    A target with one value in each sequence of `ids` is one per sequence. Problems are added to the findings; the
    result is then None, or of no use.
    """
    row_of: RowOf = arrangement.row_of
    if by_step and not arrangement.by_step:
        rows = np.repeat(np.arange(len(arrangement.lengths)), arrangement.lengths)
        row_of = lambda steps: rows[steps]  # noqa: E731
    if by_step and arrangement.by_step and arrangement.ids is not None:
        constant = [arrangement.constant(column.data) for column in columns]
        whole = [replace(column, data=data) for column, data in zip(columns, constant, strict=True) if data is not None]
        if len(whole) == len(columns):
            columns, by_step = whole, False
            row_of = lambda sequences: arrangement.row_of(arrangement.starts[sequences])  # noqa: E731
    if len(columns) == 1:
        return _single(reader, columns[0], row_of, by_step)
    words = [column.column.name for column in columns if column.column.kind == "category"]
    if words:
        reader.findings.add(
            f"column {words[0]}",
            f"`{words[0]}` has words, and several targets must be numbers; name one target of words",
        )
        return None
    if not by_step and all(np.isin(column.data[~np.isnan(column.data)], (0, 1)).all() for column in columns):
        _refuse_missing(reader, columns, row_of)
        return Predicted(
            np.stack([np.nan_to_num(column.data) for column in columns], axis=1).astype(np.int8), "multilabel"
        )
    return _of_values(reader, columns, row_of, by_step)


def _single(reader: Reader, column: Values, row_of: RowOf, by_step: bool) -> Predicted | None:
    name, data = column.column.name, column.data
    used = np.unique(data[~np.isnan(data)])
    if not used.size:
        reader.findings.add(f"column {name}", "the target has no values; give another one (--target NAME)")
        return None
    if column.column.kind == "number" and not are_classes(
        used, int(np.count_nonzero(~np.isnan(data))), whole=column.whole, by_step=by_step
    ):
        return _of_values(reader, [column], row_of, by_step)
    if _refuse_missing(reader, [column], row_of):
        return None
    words = column.column.categories
    classes = tuple(words[int(code)] for code in used) if words else tuple(int(number) for number in used)
    return Predicted(np.searchsorted(used, data).astype(np.int64), "tags" if by_step else "classes", classes)


def are_classes(used: Floats, count: int, *, whole: bool, by_step: bool) -> bool:
    """Whether `count` numbers, of which these are the different ones, are classes rather than values.

    Whole numbers are, if there are few different ones and each can be expected twice. Numbers written with a decimal
    point are only if they also follow each other (1.0, 2.0, 3.0) or are -1 and 1.
    """
    most = MOST_WHOLE_CLASSES[by_step]
    if len(used) > most or not np.array_equal(used, np.floor(used)):
        return False
    if len(used) > 2 and count < 2 * len(used):
        return False
    return whole or used[-1] - used[0] == len(used) - 1 or np.array_equal(used, (-1, 1))


def _of_values(reader: Reader, columns: Sequence[Values], row_of: RowOf, by_step: bool) -> Predicted:
    if not by_step:  # a step without a value is a missing value, which a spec says how to fill
        _refuse_missing(reader, columns, row_of)
    return Predicted(np.stack([column.data for column in columns], axis=1), "step_values" if by_step else "values")


def _refuse_missing(reader: Reader, columns: Sequence[Values], row_of: RowOf) -> bool:
    found = False
    for column in columns:
        missing = np.flatnonzero(np.isnan(column.data))
        if missing.size:
            found = True
            reader.findings.add(
                reader.named(row_of(missing)),
                f"the target `{column.column.name}` is empty; give it a value, or delete these rows",
            )
    return found
