"""What a recurrent network has to beat: a linear model, which does not know the order of the steps.

Of a whole sequence it reads the mean of each feature over the valid steps, and of tags the single step; and the values
of whole sequences. Classes and tags are told apart by linear discriminant analysis, labels and values by least squares.
Both have a closed form, so that nothing is drawn, and are fitted on at most `MOST_SAMPLES` of the training split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.training.data import Order, Part, Prepared, batches_of, bounded

Floats = NDArray[np.float64]
MOST_SAMPLES = 5_000
MOST_FEATURES = 200
"""With more features, or with words that are read as vectors, there is no linear model."""
BATCH = 256
ROUNDING = 1e-6
"""A feature varies only if its standard deviation is a larger share of its largest value."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Linear:
    """Features (samples, features) times `weights` (features, outputs) plus `bias` (outputs,)."""

    weights: Floats
    bias: Floats

    def metrics(self, data: Prepared, part: Part) -> dict[str, float | None]:
        """Those of the task on a part, as a model's."""
        task, kept, targets = data.task, [], []
        for features, y in _read(part, bounded(part, np.arange(len(part)), BATCH)):
            outputs = torch.from_numpy((features @ self.weights + self.bias).astype(np.float32))
            kept.append(task.kept(outputs))
            targets.append(y)
        return task.metrics_of_kept(torch.cat(kept), torch.cat(targets), data.output_size, data.target_scaling.scale)


def words(data: Prepared) -> str:
    """The linear model in words."""
    return f"a linear model of {'each single step' if data.task.by_step else 'the mean of each feature'}"


def fitted(data: Prepared) -> Linear | None:
    """The linear model of the training split; None if there is none."""
    part = data.train
    if data.preprocessing.embeddings or data.input_size + part.static_size > MOST_FEATURES:
        return None
    found = list(_read(part, _spread(part)))
    x, y = np.concatenate([features for features, _ in found]), torch.cat([targets for _, targets in found]).numpy()
    some = np.linspace(0, len(x) - 1, min(len(x), MOST_SAMPLES)).astype(np.int64)
    x, y = x[some], y[some]
    shift, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > ROUNDING * np.abs(x).max(axis=0), scale, 1.0)
    x = (x - shift) / scale
    if y.ndim == 1 and y.dtype.kind == "i":
        weights, bias = _discriminant(x, y, data.output_size)
    else:
        is_number = data.task.scales_targets  # a label is 1 or -1
        weights, bias = _least_squares(x, y.astype(np.float64) if is_number else 2.0 * y - 1.0)
    weights = weights / scale[:, None]
    return Linear(weights, bias - shift @ weights)


def _spread(part: Part) -> Order:
    """Samples at equal distances, as many as have about `MOST_SAMPLES` targets."""
    count = max(1, MOST_SAMPLES * len(part) // max(part.answers, 1)) if part.by_step else MOST_SAMPLES
    rows = np.linspace(0, len(part) - 1, min(len(part), count)).astype(np.int64)
    return bounded(part, rows, BATCH)


def _read(part: Part, order: Order) -> Iterator[tuple[Floats, Tensor]]:
    """Features and targets, a batch at a time: of each sequence, or of each valid step of tags."""
    for batch in batches_of(part, order, CPU):
        x = batch.x.numpy().astype(np.float64)
        count, steps, _ = x.shape
        lengths = np.full(count, steps) if batch.lengths is None else batch.lengths.numpy()
        valid = np.arange(steps) < lengths[:, None]
        beside = np.empty((count, 0)) if batch.static is None else batch.static.numpy().astype(np.float64)
        if part.by_step:
            features, beside = x[valid], np.repeat(beside, lengths, axis=0)
        else:
            features = np.where(valid[:, :, None], x, 0.0).sum(axis=1) / lengths[:, None]
        yield np.concatenate((features, beside), axis=1), batch.y


def _discriminant(x: Floats, y: NDArray[np.int64], classes: int) -> tuple[Floats, Floats]:
    """Linear discriminant analysis: normal distributions with a mean for each class and one covariance of all."""
    counts = np.bincount(y, minlength=classes)
    means = np.zeros((classes, x.shape[1]))
    np.add.at(means, y, x)
    means /= np.maximum(counts, 1)[:, None]
    weights = _solved(_covariance(x - means[y]), means.T)
    with np.errstate(divide="ignore"):
        prior = np.log(counts / len(y))
    return weights, prior - 0.5 * (means.T * weights).sum(axis=0)


def _least_squares(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Linear regression; the means of x are 0."""
    middle: Floats = y.mean(axis=0)
    return _solved(_covariance(x), x.T @ (y - middle) / len(x)), middle


def _solved(matrix: Floats, right: Floats) -> Floats:
    return np.linalg.solve(matrix, right).astype(np.float64)


def _covariance(x: Floats) -> Floats:
    """That of features whose means are 0, drawn towards equal variances: the more, the fewer samples there are for each
    feature."""
    samples, features = x.shape
    found = x.T @ x / samples
    share = features / (features + samples)
    return np.asarray((1 - share) * found + (share * np.trace(found) / features + 1e-9) * np.eye(features))
