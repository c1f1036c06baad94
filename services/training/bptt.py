"""Truncated back-propagation through time: long sequences are trained in windows, and the state goes on across them.

Sequences are read side by side, a window of each at a time. A window begins with the state that the one before it left,
so the network answers as it would answer to the whole sequence. The gradient stops at the border (Williams and Peng
1990). The state is zero at the beginning of each sequence, and so at the beginning of each epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.training.data import MiniBatch, Order, Part
from services.training.model import Hidden, SequenceModel

Rows = NDArray[np.int64]
NONE: Rows = np.empty(0, np.int64)


@dataclass(frozen=True)
class Window:
    """Which windows a batch has: one of each of some sequences, in each of them the same one."""

    sequences: Rows
    """(batch,)"""
    is_first: bool
    """Whether they are the first windows of their sequences."""
    goes_on: NDArray[np.bool_]
    """(batch,): whether the sequence has another window."""


@dataclass(frozen=True)
class WindowBatch(MiniBatch):
    """A batch of windows."""

    window: Window = field(default_factory=lambda: Window(NONE, True, np.empty(0, np.bool_)))


@dataclass(frozen=True)
class Carried:
    """The states after the last windows of sequences that go on."""

    sequences: Rows = field(default_factory=lambda: NONE)
    state: Hidden = ()
    """h, or h and c: (layers, sequences, hidden_size) each."""

    def of(self, window: Window) -> Hidden:
        """The state from which the windows of a batch begin; () stands for zeros."""
        if window.is_first or not len(self.sequences):
            return ()
        if np.array_equal(self.sequences, window.sequences):
            return self.state
        places = {sequence: place for place, sequence in enumerate(self.sequences.tolist())}
        return _chosen(self.state, np.array([places[sequence] for sequence in window.sequences.tolist()], np.int64))

    def after(self, window: Window, state: Hidden) -> Carried:
        """What is carried when a batch has been read that ended with this state."""
        state = tuple(each.detach() for each in state)
        ended = Carried(window.sequences, state)
        if not window.goes_on.all():
            on = np.flatnonzero(window.goes_on)
            ended = Carried(window.sequences[on], _chosen(state, on))
        others = np.flatnonzero(~np.isin(self.sequences, window.sequences))
        if not len(others):  # but in micro-batches
            return ended
        states = zip(_chosen(self.state, others), ended.state, strict=True)
        return Carried(
            np.concatenate((self.sequences[others], ended.sequences)), tuple(torch.cat(pair, dim=1) for pair in states)
        )

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has of it."""
        if not len(self.sequences):
            return {}
        named = {f"carried.{place}": each for place, each in enumerate(self.state)}
        return {"carried.sequences": torch.from_numpy(self.sequences), **named}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Carried:
        """Undoes `tensors`."""
        if "carried.sequences" not in tensors:
            return cls()
        count = sum(name.startswith("carried.") for name in tensors) - 1
        state = tuple(tensors[f"carried.{place}"].to(device) for place in range(count))
        return cls(tensors["carried.sequences"].numpy(), state)


def _chosen(state: Hidden, places: Rows) -> Hidden:
    return tuple(each.index_select(1, torch.from_numpy(places).to(each.device)) for each in state)


def answer(model: SequenceModel, batch: MiniBatch, carried: Carried) -> tuple[Tensor, Carried]:
    """What a model answers to a batch, and what is carried to the next one."""
    if not isinstance(batch, WindowBatch):
        return model(batch.x, batch.lengths, batch.static), carried
    outputs, state = model.continued(batch.x, batch.lengths, batch.static, carried.of(batch.window))
    return outputs, carried.after(batch.window, state)


