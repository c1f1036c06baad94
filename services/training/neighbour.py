"""What a recurrent network has to beat: the class or the labels of the most similar training sequence.

Each sequence is resampled to the same number of steps, by linear interpolation over its valid steps. Features are
standardised, and sequences are compared by their Euclidean distance, together with the values of the whole sequence.
Nothing is learnt, but the order of the steps is read (A. Bagnall et al., "The Great Time Series Classification Bake
Off", 2017, compare with it too).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from services.training.data import Part, Prepared, batches_of, bounded

STEPS = 32
"""Steps to which sequences are resampled."""
LEAST_STEPS = 8
"""With fewer steps the order of what happens would be lost."""
MOST_NUMBERS = 2_000
"""Numbers of a sequence. With many features it is resampled to fewer steps."""
MOST_SAMPLES = 2_000
"""Training sequences to compare with, at equal distances in their order."""
BATCH = 256
ROUNDING = 1e-6
"""A feature varies only if its standard deviation is a larger share of its largest value."""
CPU = torch.device("cpu")
WORDS = "the answer of the most similar training sequence"


@dataclass(frozen=True)
class Neighbours:
    """Training sequences: `points` (samples, numbers) are the standardised ones, `outputs` (samples, outputs) what a
    model of them would answer. Others are standardised by `shift` and `scale` (numbers,) before they are compared."""

    points: Tensor
    shift: Tensor
    scale: Tensor
    outputs: Tensor

    def metrics(self, data: Prepared, part: Part) -> dict[str, float | None]:
        """Those of the task on a part, as a model's."""
        task, kept, targets = data.task, [], []
        for points, y in _read(part, np.arange(len(part))):
            nearest = torch.cdist((points - self.shift) / self.scale, self.points).argmin(dim=1)
            kept.append(task.kept(self.outputs[nearest]))
            targets.append(y)
        return task.metrics_of_kept(torch.cat(kept), torch.cat(targets), data.output_size, data.target_scaling.scale)


def fitted(data: Prepared) -> Neighbours | None:
    """The training sequences to compare with. None if the task is not to give whole sequences classes or labels, of
    texts and words that are read as vectors, and with so many features that fewer than `LEAST_STEPS` steps are left."""
    part = data.train
    if part.by_step or data.task.scales_targets or data.preprocessing.embeddings:
        return None
    if _steps(data.input_size) < LEAST_STEPS or part.static_size > MOST_NUMBERS:
        return None
    found = list(_read(part, np.linspace(0, len(part) - 1, min(len(part), MOST_SAMPLES)).astype(np.int64)))
    points, y = torch.cat([points for points, _ in found]), torch.cat([targets for _, targets in found])
    steps = points[:, : points.shape[1] - part.static_size].reshape(-1, data.input_size)
    beside = points[:, points.shape[1] - part.static_size :]
    times = _steps(data.input_size)
    shift = torch.cat((_mean(steps).repeat(times), _mean(beside)))
    scale = torch.cat((_scale(steps).repeat(times), _scale(beside)))
    outputs = one_hot(y, data.output_size).float() if y.dtype == torch.int64 and y.ndim == 1 else 2.0 * y - 1.0
    return Neighbours((points - shift) / scale, shift, scale, outputs)


def _read(part: Part, rows: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
    """The numbers of sequences (samples, steps * features + static) and their targets, a batch at a time."""
    for batch in batches_of(part, bounded(part, rows, BATCH), CPU):
        count, steps, features = batch.x.shape
        lengths = torch.full((count,), steps) if batch.lengths is None else batch.lengths
        places = torch.linspace(0, 1, _steps(features)) * (lengths[:, None] - 1)  # (samples, steps)
        before = torch.minimum(places.floor().long(), lengths[:, None] - 1)
        after = torch.minimum(before + 1, lengths[:, None] - 1)
        share = (places - before)[:, :, None]
        low, high = (batch.x.gather(1, each[:, :, None].expand(-1, -1, features)) for each in (before, after))
        points = (low + share * (high - low)).flatten(1).double()
        yield points if batch.static is None else torch.cat((points, batch.static.double()), dim=1), batch.y


def _steps(features: int) -> int:
    return max(1, min(STEPS, MOST_NUMBERS // max(1, features)))


def _mean(x: Tensor) -> Tensor:
    """The mean of each column (columns,)."""
    return x.mean(dim=0) if x.numel() else x.new_zeros(x.shape[1])


def _scale(x: Tensor) -> Tensor:
    """The standard deviation of each column (columns,); 1 where it does not vary."""
    if not x.numel():
        return x.new_ones(x.shape[1])
    found = x.std(dim=0, correction=0)
    return torch.where(found > ROUNDING * x.abs().amax(dim=0), found, 1.0)
