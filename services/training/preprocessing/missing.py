"""Where values are missing, and whether a model takes that."""

from __future__ import annotations

import numpy as np
from loopline.preprocessing.choices import Choices
from loopline.preprocessing.fitted import WITH_GAPS_LEFT, Preprocessing, chosen_steps
from numpy.typing import NDArray

from services.training.files.npz import Arrays
from services.training.files.steps import blocks_of


def gaps_in(arrays: Arrays, choices: Choices) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of what is read of a data set, the samples with a missing value (samples,), and the columns with one, first
    those of x and then those of `static` (columns,)."""
    rows = np.zeros(len(arrays), np.bool_)
    columns = np.zeros(arrays.x.shape[2], np.bool_)
    for some, block in blocks_of(arrays.x):
        x, _ = chosen_steps(block, arrays.lengths[some], choices)
        missing = np.isnan(x)
        rows[some] = missing.any(axis=(1, 2))
        columns |= missing.any(axis=(0, 1))
    if arrays.static is None:
        return rows, columns
    missing = np.isnan(arrays.static)
    return rows | missing.any(axis=1), np.concatenate((columns, missing.any(axis=0)))


def mismatch(preprocessing: Preprocessing, arrays: Arrays) -> str | None:
    """Why this data cannot be prepared so; a sentence without its subject, the model."""
    if (found := preprocessing.mismatch(arrays)) is not None:
        return found
    choices = preprocessing.steps.choices
    if choices.missing in WITH_GAPS_LEFT and any(where.any() for where in gaps_in(arrays, choices)):
        return "takes no missing values, and some of these samples have them"
    return None
