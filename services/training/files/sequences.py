"""From `loopline.files.Sequences`, which every file of people becomes, to the arrays that training takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from loopline.files.sequences import Sequences
from numpy.typing import NDArray

from services.errors import DatasetInvalid, Problem
from services.training.files.npz import Arrays
from services.training.tasks import tags, values


def arrays(sequences: Sequences) -> Arrays:
    """The sequences one below the other, padded with zeros to the longest. If all have the same length, `x` shares the
    memory of `sequences.x`.

    Raises DatasetInvalid if there is nothing to predict, or nothing that a task here can be trained on.
    """
    lengths = np.asarray(sequences.lengths, np.int64)
    ends = None if sequences.times is None else sequences.times[np.cumsum(lengths) - 1]
    return Arrays(
        x=_padded(sequences.x, lengths, 0),
        lengths=lengths,
        y=_targets(sequences, lengths),
        split=sequences.split,
        static=sequences.static,
        weights=sequences.weights,
        groups=sequences.ids,
        ends=ends,
        features=sequences.features,
        static_columns=sequences.static_columns,
    )


def _padded(steps: NDArray[Any], lengths: NDArray[np.int64], padding: Any) -> NDArray[Any]:
    """Steps (steps, ...) of all sequences as (sequences, longest, ...)."""
    longest = int(lengths.max(initial=1))
    if (lengths == longest).all():
        return steps.reshape(len(lengths), longest, *steps.shape[1:])
    found = np.full((len(lengths), longest, *steps.shape[1:]), padding, steps.dtype)
    found[np.arange(longest) < lengths[:, None]] = steps
    return found


def _targets(sequences: Sequences, lengths: NDArray[np.int64]) -> NDArray[Any]:
    """y in the form of the tasks."""
    y, kind = sequences.y, sequences.targets
    if sequences.texts is not None:
        raise _refused("it holds texts, and there is no task here that reads texts")
    if y is None or kind is None:
        raise _refused("it has nothing to predict: name its target column")
    if kind == "step_values":
        raise _refused("it has values to predict at each step, and there is no task here that predicts those")
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
