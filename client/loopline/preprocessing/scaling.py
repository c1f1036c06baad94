"""Shifts and scales numbers: by what was fitted on the training split, or each sequence by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.files.rounding import ROUNDING

SCALED_AT_ONCE = 1 << 20
"""Numbers whose float64 copies are in memory at a time, where a data set needs those."""
QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Scaling:
    """What was fitted on the training split: each feature, or target, becomes (x - shift) / scale."""

    name: str
    shift: list[float] | None = None
    scale: list[float] | None = None

    def document(self) -> dict[str, Any]:
        return {"name": self.name, "shift": self.shift, "scale": self.scale}

    def applied(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Values (..., columns), scaled before they are cast, so that float32 holds their differences."""
        if self.shift is None:
            return values.astype(np.float32)
        scaled = (values.astype(np.float64) - np.asarray(self.shift)) / np.asarray(self.scale)
        found: NDArray[np.float32] = scaled.astype(np.float32)
        return found

    def undone(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values (..., columns) in the unit of the data, float64 where they were scaled."""
        if self.shift is None:
            return values
        found: NDArray[np.float64] = values.astype(np.float64) * np.asarray(self.scale) + np.asarray(self.shift)
        return found


UNSCALED = Scaling("none")
"""The target scaling of whatever was written before there was any."""


def scaled(x: NDArray[Any], lengths: NDArray[np.int64], scaling: Scaling) -> NDArray[np.float32]:
    """x (samples, time, features) scaled, in float32; what is not scaled and in float32 already is x itself."""
    if scaling.shift is None:
        return x.astype(np.float32, copy=False)
    if x.dtype == np.float64:
        found: NDArray[np.float32] = np.empty(x.shape, np.float32)
        rows = max(1, SCALED_AT_ONCE // max(1, x[0].size))
        for start in range(0, len(x), rows):
            found[start : start + rows] = scaling.applied(x[start : start + rows])
    else:
        found = np.subtract(x, np.asarray(scaling.shift, np.float32))
        found /= np.asarray(scaling.scale, np.float32)
    found[np.arange(x.shape[1]) >= lengths[:, None]] = 0.0  # padding stays zero
    return found


def scaled_by_itself(x: NDArray[Any], lengths: NDArray[np.int64], name: str) -> NDArray[np.float32]:
    """Each sequence of x (samples, time, features) scaled by what is fitted on its own valid steps, in float32."""
    values = x.astype(np.float64)
    valid = (np.arange(x.shape[1]) < lengths[:, None])[:, :, None]
    if name == "robust":
        ordered = np.sort(np.where(valid, values, np.inf), axis=1)
        low, shift, high = (_quantile(ordered, lengths, part) for part in QUARTILES)
        scale = high - low
    elif name == "standard":
        shift = np.where(valid, values, 0.0).sum(axis=1) / lengths[:, None]
        apart = np.where(valid, values - shift[:, None, :], 0.0)
        scale = np.sqrt(np.square(apart).sum(axis=1) / lengths[:, None])
    else:
        shift = np.where(valid, values, np.inf).min(axis=1)
        scale = np.where(valid, values, -np.inf).max(axis=1) - shift
    scale = np.where(scale > ROUNDING * np.abs(shift), scale, 1.0)
    found: NDArray[np.float32] = ((values - shift[:, None, :]) / scale[:, None, :]).astype(np.float32)
    found[~valid[:, :, 0]] = 0.0
    return found


def _quantile(ordered: NDArray[np.float64], lengths: NDArray[np.int64], part: float) -> NDArray[np.float64]:
    """A quantile of sequences (samples, time, features) whose valid steps are sorted and come first: (samples,
    features), interpolated as numpy does."""
    place = part * (lengths - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, lengths - 1)
    rows = np.arange(len(ordered))
    low, high = ordered[rows, below], ordered[rows, above]
    found: NDArray[np.float64] = low + (high - low) * (place - below)[:, None]
    return found
