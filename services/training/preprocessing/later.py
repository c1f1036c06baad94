"""What the network reads of steps that stay in their file: it is prepared when a batch needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from loopline.files.sequences import Column
from numpy.typing import NDArray

from services.training.files.arrays import Arrays
from services.training.files.steps import AT_ONCE, FileSteps, pieces
from services.training.preprocessing import shape
from services.training.preprocessing.fitted import Fitted, Preprocessing


@dataclass(frozen=True)
class Later:
    """Of some samples, as `fitted.Inputs` has it of those that are in memory."""

    steps: FileSteps
    fitted: Fitted
    columns: Sequence[Column]
    """Those of the steps."""
    static: NDArray[np.float32] | None = None
    """(samples, values)"""

    @classmethod
    def of(cls, steps: FileSteps, arrays: Arrays, preprocessing: Preprocessing) -> Later:
        """Of all samples of a data set, whose x are these steps."""
        return cls(steps, preprocessing.steps, arrays.columns, preprocessing.static_values(arrays))

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def channels(self) -> int:
        """Numbers that the network reads at each step."""
        return self.fitted.channels

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(samples,): the steps that the network reads."""
        c = self.fitted.choices
        return shape.lengths_read(self.steps.lengths, c.max_length, c.stride, c.patch)

    def chosen(self, rows: NDArray[np.int64]) -> Later:
        """Some of the samples; nothing is read."""
        static = None if self.static is None else self.static[rows]
        return replace(self, steps=self.steps.chosen(rows), static=static)

    def prepare(self, rows: NDArray[np.int64], found: NDArray[np.float32]) -> None:
        """Reads some samples and prepares them into `found` (rows, steps, channels), whose steps are at least as many
        as those of the longest of them."""
        sizes = self.steps.lengths[rows]
        # The last bit of a sum over a sequence may depend on its padding, so that is always the same.
        by_itself = self.fitted.choices.scaling_over == "per_sequence"
        widths = np.full(len(rows), self.steps.longest) if by_itself else sizes
        for start, stop in pieces(widths, AT_ONCE // max(1, self.steps.features)):
            given = self.steps.padded(rows[start:stop], int(widths[start:stop].max()))
            x, _ = self.fitted.applied(given, sizes[start:stop], self.columns)
            kept = min(x.shape[1], found.shape[1])
            found[start:stop, :kept] = x[:, :kept]
            found[start:stop, kept:] = 0.0
