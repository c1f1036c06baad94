"""A part of a split whose steps stay in their file: a window of batches is in memory, and the next one is prepared.

A thread reads and prepares one window while the training computes with the one before. It decides nothing: which rows
come when is known before an epoch begins, and each sample is prepared by itself. So no number depends on its timing.
"""

from __future__ import annotations

import math
import mmap
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.training.parts import MiniBatch, Part, Window, beside, divided, with_lengths
from services.training.preprocessing.later import Later

MAPPED_BYTES = 1 << 20
"""From this size on memory does not come from the allocator."""


@dataclass(frozen=True, kw_only=True)
class InFile(Part):
    """Samples that are read when they are needed. x has their number and their steps, and no channels."""

    inputs: Later

    def to(self, device: torch.device) -> Part:
        """All of it on a device, in memory."""
        x = torch.zeros((len(self), self.x.shape[1], self.inputs.channels), device=device)
        for rows, block in self._blocks(device):
            x[torch.from_numpy(rows).to(device), : block.shape[1]] = block.to(device, non_blocking=True)
        return Part(x, self.lengths, self.y, self.by_step, self.static, self.weights).to(device)

    @property
    def row_bytes(self) -> int:
        return self.x.shape[1] * self.inputs.channels * self.x.element_size()

    @property
    def nbytes(self) -> int:
        return len(self) * self.row_bytes

    def peaks(self) -> Tensor:
        found = np.empty(len(self), np.float32)
        for rows, block in self._blocks(torch.device("cpu")):
            values = block.flatten(1).numpy()
            found[rows] = np.maximum(values.max(axis=1), -values.min(axis=1))
        return torch.from_numpy(found)

    def peak(self) -> float:
        return float(self.peaks().max())

    def batches(self, windows: Iterable[Window], device: torch.device) -> Iterator[MiniBatch]:
        ahead: deque[tuple[Window, Future[list[Tensor]]]] = deque()
        with ThreadPoolExecutor(1, "loopline-data") as reader:
            for window in windows:
                ahead.append((window, reader.submit(self._gathered, window, device)))
                if len(ahead) > 1:
                    yield from self._moved(*ahead.popleft(), device)
            while ahead:
                yield from self._moved(*ahead.popleft(), device)

    def pieces(self, window: Window, device: torch.device) -> Iterator[MiniBatch]:
        return self.batches([window], device)

    def _gathered(self, window: Window, device: torch.device) -> list[Tensor]:
        """The steps of the batches of a window: in one piece where all samples have the same length."""
        if self.lengths is None:
            return [self._prepared(np.concatenate(window), self.x.shape[1], device)]
        lengths = self.lengths.numpy()
        return [self._prepared(rows, int(lengths[rows].max()), device) for rows in window]

    def _moved(self, window: Window, gathered: Future[list[Tensor]], device: torch.device) -> Iterator[MiniBatch]:
        xs = [x if x.device == device else x.to(device, non_blocking=True) for x in gathered.result()]
        del gathered  # it holds what was gathered
        if self.lengths is None:
            yield from divided(self, window, xs.pop(), device)
            return
        for x, rows in zip(xs, window, strict=True):
            yield with_lengths(self, MiniBatch(x, None, *beside(self, rows, device)), rows, device)

    def _prepared(self, rows: NDArray[np.int64], steps: int, device: torch.device) -> Tensor:
        found = _empty((len(rows), steps, self.inputs.channels), device)
        self.inputs.prepare(rows, found.numpy())
        return found

    def _blocks(self, device: torch.device) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """All samples, a few of similar length at a time."""
        for group in self.inputs.steps.groups():
            for rows in self.inputs.steps.similar(group):
                yield rows, self._prepared(rows, int(self.inputs.lengths[rows].max()), device)


def _empty(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Memory for what a device needs: from which a GPU copies while the host goes on, or, if it is large, such as goes
    back to the system at once. The allocator of a trainer keeps what is freed, and a window between two other things
    would not fit there again."""
    size = math.prod(shape)
    if device.type == "cuda":
        return torch.empty(shape, pin_memory=True)
    if size * 4 < MAPPED_BYTES:
        return torch.empty(shape)
    return torch.frombuffer(mmap.mmap(-1, size * 4, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=torch.float32).view(
        shape
    )
