"""The steps of a large data set, which stay in their file: a few samples at a time are read. Imports no torch.

They are read with `pread` and not through a mapping. The pages of a mapping count as memory of the process until it
gives them back, and a file that is cut off would kill the process instead of raising an error.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.training.files import scan

IN_FILE_FROM = 256 << 20
"""Bytes of steps, padded to the longest sequence, from which on they stay in their file. Training takes about three
times as much memory for data that it reads as a whole."""
AT_ONCE = 1 << 20
"""Numbers that are worked on at a time."""


class OpenFile:
    """A file that is open for reading until nobody refers to it. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._number)

    def read(self, into: memoryview, position: int) -> None:
        """Fills `into` with the bytes at a position. Raises OSError, also if there are too few."""
        while len(into):
            count = os.preadv(self._number, [into], position)
            if not count:
                raise OSError(f"{self.path} has become shorter while it was in use")
            into, position = into[count:], position + count


@dataclass(frozen=True)
class FileSteps:
    """Steps of sequences in a file: like an array (samples, longest, features) that is padded with zeros.

    Reading raises OSError if the file has become shorter.
    """

    file: OpenFile
    offset: int
    """Where the first step is in the file."""
    dtype: np.dtype[Any]
    features: int
    starts: NDArray[np.int64]
    """(samples,): the place of each sequence's first step among the steps of the file."""
    lengths: NDArray[np.int64]
    """(samples,): how many steps each sequence has."""
    longest: int

    @classmethod
    def of(cls, path: Path, offset: int, dtype: np.dtype[Any], features: int, lengths: NDArray[np.int64]) -> FileSteps:
        """Those of sequences that stand one after the other in a file. Raises OSError."""
        starts = np.cumsum(lengths) - lengths
        return cls(OpenFile(path), offset, dtype, features, starts, lengths, int(lengths.max(initial=1)))

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.lengths), self.longest, self.features

    @property
    def size(self) -> int:
        samples, longest, features = self.shape
        return samples * longest * features

    @property
    def nbytes(self) -> int:
        """Of the padded array."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Reads what an array would give for `rows` or `(rows, steps, features)`. `rows` are a number, a slice or an
        array of numbers; what comes after them are numbers or slices."""
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(rows, slice) and rest and isinstance(rest[0], int):
            numbers = np.arange(len(self))[rows]
            return self.at(numbers, np.full(len(numbers), rest[0]))[(slice(None), *rest[1:])]
        if not isinstance(rows, np.ndarray | slice):
            found: NDArray[Any] = self.padded(np.array([rows]), self.longest)[0][tuple(rest)]
            return found
        chosen = np.arange(len(self))[rows]
        blocks = [
            self.padded(chosen[start:stop], self.longest)[(slice(None), *rest)].copy()  # and not all that was read
            for start, stop in pieces(np.full(len(chosen), self.longest), AT_ONCE // max(1, self.features))
        ]
        if not blocks:
            blocks = [np.empty((0, self.longest, self.features), self.dtype)[(slice(None), *rest)]]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def chosen(self, rows: NDArray[np.int64]) -> FileSteps:
        """Some of the samples; nothing is read."""
        return replace(self, starts=self.starts[rows], lengths=self.lengths[rows])

    def groups(self) -> Iterator[NDArray[np.int64]]:
        """All samples: neighbours that have together about AT_ONCE numbers."""
        ends = np.cumsum(self.lengths) * self.features
        numbers = (ends - 1) // AT_ONCE
        yield from np.split(np.arange(len(self)), np.flatnonzero(np.diff(numbers)) + 1)

    def similar(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The same samples, a few of similar length at a time: the longest one of each time comes last."""
        ordered = rows[np.argsort(self.lengths[rows], kind="stable")]
        for start, stop in pieces(self.lengths[ordered], AT_ONCE // max(1, self.features)):
            yield ordered[start:stop]

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """All samples, a few of similar length at a time, with their steps, padded to the longest of them."""
        for group in self.groups():
            yield from self.blocks_of_group(group)

    def blocks_of_group(self, group: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """The same of one of `groups`, which is read at once. Samples of one length keep their order."""
        steps, sizes = self.flat(group), self.lengths[group]
        begins = np.cumsum(sizes) - sizes
        for rows in self.similar(group):
            local, longest = rows - group[0], int(self.lengths[rows[-1]])
            if len(rows) == len(group) and len(steps) == len(rows) * longest:
                yield rows, steps.reshape(len(rows), longest, self.features)
                continue
            block = np.zeros((len(rows), longest, self.features), self.dtype)
            places = np.arange(longest)
            inside = places < sizes[local][:, None]
            block[inside] = steps[(begins[local][:, None] + places)[inside]]
            yield rows, block

    def padded(self, rows: NDArray[np.int64], longest: int) -> NDArray[Any]:
        """Some samples: (rows, longest, features)."""
        lengths = self.lengths[rows]
        steps = self.flat(rows)
        if (lengths == longest).all():
            return steps.reshape(len(rows), longest, self.features)
        found = np.zeros((len(rows), longest, self.features), self.dtype)
        found[np.arange(longest) < lengths[:, None]] = steps
        return found

    def flat(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The steps of some samples, one after the other: (steps, features)."""
        return self._read(self.starts[rows], self.lengths[rows])

    def at(self, rows: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[Any]:
        """Single steps of samples, (steps, features), as an array gives them for `x[rows, steps]`."""
        places = self.starts[rows] + steps
        order = np.argsort(places, kind="stable")
        found = np.empty((len(places), self.features), self.dtype)
        block = max(1, AT_ONCE // max(1, self.features))
        numbers = places[order] // block
        for part in np.split(order, np.flatnonzero(np.diff(numbers)) + 1):
            if len(part):
                first, last = int(places[part[0]]), int(places[part[-1]])
                read = self._read(np.array([first]), np.array([last - first + 1]))
                found[part] = read[places[part] - first]
        return found

    def _read(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[Any]:
        """So many steps from each of these on, in this order. The file is read from its beginning to its end."""
        ends = np.cumsum(lengths)
        found = np.empty((int(ends[-1]) if len(ends) else 0, self.features), self.dtype)
        if not found.size:
            return found
        into, width = memoryview(found.data).cast("B"), self.features * self.dtype.itemsize
        follows = starts[1:] == starts[:-1] + lengths[:-1]
        first = np.flatnonzero(np.concatenate(([True], ~follows)))  # of each run of samples that are neighbours
        last = np.append(first[1:], len(starts)) - 1
        begins, stops = (ends[first] - lengths[first]) * width, ends[last] * width
        positions = self.offset + starts[first] * width
        order = np.argsort(positions)
        for begin, stop, position in zip(
            begins[order].tolist(), stops[order].tolist(), positions[order].tolist(), strict=True
        ):
            self.file.read(into[begin:stop], position)
        return found


def blocks_of(x: NDArray[Any] | FileSteps) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """All samples, a few at a time; see `FileSteps.blocks`."""
    if isinstance(x, FileSteps):
        yield from x.blocks()
        return
    for start, stop in scan.blocks(x):
        yield np.arange(start, stop), x[start:stop]


def places_of(lengths: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of sequences whose steps stand one after the other, the places of the steps of some."""
    starts, counts = (np.cumsum(lengths) - lengths)[rows], lengths[rows]
    found: NDArray[np.int64] = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    return found


def pieces(lengths: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Ranges of neighbouring samples that take at most so many steps if they are padded to the longest of them; a
    sample that takes more is alone."""
    start = 0
    while start < len(lengths):
        stop = min(len(lengths), start + max(1, most // max(1, int(lengths[start]))))
        while stop - start > 1 and (stop - start) * int(lengths[start:stop].max()) > most:
            stop = start + (stop - start) // 2
        yield start, stop
        start = stop
