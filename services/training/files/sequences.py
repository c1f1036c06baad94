"""From `loopline.files.Sequences`, which every file of people becomes, to the arrays that training takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from loopline.files import mapping, rounding
from loopline.files.sequences import Column, Sequences
from numpy.typing import NDArray

from services.errors import DatasetInvalid, Problem
from services.training.files.npz import Arrays
from services.training.files.steps import FileSteps
from services.training.tasks import tags, values

_LOOKED_AT = 1 << 16
"""Steps by which it is decided how precisely values are kept."""

_NAMED = 3
"""Columns that a message proposes."""


def stay_in_file(sequences: Sequences, from_bytes: int | None) -> bool:
    """Whether steps are read when they are needed: they are mapped from a file, and take so many bytes or more if they
    are padded to the longest sequence. Series do not."""
    if from_bytes is None or not isinstance(sequences.x, np.memmap) or padded_bytes(sequences) < from_bytes:
        return False
    return sequences.x.shape[1] > 0 and not _is_series(sequences)


def padded_bytes(sequences: Sequences) -> int:
    """What the steps take if they are padded to the longest sequence."""
    return len(sequences.lengths) * int(sequences.lengths.max()) * sequences.x[:1].nbytes


def arrays(sequences: Sequences, in_file_from: int | None = None) -> Arrays:
    """The sequences one below the other, padded with zeros to the longest. If all have the same length, `x` shares the
    memory of `sequences.x`. If `x` takes `in_file_from` bytes or more, it stays in the file that it is mapped from.

    Values to predict at each step become features: a forecast reads their past. `y` then has no columns.

    Raises DatasetInvalid if there is nothing to predict, or nothing that a task here can be trained on.
    """
    lengths = np.asarray(sequences.lengths, np.int64)
    times = sequences.times
    ends = None if times is None else times[np.cumsum(lengths) - 1]
    in_file = stay_in_file(sequences, in_file_from)
    if in_file and sequences.targets != "tags":
        times = None  # only series and tags, which may be series too, need each time
    for mapped in (sequences.times, sequences.y):
        if in_file and mapped is not None:
            mapping.release(mapped)
    x, features, targets = sequences.x, sequences.features, sequences.target_names
    if is_series := _is_series(sequences):
        targets = targets or tuple(sequences.schema.target or ())
    if sequences.targets == "step_values" and sequences.y is not None:
        x = np.concatenate((x, _narrowed(sequences.y)), axis=1)
        features = (*features, *map(Column, targets))
    return Arrays(
        x=_steps(x, lengths) if in_file else _padded(x, lengths, 0),
        lengths=lengths,
        y=_y(sequences, lengths, is_series=is_series),
        split=sequences.split,
        static=sequences.static,
        weights=sequences.weights,
        groups=sequences.ids,
        ends=ends,
        features=features,
        static_columns=sequences.static_columns,
        times=None if times is None else _padded(times, lengths, 0),
        zoned=sequences.zoned,
        schema=sequences.schema,
        targets=targets,
        texts=None if sequences.texts is None else np.array(sequences.texts, np.object_),
    )


def _steps(mapped: NDArray[Any], lengths: NDArray[np.int64]) -> FileSteps:
    assert isinstance(mapped, np.memmap), "stay_in_file() says so"  # noqa: S101
    return FileSteps.of(Path(mapped.filename or ""), mapped.offset, mapped.dtype, mapped.shape[1], lengths)


def _is_series(sequences: Sequences) -> bool:
    """Whether what there is to predict are the steps that come next, if anything."""
    if sequences.texts is not None:
        return False
    if sequences.y is None:
        names = {column.name for column in sequences.features}
        target = sequences.schema.target or ()
        return bool(target and names.issuperset(target)) or (not target and sequences.schema.order is not None)
    return sequences.targets == "step_values"


def _narrowed(steps: NDArray[Any]) -> NDArray[Any]:
    """Values of steps (steps, columns) as float32, unless it cannot hold their differences."""
    known = steps[~np.isnan(steps).any(axis=1)][:_LOOKED_AT]
    return steps if rounding.lost(known[np.newaxis]) else steps.astype(np.float32)


def _y(sequences: Sequences, lengths: NDArray[np.int64], *, is_series: bool) -> NDArray[Any]:
    """y in the form of the tasks."""
    if is_series:
        return np.empty((len(lengths), int(lengths.max(initial=1)), 0), np.float32)
    if sequences.texts is not None and sequences.y is None:
        return np.empty((len(lengths), 0), np.int64)
    return _targets(sequences, lengths)


def _padded(steps: NDArray[Any], lengths: NDArray[np.int64], padding: Any) -> NDArray[Any]:
    """Steps (steps, ...) of all sequences as (sequences, longest, ...)."""
    longest = int(lengths.max(initial=1))
    if (lengths == longest).all():
        return steps.reshape(len(lengths), longest, *steps.shape[1:])
    found = np.full((len(lengths), longest, *steps.shape[1:]), padding, steps.dtype)
    found[np.arange(longest) < lengths[:, None]] = steps
    return found


def _targets(sequences: Sequences, lengths: NDArray[np.int64]) -> NDArray[Any]:
    y, kind = sequences.y, sequences.targets
    if y is None or kind is None:
        names = [column.name for column in (*sequences.static_columns, *sequences.features)]
        such = f", such as {' or '.join(f'`{name}`' for name in names[:_NAMED])}" if len(names) > 1 else ""
        out = f"name its target column (--target NAME, or data.schema.target in a spec){such}"
        raise _refused(f"it has nothing to predict: {out}")
    if kind == "values":
        found = values.narrowed(y)
        return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if kind == "multilabel":
        return y.astype(np.int64)
    labels: NDArray[Any] = np.asarray(sequences.classes)[y]
    if kind == "classes":
        return labels
    return _padded(labels, lengths, "" if labels.dtype.kind == "U" else tags.PADDING)[:, :, np.newaxis]


def _refused(detail: str) -> DatasetInvalid:
    return DatasetInvalid(f"The data set cannot be trained on: {detail}.", [Problem("/data/dataset", detail)])
