"""Columns that say exactly what the target says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.files.features import Floats
from loopline.files.remark import Remark
from loopline.files.sequences import Sequences

_SAMPLE = 100_000
"""Steps or sequences in which a target is looked for among the features."""
_FEWEST = 8
"""With fewer sequences, or steps, it is by chance that a feature says what the target says."""
_EXACT = 1 - 1e-9
"""The correlation from which on a feature is the target in another unit."""


def of(sequences: Sequences) -> Iterator[Remark]:
    """Columns that say exactly what the target says."""
    if sequences.y is None or not len(sequences.y):
        return
    by_step = sequences.targets in ("tags", "step_values")
    data, columns = (sequences.x, sequences.features) if by_step else (sequences.static, sequences.static_columns)
    if data is None or not len(columns):
        return
    chosen = np.unique(np.linspace(0, len(data) - 1, min(len(data), _SAMPLE)).astype(np.int64))
    targets = sequences.y[chosen].reshape(len(chosen), -1).T
    for place, column in enumerate(columns):
        values = np.asarray(data[chosen, place], np.float64)
        for name, target in zip(sequences.target_names, targets, strict=True):
            if sequences.targets in ("classes", "tags") or column.kind == "category":
                same = _says_the_same(values, target)
            else:
                same = _in_step(values, np.asarray(target, np.float64))
            if same:
                past = " In a forecast, these are its past values, and the model gets them anyway." if by_step else ""
                yield Remark(
                    "warning",
                    "leak",
                    (column.name, name),
                    "",
                    f"`{column.name}` says exactly what the target `{name}` says; leave it out if you will not know it "
                    f"when you predict.{past}",
                )


def _says_the_same(values: Floats, target: NDArray[Any]) -> bool:
    """Whether each value goes with one target, and each target with one value."""
    if len(values) < _FEWEST or np.isnan(values).any():
        return False
    one, other = np.unique(values, return_inverse=True)[1], np.unique(target, return_inverse=True)[1]
    kinds = int(one.max()) + 1
    if kinds < 2 or kinds != int(other.max()) + 1 or len(values) < 3 * kinds:
        return False
    return len(np.unique(one.astype(np.int64) * kinds + other)) == kinds


def _in_step(values: Floats, target: Floats) -> bool:
    """Whether one is the other in another unit."""
    both = ~(np.isnan(values) | np.isnan(target))
    values, target = values[both], target[both]
    if len(values) < _FEWEST or not np.ptp(values) or not np.ptp(target):
        return False
    return bool(abs(np.corrcoef(values, target)[0, 1]) > _EXACT)
