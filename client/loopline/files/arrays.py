"""`.npy`: one array of numbers."""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.files.limits import Limits
from loopline.files.problems import refuse
from loopline.files.source import Source, too_large

# What a damaged header makes numpy, ast and tokenize raise.
_BROKEN = (
    ValueError,
    OSError,
    EOFError,
    SyntaxError,
    TypeError,
    OverflowError,
    MemoryError,
    RecursionError,
    TokenError,
)
SHAPES = "(samples, length, features), or (samples, length) for one feature"


def read(path: Path, limits: Limits = Limits()) -> NDArray[Any]:  # noqa: B008 (it is frozen)
    """(samples, length, features), mapped from the file and not read. Raises FileInvalid."""
    source = Source.of(path)
    if source.head(6) != b"\x93NUMPY":
        raise refuse("", "this is not an .npy array. Save it with np.save.")
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except _BROKEN as error:
        if "Object arrays" in str(error) or "Python objects" in str(error):
            raise refuse(
                "", "the array has Python objects, which are never read. Save it as numbers: x.astype(float)."
            ) from error
        raise refuse(
            "", f"this is not an .npy array, or it is damaged ({str(error)[:120]}). Save it with np.save."
        ) from error
    if array.dtype.kind not in "fiub":
        raise refuse("", f"the array has the type {str(array.dtype)[:60]}. Save it as numbers: x.astype(np.float32).")
    if array.ndim not in (2, 3):
        raise refuse("", f"the array has the shape {array.shape}. Give it {SHAPES}.")
    if not array.size:
        raise refuse("", f"the array is empty: its shape is {array.shape}.")
    if array.nbytes > min(limits.max_bytes, source.size):
        raise too_large(source.name, limits)
    return array if array.ndim == 3 else array[:, :, np.newaxis]
