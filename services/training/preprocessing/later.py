"""What the network reads of steps that stay in their file: it is prepared when a batch needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from loopline.files.sequences import Column
from loopline.preprocessing import shape
from loopline.preprocessing.fitted import Fitted, Preprocessing
from numpy.typing import NDArray

from services.training.files.arrays import Arrays
from services.training.files.steps import AT_ONCE, FileSteps, pieces

MOST_PADDING = 8
"""How many times as large as its steps data may be when it is padded, if it is to be prepared as in memory."""


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

    @cached_property
    def _as_in_memory(self) -> bool:
        """Whether each sample is padded to the longest of all before it is prepared: the last bit of a sum over its
        steps may depend on that. Data that is mostly padding is never in memory."""
        there = int(self.steps.lengths.sum()) * self.steps.features
        return self.fitted.choices.scaling_over == "per_sequence" and self.steps.size <= MOST_PADDING * max(1, there)

    def chosen(self, rows: NDArray[np.int64]) -> Later:
        """Some of the samples; nothing is read."""
        static = None if self.static is None else self.static[rows]
        return replace(self, steps=self.steps.chosen(rows), static=static)

    def prepare(self, rows: NDArray[np.int64], found: NDArray[np.float32]) -> None:
        """Reads some samples and prepares them into `found` (rows, steps, channels), whose steps are at least as many
        as those of the longest of them."""
        sizes = self.steps.lengths[rows]
        widths = np.full(len(rows), self.steps.longest) if self._as_in_memory else sizes
        order = np.argsort(widths, kind="stable")  # so that there is little padding
        for start, stop in pieces(widths[order], AT_ONCE // max(1, self.steps.features)):
            at = order[start:stop]
            given = self.steps.padded(rows[at], int(widths[at[-1]]))
            x, _ = self.fitted.applied(given, sizes[at], self.columns)
            kept = min(x.shape[1], found.shape[1])
            found[at, :kept] = x[:, :kept]
            found[at, kept:] = 0.0
