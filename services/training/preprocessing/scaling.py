"""Fits a scaling on the training split, and undoes one of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from loopline.files.rounding import ROUNDING
from loopline.preprocessing.scaling import QUARTILES, Scaling
from numpy.typing import NDArray
from torch import Tensor


def fitted(name: str, x: NDArray[Any], lengths: NDArray[np.int64]) -> Scaling:
    """Fits each feature's shift and scale on the valid steps of x (samples, time, features). A constant feature keeps
    scale 1."""
    if name == "none":
        return Scaling("none")
    steps = valid_steps(x, lengths)
    if name == "standard":
        shift = steps.mean(axis=0, dtype=np.float64)
        scale = steps.std(axis=0, dtype=np.float64)
    elif name == "robust":
        low, shift, high = np.quantile(steps.astype(np.float64), QUARTILES, axis=0)
        scale = high - low
    else:
        shift = steps.min(axis=0).astype(np.float64)
        scale = steps.max(axis=0).astype(np.float64) - shift
    return of_steps(name, shift, scale)


def of_steps(name: str, shift: NDArray[np.float64], scale: NDArray[np.float64]) -> Scaling:
    """That of features with this shift and scale, (features,) both. A constant feature keeps scale 1."""
    scale = np.where(scale > ROUNDING * np.abs(shift), scale, 1.0)
    return Scaling(name, [float(v) for v in shift], [float(v) for v in scale])


def standard(rows: NDArray[Any]) -> Scaling:
    """Mean zero and deviation one of each column; a column that is constant, to rounding, keeps scale 1."""
    values = rows.astype(np.float64)
    least, most = values.min(axis=0), values.max(axis=0)
    constant = most - least <= ROUNDING * np.maximum(np.abs(least), np.abs(most))
    scale = np.where(constant, 1.0, values.std(axis=0))
    return Scaling("standard", [float(v) for v in values.mean(axis=0)], [float(v) for v in scale])


def valid_steps(x: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any]:
    """The steps of x (samples, time, features) without the padding: (steps, features)."""
    if int(lengths.min()) == x.shape[1]:
        return x.reshape(-1, x.shape[2])
    valid: NDArray[Any] = x[np.arange(x.shape[1]) < lengths[:, None]]
    return valid


def undone(values: Tensor, scaling: Scaling) -> Tensor:
    """Values (..., columns) in the unit of the data, float64 where they were scaled."""
    if scaling.shift is None:
        return values
    shift, scale = (values.new_tensor(each, dtype=torch.float64) for each in (scaling.shift, scaling.scale))
    return values.double() * scale + shift
