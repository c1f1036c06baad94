"""Arrays that are mapped from a file: the memory that reading them takes, and how to give it back."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray


def release(array: NDArray[Any]) -> None:
    """Gives back the memory of the pages of a mapped array that were read. They are read again when they are needed.
    Does nothing to an array that is not mapped, or where the system cannot do it."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
