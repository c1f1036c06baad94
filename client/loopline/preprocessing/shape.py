"""Which steps of a sequence are read, and how many at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def chosen_steps(
    x: NDArray[Any], lengths: NDArray[np.int64], max_length: int | None, cut: str, stride: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """x (samples, time, features) without the steps that are too many, at the start or at the end, and of these every
    so many-th, beginning with the first; and its lengths."""
    if max_length is not None and max_length < x.shape[1]:
        begin = np.maximum(lengths - max_length, 0)
        if cut == "start" and begin.any():
            places = np.minimum(begin[:, None] + np.arange(max_length), x.shape[1] - 1)
            x = np.take_along_axis(x, places[:, :, None], axis=1)
        else:
            x = x[:, :max_length]
        lengths = np.minimum(lengths, max_length)
    if stride > 1:
        x, lengths = x[:, ::stride], -(-lengths // stride)
    return x, lengths


def steps_read(length: int, max_length: int | None, stride: int, patch: int) -> int:
    """The steps that a network reads of a sequence of so many."""
    kept = length if max_length is None else min(length, max_length)
    return math.ceil(math.ceil(kept / stride) / patch)


def lengths_read(lengths: NDArray[np.int64], max_length: int | None, stride: int, patch: int) -> NDArray[np.int64]:
    """The steps that a network reads of sequences of so many; see `steps_read`."""
    kept = lengths if max_length is None else np.minimum(lengths, max_length)
    kept = -(-kept // stride)
    return -(-kept // patch)


def differences(x: NDArray[Any]) -> NDArray[Any]:
    """Of each step of x (samples, time, features) to the step before; of the first step zeros."""
    found = np.zeros_like(x)
    np.subtract(x[:, 1:], x[:, :-1], out=found[:, 1:])
    return found


def patches(x: NDArray[Any], size: int) -> NDArray[Any]:
    """x (samples, time, channels) with so many steps side by side in one: (samples, ceil(time / size), size *
    channels). The last one is filled up with zeros."""
    samples, time, channels = x.shape
    count = math.ceil(time / size)
    if count * size > time:
        x = np.concatenate((x, np.zeros((samples, count * size - time, channels), x.dtype)), axis=1)
    return x.reshape(samples, count, size * channels)
