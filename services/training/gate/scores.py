"""What predictions are worth, sample by sample: the sums that `paired.py` compares, in float64 and on the CPU.

A task (tasks/) says which of them are its own. The metric of all samples is what metrics.py makes of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from services.training.gate.paired import Floats, Scores
from services.training.metrics import scaled_errors, spread, symmetric_errors


def of_classes(metric: str, predicted: Tensor, actual: Tensor, classes: int) -> Scores:
    """accuracy or macro_f1 of class indices (samples,)."""
    if metric == "accuracy":
        return mean((predicted == actual).double())
    return _macro_f1(F.one_hot(predicted, classes), F.one_hot(actual, classes))


def of_grouped_classes(
    metric: str, predicted: Tensor, actual: Tensor, classes: int, sizes: NDArray[np.int64]
) -> Scores:
    """The same of groups of class indices: (groups, quantities)."""
    if metric == "accuracy":
        return mean_of_groups((predicted == actual).double(), sizes)
    group = np.repeat(np.arange(len(sizes)), sizes)
    hits = (predicted == actual).numpy()
    counts = [
        np.bincount(group[chosen] * classes + labels[chosen], minlength=len(sizes) * classes).reshape(-1, classes)
        for labels, chosen in (
            (actual.numpy(), hits),
            (predicted.numpy(), np.ones_like(hits)),
            (actual.numpy(), np.ones_like(hits)),
        )
    ]
    return Scores(np.concatenate(counts, axis=1).astype(np.float64), _f1)


def mean_of_groups(each: Tensor, sizes: NDArray[np.int64]) -> Scores:
    """A metric that is the mean of numbers (samples,), of which so many belong to each group: (groups, quantities)."""
    sums = np.add.reduceat(each.numpy(), np.cumsum(sizes) - sizes)
    return Scores(np.stack((sums, sizes.astype(np.float64)), axis=1), _ratio)


def of_labels(metric: str, predicted: Tensor, actual: Tensor) -> Scores:
    """accuracy, label_accuracy or macro_f1 of 0 and 1 (samples, labels)."""
    if metric == "accuracy":
        return mean((predicted == actual).all(dim=1).double())
    if metric == "label_accuracy":
        return mean((predicted == actual).double().mean(dim=1))
    return _macro_f1(predicted, actual)


def of_values(metric: str, outputs: Tensor, targets: Tensor) -> Scores:
    """mae, rmse or r2 of numbers (samples, columns)."""
    errors = outputs - targets
    if metric == "mae":
        return mean(errors.abs().mean(dim=1))
    squares = errors.square().mean(dim=1)
    if metric == "rmse":
        return Scores(_columns(squares, torch.ones_like(squares)), _root_of_mean)
    return Scores(_columns(squares, spread(targets).mean(dim=1)), _explained)


def of_forecasts(metric: str, points: Tensor, targets: Tensor, naive: Tensor) -> Scores:
    """mase, smape, mae or rmse of numbers (samples, values)."""
    if metric == "mase":
        errors, there = scaled_errors((points - targets).abs(), naive)
        return Scores(_columns(errors.sum(dim=1), there.sum(dim=1).to(errors.dtype)), _ratio)
    if metric == "smape":
        return mean(symmetric_errors(points, targets).mean(dim=1))
    return of_values(metric, points, targets)


def in_blocks(scores: Scores, blocks: NDArray[np.int64] | None) -> Scores:
    """The scores of whole blocks of samples, which are compared as one; `blocks` (samples,) has their numbers."""
    if blocks is None:
        return scores
    numbers, of = np.unique(blocks, return_inverse=True)
    sums = np.zeros((len(numbers), scores.sums.shape[1]))
    np.add.at(sums, of, scores.sums)
    return Scores(sums, scores.value)


def mean(each: Tensor) -> Scores:
    """A metric that is the mean of a number of each sample (samples,)."""
    return Scores(_columns(each, torch.ones_like(each)), _ratio)


def _macro_f1(predicted: Tensor, actual: Tensor) -> Scores:
    return Scores(torch.cat((predicted & actual, predicted, actual), dim=1).double().numpy(), _f1)


def _f1(sums: Floats) -> Floats:
    """The mean F1 of the classes that occur, from hits, predictions and targets of each: (..., 3 * classes)."""
    hits, counted, occurring = np.split(sums, 3, axis=-1)
    there = counted + occurring
    f1 = 2.0 * hits / np.maximum(there, 1.0)
    found: Floats = f1.sum(axis=-1) / np.maximum((there > 0).sum(axis=-1), 1)
    return found


def _columns(*columns: Tensor) -> Floats:
    found: Floats = torch.stack(columns, dim=1).numpy().astype(np.float64)
    return found


def _ratio(sums: Floats) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):  # targets that do not vary have no r2
        return sums[..., 0] / sums[..., 1]


def _root_of_mean(sums: Floats) -> Any:
    return np.sqrt(np.maximum(_ratio(sums), 0.0))


def _explained(sums: Floats) -> Any:
    return 1.0 - _ratio(sums)
