"""A few samples as the file has them, which stay in memory: the exported model is checked with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from services.training.files.arrays import Arrays
from services.training.files.steps import FileSteps

MOST_STEPS = 64
MOST_NUMBERS = 1 << 19
"""Of x."""


def few(arrays: Arrays, rows: NDArray[np.int64], most: int = MOST_STEPS) -> Arrays:
    """The longest, the shortest and the first two of these samples, each cut to so many steps."""
    sizes = arrays.lengths[rows]
    chosen = rows[list(dict.fromkeys((int(sizes.argmax()), int(sizes.argmin()), 0, min(1, len(rows) - 1))))]
    chosen = chosen[: max(1, MOST_NUMBERS // max(1, most * arrays.x.shape[2]))]
    found = arrays.chosen(chosen)
    lengths = np.minimum(found.lengths, most)
    steps = int(lengths.max())
    x = found.x
    x = (
        replace(x, lengths=lengths, longest=steps)[:]
        if isinstance(x, FileSteps)
        else np.ascontiguousarray(x[:, :steps])
    )
    y = found.y[:, :steps] if found.y.ndim == 3 else found.y
    times = None if found.times is None else found.times[:, :steps]
    return replace(found, x=x, y=y, lengths=lengths, times=times)