@dataclass(frozen=True)
class Unrolled(Part):
    """Sequences with a target at each step, read in windows; a sample is a window. x (steps, channels) has all
    sequences, y the targets of their valid steps, and static a row for each sequence."""

    begins: Rows = field(default_factory=lambda: NONE)
    """(sequences,): the first step of each, as an index into x."""
    sizes: Rows = field(default_factory=lambda: NONE)
    """(sequences,): the valid steps of each."""
    length: int = 1
    """The steps of a window."""

    def __len__(self) -> int:
        return int(self._counts.sum())

    def to(self, device: torch.device) -> Unrolled:
        static, weights = (None if each is None else each.to(device) for each in (self.static, self.weights))
        return replace(self, x=self.x.to(device), y=self.y.to(device), static=static, weights=weights)

    @property
    def row_bytes(self) -> int:
        return self.length * self.x.shape[1] * self.x.element_size()

    @cached_property
    def steps(self) -> Rows:
        return self.sizes

    @cached_property
    def _counts(self) -> Rows:
        """The windows of each sequence."""
        return -(-self.sizes // self.length)

    @cached_property
    def first_windows(self) -> Rows:
        """The first window of each sequence."""
        return np.cumsum(self._counts) - self._counts

    @cached_property
    def _targets_begin(self) -> Rows:
        return np.cumsum(self.sizes) - self.sizes

    def order(self, batch_size: int, seed: tuple[int, int] | None) -> Order:
        """The batches of an epoch: a window of each of some sequences, and then the next one of each that goes on.

        Sequences of as many windows are read side by side, at random; so each epoch has as many batches. Without a
        `seed` nothing is drawn.
        """
        rng = None if seed is None else np.random.default_rng(seed)
        rows = np.arange(len(self.sizes)) if rng is None else rng.permutation(len(self.sizes))
        rows = rows[np.argsort(-self._counts[rows], kind="stable")]
        groups = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        if rng is not None:
            groups = [groups[place] for place in rng.permutation(len(groups))]
        return Order([rows for group in groups for rows in self._windows(group)])

    def _windows(self, sequences: Rows) -> Iterator[Rows]:
        counts = self._counts[sequences]
        for number in range(int(counts.max(initial=0))):
            yield self.first_windows[sequences[counts > number]] + number

    def _of(self, rows: Rows) -> tuple[Rows, Rows, Rows]:
        """Of windows: their sequence, and the steps of it from which and up to which they go."""
        sequence = np.searchsorted(self.first_windows, rows, side="right") - 1
        begin = (rows - self.first_windows[sequence]) * self.length
        return sequence, begin, np.minimum(begin + self.length, self.sizes[sequence])

    def places(self, rows: Rows) -> Rows:
        sequence, begin, end = self._of(rows)
        return _ranges(self._targets_begin[sequence] + begin, end - begin)

    def pieces(self, window: list[Rows], device: torch.device) -> Iterator[WindowBatch]:
        for rows in window:
            sequence, begin, end = self._of(rows)
            counts = end - begin
            steps = np.arange(int(counts.max()))
            valid = steps < counts[:, None]
            at = np.where(valid, (self.begins[sequence] + begin)[:, None] + steps, 0)
            x, lengths = self._taken(self.x, at.reshape(-1), device).view(*at.shape, -1), None
            if not valid.all():
                x = x.masked_fill(torch.from_numpy(~valid).to(device)[:, :, None], 0.0)
                lengths = torch.from_numpy(counts).to(device)
            places = _ranges(self._targets_begin[sequence] + begin, counts)
            yield WindowBatch(
                x,
                lengths,
                self._taken(self.y, places, device),
                None if self.static is None else self._taken(self.static, sequence, device),
                None if self.weights is None else self._taken(self.weights, places, device),
                Window(sequence, not begin.any(), end < self.sizes[sequence]),
            )

    def _taken(self, values: Tensor, places: Rows, device: torch.device) -> Tensor:
        found = values.index_select(0, torch.from_numpy(places).to(values.device))
        return found if found.device == device else found.pin_memory().to(device, non_blocking=True)


def _ranges(begins: Rows, counts: Rows) -> Rows:
    """From each begin on, so many numbers."""
    found: Rows = np.repeat(begins - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    return found


def unrolled(part: Part, length: int) -> Unrolled:
    """A part that has a target for each step, to be read in windows. Shares its memory, unless its longest sequence is
    shorter than that of other parts."""
    samples, time, channels = part.x.shape
    return Unrolled(
        x=part.x.reshape(samples * time, channels),
        lengths=None,
        y=part.y,
        by_step=True,
        static=part.static,
        weights=part.weights,
        begins=np.arange(samples, dtype=np.int64) * time,
        sizes=part.steps,
        length=length,
    )
