"""What is put in the place of missing values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def filled(
    x: NDArray[Any],
    lengths: NDArray[np.int64],
    method: str,
    fills: NDArray[np.float64],
    categories: NDArray[np.bool_],
) -> NDArray[Any]:
    """x (samples, time, features) without gaps. `fills` are the means of training, `categories` says which features
    have no line between two values: (features,).

    `mean` fills each gap with the mean. `forward` repeats the last value; before the first one it is the mean.
    `linear` draws a line between the values on both sides, and repeats the nearest value at the ends. A sequence
    without any value gets the mean.
    """
    missing = np.isnan(x)
    if not missing.any():
        return x
    if method == "mean":
        return np.where(missing, fills, x).astype(x.dtype)
    rows, features = np.flatnonzero(missing.any(axis=(1, 2))), np.flatnonzero(missing.any(axis=(0, 1)))
    found = x.copy()
    at = np.ix_(rows, np.arange(x.shape[1]), features)
    found[at] = _from_neighbours(x[at], missing[at], lengths[rows], method, fills[features], categories[features])
    return found


def _from_neighbours(
    x: NDArray[Any],
    missing: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    method: str,
    fills: NDArray[np.float64],
    categories: NDArray[np.bool_],
) -> NDArray[Any]:
    observed = ~missing & (np.arange(x.shape[1]) < lengths[:, None])[:, :, None]
    steps = np.arange(x.shape[1])[:, None]
    before = np.maximum.accumulate(np.where(observed, steps, -1), axis=1)
    values = x.astype(np.float64)
    earlier = np.where(before >= 0, np.take_along_axis(values, np.maximum(before, 0), axis=1), fills)
    if method == "linear":
        last = x.shape[1]
        after = np.minimum.accumulate(np.where(observed, steps, last)[:, ::-1], axis=1)[:, ::-1]
        later = np.take_along_axis(values, np.minimum(after, last - 1), axis=1)
        share = (steps - before) / np.maximum(after - before, 1)
        line = np.where(before < 0, later, earlier + (later - earlier) * share)
        line = np.where(after < last, line, earlier)
        earlier = np.where(categories, earlier, line)
    return np.where(missing, earlier, x).astype(x.dtype)
