"""What the outputs of a network are worth: a loss to train on and metrics to judge by.

Every function takes outputs (samples, output_size) as the head gave them, logits or values, and targets as data.py made
them: class indices (samples,), or floats (samples, output_size).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from services.training.spec.fields import Loss


def loss_of(loss: Loss, targets: Tensor, output_size: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The spec's loss as a function of (outputs, targets), a mean over samples; `targets` are those of training."""
    if loss.name == "cross_entropy":
        weights, smoothing = class_weights(loss.class_weights, targets, output_size), loss.label_smoothing
        if weights is None and not smoothing:
            return F.cross_entropy
        if weights is None:
            return lambda outputs, y: F.cross_entropy(outputs, y, label_smoothing=smoothing)
        # Not torch's weighted mean: that divides by the weights of the batch alone, so in a batch of one class they act
        # on nothing.
        return lambda outputs, y: (
            F.cross_entropy(outputs, y, weight=weights, label_smoothing=smoothing, reduction="sum") / len(y)
        )
    if loss.name == "huber":
        delta = loss.delta
        return lambda outputs, y: F.huber_loss(outputs, y, delta=delta)
    if loss.name == "bce":
        return F.binary_cross_entropy_with_logits
    return F.mse_loss if loss.name == "mse" else F.l1_loss


def class_weights(chosen: Any, targets: Tensor, classes: int) -> Tensor | None:
    """What the loss of a sample of each class is multiplied by: (classes,). The chosen weights, divided by the mean
    weight of the training samples, whose classes `targets` are; so the mean factor over these samples is 1.

    `balanced` is samples / (classes * samples of the class), as in scikit-learn.
    """
    if chosen is None:
        return None
    counts = torch.bincount(targets, minlength=classes).double()
    if chosen == "balanced":
        weights = len(targets) / (classes * counts.clamp(min=1))
    else:
        weights = torch.tensor(chosen, dtype=torch.float64, device=targets.device)
    return (weights * len(targets) / (weights * counts).sum()).float()


def metrics_of(
    loss_name: str, outputs: Tensor, targets: Tensor, scale: list[float] | None = None
) -> dict[str, float | None]:
    """accuracy and macro_f1 for classes, and label_accuracy for several labels a sample; mae, rmse and r2 for values.
    None where a metric is not defined. `scale` is that of targets that were scaled (`data.Scaling`): the metrics are in
    the unit of before."""
    if not len(outputs):
        return {}
    outputs = outputs.float()
    if loss_name == "cross_entropy":
        return _classes(outputs.argmax(dim=1), targets, outputs.shape[1])
    if loss_name == "bce":
        predicted = (outputs > 0).long()
        if outputs.shape[1] == 1:
            return _classes(predicted[:, 0], targets[:, 0].long(), 2)
        return _labels(predicted, targets.long())
    outputs, targets = outputs.double(), targets.double()
    if scale is None:
        return _values(outputs, targets)
    factors = outputs.new_tensor(scale)  # the shift is in both alike, so it plays no part
    return _values(outputs * factors, targets * factors)


def _classes(predicted: Tensor, targets: Tensor, classes: int) -> dict[str, float | None]:
    confusion = torch.bincount(targets * classes + predicted, minlength=classes * classes).view(classes, classes)
    hits = confusion.diagonal()
    return {
        "accuracy": float(hits.sum()) / len(targets),
        "macro_f1": _macro_f1(hits, confusion.sum(dim=0), confusion.sum(dim=1)),
    }


def _labels(predicted: Tensor, targets: Tensor) -> dict[str, float | None]:
    """Several labels a sample: accuracy counts the samples with every label right, label_accuracy counts the labels."""
    right = predicted == targets
    return {
        "accuracy": float(right.all(dim=1).float().mean()),
        "label_accuracy": float(right.double().mean()),
        "macro_f1": _macro_f1((predicted & targets).sum(dim=0), predicted.sum(dim=0), targets.sum(dim=0)),
    }


def _macro_f1(hits: Tensor, predicted: Tensor, actual: Tensor) -> float:
    """The mean F1 of the classes that occur among targets or predictions, as in scikit-learn."""
    occurring = (predicted + actual) > 0
    f1 = 2.0 * hits[occurring].double() / (predicted + actual)[occurring]
    return float(f1.mean()) if len(f1) else 0.0


def _values(outputs: Tensor, targets: Tensor) -> dict[str, float | None]:
    """r2 is that of all target columns together, each against its own mean; None where targets do not vary."""
    errors = outputs - targets
    total = spread(targets).sum()
    return {
        "mae": float(errors.abs().mean()),
        "rmse": float(errors.square().mean().sqrt()),
        "r2": float(1.0 - errors.square().sum() / total) if total > 0 else None,
    }


def spread(targets: Tensor) -> Tensor:
    """The squared distances of targets (samples, columns) from their means: exactly 0 where a column does not vary,
    although its mean may be off by a rounding error."""
    return (targets - targets.mean(dim=0)).square() * (targets != targets[:1]).any(dim=0)
