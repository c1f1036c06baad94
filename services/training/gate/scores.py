"""What a model's answers are worth, sample by sample: the sums that `paired.py` compares."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from services.training import measures
from services.training.gate.paired import Floats, Scores
from services.training.metrics import spread
from services.training.spec.fields import Loss


def default_metric(loss: Loss) -> str:
    """What models are compared by unless the spec says it."""
    return measures.default("classes" if loss.name in ("cross_entropy", "bce") else "values")


def scores_of(
    metric: str,
    loss: Loss,
    outputs: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    scale: list[float] | None = None,
) -> Scores:
    """outputs (samples, output_size) and targets as in metrics.py, on the CPU; `weights` (classes,) are what
    `class_weights` made for a cross entropy. `scale` is that of targets that training has scaled, by which a huber
    loss tells large errors from small ones. The metric of all samples is what `metrics_of` and the loss make of them.
    """
    outputs = outputs.double()
    if metric == "loss":
        return _mean(_losses(loss, outputs, targets, weights, scale))
    if metric == "accuracy":
        return _mean(_hits(loss, outputs, targets))
    if metric == "label_accuracy":
        predicted, actual = _predicted(loss, outputs, targets)
        return _mean((predicted == actual).double().mean(dim=1))
    if metric == "macro_f1":
        return _macro_f1(loss, outputs, targets)
    errors = outputs - targets.double()
    if metric == "mae":
        return _mean(errors.abs().mean(dim=1))
    squares = errors.square().mean(dim=1)
    if metric == "rmse":
        return Scores(_columns(squares, torch.ones_like(squares)), _root_of_mean)
    return Scores(_columns(squares, spread(targets.double()).mean(dim=1)), _explained)


def _losses(loss: Loss, outputs: Tensor, targets: Tensor, weights: Tensor | None, scale: list[float] | None) -> Tensor:
    """The loss of each sample, times the weight of its class."""
    if loss.name == "cross_entropy":
        weights = None if weights is None else weights.double()
        return F.cross_entropy(outputs, targets, weight=weights, label_smoothing=loss.label_smoothing, reduction="none")
    targets = targets.double()
    if loss.name == "bce":
        each = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    elif loss.name == "huber":
        unit = outputs.new_tensor(1.0 if scale is None else scale)
        each = F.huber_loss(outputs / unit, targets / unit, delta=loss.delta, reduction="none") * unit.square()
    else:
        each = (outputs - targets).square() if loss.name == "mse" else (outputs - targets).abs()
    return each.mean(dim=1)


def _predicted(loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and targets: class indices (samples,), or 0 and 1 (samples, labels)."""
    if loss.name == "cross_entropy":
        return outputs.argmax(dim=1), targets
    predicted = (outputs > 0).long()
    return (predicted[:, 0], targets[:, 0].long()) if outputs.shape[1] == 1 else (predicted, targets.long())


def _hits(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    predicted, actual = _predicted(loss, outputs, targets)
    return (predicted == actual).double() if actual.ndim == 1 else (predicted == actual).all(dim=1).double()


def _macro_f1(loss: Loss, outputs: Tensor, targets: Tensor) -> Scores:
    predicted, actual = _predicted(loss, outputs, targets)
    if actual.ndim == 1:
        classes = max(2, outputs.shape[1])
        predicted, actual = F.one_hot(predicted, classes), F.one_hot(actual, classes)
    sums = torch.cat((predicted & actual, predicted, actual), dim=1).double().numpy()

    def value(sums: Floats) -> Floats:
        hits, counted, occurring = np.split(sums, 3, axis=-1)
        there = counted + occurring
        f1 = 2.0 * hits / np.maximum(there, 1.0)
        found: Floats = f1.sum(axis=-1) / np.maximum((there > 0).sum(axis=-1), 1)
        return found

    return Scores(sums, value)


def _mean(each: Tensor) -> Scores:
    return Scores(_columns(each, torch.ones_like(each)), _ratio)


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
