"""The parts of a split, and the batches that are gathered from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.training.files.steps import places_of

Window = list[NDArray[np.int64]]
"""The rows of some batches, which are gathered together."""


@dataclass(frozen=True)
class Part:
    """One part of the split, on the CPU: x (samples, time, channels), lengths or None where all are full, targets."""

    x: Tensor
    lengths: Tensor | None
    y: Tensor
    by_step: bool = False
    """Whether y has the targets of each valid step, of one sequence after the other."""
    static: Tensor | None = None
    """(samples, values): what the head reads beside the pooled steps."""
    weights: Tensor | None = None
    """What the loss of each of y is multiplied by: (samples,), or (steps,) of targets of steps."""

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> Part:
        lengths, static, weights = (
            None if each is None else each.to(device) for each in (self.lengths, self.static, self.weights)
        )
        return Part(self.x.to(device), lengths, self.y.to(device), self.by_step, static, weights)

    @property
    def row_bytes(self) -> int:
        """Of the steps of one sample."""
        return self.x[0].nbytes if len(self) else 1

    @property
    def static_size(self) -> int:
        """Values that the head reads beside the pooled steps."""
        return 0 if self.static is None else self.static.shape[1]

    @property
    def answers(self) -> int:
        """How many targets there are: one for each sample, or for each valid step."""
        return len(self.y) if self.by_step else len(self)

    @property
    def blocks(self) -> NDArray[np.int64] | None:
        """Of each sample, the number of the block of samples that may depend on each other; None if all samples are
        taken as independent."""
        return None

    def targets(self, places: Tensor) -> Tensor:
        """Those at these places (`places`), where they are."""
        return self.y[places.to(self.y.device)]

    @property
    def nbytes(self) -> int:
        """Of the steps of all samples, as a device would hold them."""
        return self.x.nbytes

    def peaks(self) -> Tensor:
        """The largest size of a number in the steps of each sample: (samples,)."""
        return self.x.reshape(len(self.x), -1).abs().amax(dim=1)

    def peak(self) -> float:
        """The largest size of a number in all steps."""
        return float(torch.stack(self.x.aminmax()).abs().max())

    def batches(self, windows: Iterable[Window], device: torch.device) -> Iterator[MiniBatch]:
        """The batches of these windows on the device."""
        for window in windows:
            yield from self.pieces(window, device)

    def pieces(self, window: Window, device: torch.device) -> Iterator[MiniBatch]:
        """The batches of these rows on the device."""
        return _gather(self, window, device)

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """The valid steps of each sequence."""
        return np.full(len(self), self.x.shape[1]) if self.lengths is None else self.lengths.cpu().numpy()

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the targets of these sequences are in y, in their order."""
        return places_of(self.steps, rows) if self.by_step else rows


@dataclass(frozen=True)
class Ragged(Part):
    """Sequences of very different lengths, such as texts: only a batch is padded. x (steps, channels) has one sequence
    after the other."""

    sizes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(samples,): the steps of each sequence."""

    def __len__(self) -> int:
        return len(self.sizes)

    def to(self, device: torch.device) -> Ragged:
        static, weights = (None if each is None else each.to(device) for each in (self.static, self.weights))
        return replace(self, x=self.x.to(device), y=self.y.to(device), static=static, weights=weights)

    @property
    def row_bytes(self) -> int:
        return int(self.sizes.max(initial=1)) * self.x.shape[1] * self.x.element_size()

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        return self.sizes

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.sizes) - self.sizes

    def pieces(self, window: Window, device: torch.device) -> Iterator[MiniBatch]:
        for rows in window:
            sizes = self.sizes[rows]
            steps = np.arange(int(sizes.max()))
            valid = steps < sizes[:, None]
            places = torch.from_numpy(np.where(valid, self._starts[rows][:, None] + steps, 0)).to(self.x.device)
            padding = torch.from_numpy(~valid).to(self.x.device)
            lengths = None if valid.all() else torch.from_numpy(sizes).to(device)
            found = moved(self, self.x[places].masked_fill_(padding[:, :, None], 0.0), rows, device, gathered=True)
            yield replace(found, lengths=lengths)


@dataclass(frozen=True)
class MiniBatch:
    """x (batch, time, channels) cut to its longest sequence; lengths (batch,) or None where all are equal; targets;
    static (batch, values) and weights, one for each target, if the data has them."""

    x: Tensor
    lengths: Tensor | None
    y: Tensor
    static: Tensor | None = None
    weights: Tensor | None = None


def _gather(part: Part, window: Window, device: torch.device) -> Iterator[MiniBatch]:
    if part.lengths is None:
        x = _taken(part.x, torch.from_numpy(np.concatenate(window)), device)
        yield from divided(part, window, x, device)
        return
    lengths = part.lengths.cpu().numpy()
    for rows in window:
        found = moved(part, part.x[:, : int(lengths[rows].max())], rows, device)
        yield with_lengths(part, found, rows, device)


def divided(part: Part, window: Window, x: Tensor, device: torch.device) -> Iterator[MiniBatch]:
    """The batches of a window of samples of one length; `x` has the steps of all of them, on the device."""
    sizes = [len(rows) for rows in window]
    each = part.x.shape[1] if part.by_step else 1
    targets = [each * size for size in sizes]
    y, static, weights = beside(part, np.concatenate(window), device)
    for one in zip(
        torch.split(x, sizes), torch.split(y, targets), _split(static, sizes), _split(weights, targets), strict=True
    ):
        yield MiniBatch(one[0], None, *one[1:])


def with_lengths(part: Part, found: MiniBatch, rows: NDArray[np.int64], device: torch.device) -> MiniBatch:
    """A batch of these rows with their lengths, unless all are equal. Its x is as long as the longest."""
    assert part.lengths is not None  # noqa: S101
    chosen = part.lengths[torch.from_numpy(rows).to(part.lengths.device)]
    uniform = bool((part.steps[rows] == found.x.shape[1]).all())
    return replace(found, lengths=None if uniform else chosen.to(device))


def _split(values: Tensor | None, sizes: list[int]) -> Sequence[Tensor | None]:
    return [None] * len(sizes) if values is None else torch.split(values, sizes)


def moved(part: Part, x: Tensor, rows: NDArray[np.int64], device: torch.device, *, gathered: bool = False) -> MiniBatch:
    """Some sequences of a part on the device, without their lengths. `x` has all of its sequences, or, `gathered`,
    these only."""
    of_x = torch.arange(len(rows)) if gathered else torch.from_numpy(rows)
    y, static, weights = beside(part, rows, device)
    return MiniBatch(_taken(x, of_x, device), None, y, static, weights)


def beside(part: Part, rows: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Targets, static values and weights of some sequences of a part, on the device."""
    index, places = torch.from_numpy(rows), torch.from_numpy(part.places(rows))
    static, weights = (
        None if values is None else _taken(values, at, device)
        for values, at in ((part.static, index), (part.weights, places))
    )
    return _taken(part.y, places, device), static, weights


def _taken(values: Tensor, at: Tensor, device: torch.device) -> Tensor:
    if values.device == device:
        return values.index_select(0, at.to(device))
    return values.index_select(0, at).pin_memory().to(device, non_blocking=True)
