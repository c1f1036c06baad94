"""Sequences that a model is asked about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.files.sequences import Column

Rows = NDArray[np.int64]
AT_ONCE = 1 << 20
"""Numbers of x, or of what a layer gives, that a backend has at a time, padding included."""
MOST_AT_ONCE = 256
"""Sequences that a backend gets at a time."""


@dataclass(frozen=True)
class Batch:
    """Some of the sequences, padded: `loopline.preprocessing.fitted.Samples`."""

    x_in_memory: NDArray[Any]
    """(sequences, length, features), zero after the end of a sequence. NaN is a missing value."""
    lengths: Rows
    columns: tuple[Column, ...]
    ids: tuple[str, ...]
    static: NDArray[np.float64] | None
    static_columns: tuple[Column, ...]
    texts: NDArray[np.object_] | None
    future: NDArray[np.float64] | None
    """(sequences, horizon, columns): what is known ahead of time."""

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class Given:
    """All of them."""

    x: NDArray[Any]
    """(steps, features) of one sequence after the other."""
    lengths: Rows
    """(sequences,)"""
    columns: tuple[Column, ...]
    """What each feature of x is, as the model numbers the words of categories (`document.columns_of`)."""
    ids: tuple[str, ...]
    has_ids: bool = False
    """Whether somebody gave the ids; otherwise they are numbers from 0 on."""
    static: NDArray[np.float64] | None = None
    static_columns: tuple[Column, ...] = ()
    texts: NDArray[np.object_] | None = None
    """(sequences,): a str each. Then x has no features and each length is 1."""
    future: NDArray[np.float64] | None = None
    times: NDArray[Any] | None = None
    """(steps,): int64 nanoseconds since 1970 or float64."""
    zoned: bool | None = None
    """Whether the times were written with a zone. They are in UTC then, and as they were written otherwise. None if
    nobody knows."""
    ahead: NDArray[Any] | None = None
    """(sequences, horizon): the times of the steps to forecast, if steps have times."""
    warnings: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def starts(self) -> Rows:
        """(sequences,): the first step of each."""
        return np.asarray(np.cumsum(self.lengths) - self.lengths, np.int64)

    def batches(self, width: int = 1) -> Iterator[Rows]:
        """Sequences of similar length, a few at a time. `width` is how many numbers a layer gives at each step."""
        sizes = self.lengths
        if self.texts is not None:
            sizes = np.array([len(text) for text in self.texts], np.int64)
        order = np.argsort(sizes, kind="stable")
        width = max(width, len(self.columns))
        start = 0
        while start < len(order):
            stop = start + 1
            while (
                stop < len(order)
                and stop - start < MOST_AT_ONCE
                and (stop - start + 1) * int(sizes[order[stop]]) * width <= AT_ONCE
            ):
                stop += 1
            yield order[start:stop]
            start = stop

    def batch(self, rows: Rows) -> Batch:
        lengths, starts = self.lengths[rows], self.starts[rows]
        x = np.zeros((len(rows), int(lengths.max()), self.x.shape[1]), self.x.dtype)
        for place, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            x[place, :length] = self.x[start : start + length]
        return Batch(
            x_in_memory=x,
            lengths=lengths,
            columns=self.columns,
            ids=tuple(self.ids[row] for row in rows.tolist()),
            static=None if self.static is None else self.static[rows],
            static_columns=self.static_columns,
            texts=None if self.texts is None else self.texts[rows],
            future=None if self.future is None else self.future[rows],
        )

    def part(self, first: int, last: int) -> Given:
        """The sequences from `first` to before `last`, without warnings."""
        ends = np.cumsum(self.lengths)
        steps = slice(int(ends[first - 1]) if first else 0, int(ends[last - 1]))

        def some(values: NDArray[Any] | None, which: slice = slice(first, last)) -> Any:
            return None if values is None else values[which]

        return replace(
            self,
            x=self.x[steps],
            lengths=self.lengths[first:last],
            ids=self.ids[first:last],
            static=some(self.static),
            texts=some(self.texts),
            future=some(self.future),
            times=some(self.times, steps),
            ahead=some(self.ahead),
            warnings=(),
        )

    def named(self, rows: Sequence[int] | Rows, most: int = 3) -> str:
        """`sequence 3`, `sequences walk_1, walk_2, walk_9 and 12 more`."""
        shown = [self.ids[int(row)] for row in rows[:most]]
        if len(rows) > most:
            shown.append(f"{len(rows) - most:,} more")
        if len(shown) == 1:
            return f"sequence {shown[0]}"
        return f"sequences {', '.join(shown[:-1])} and {shown[-1]}"
