"""What predictions are worth: the formulas of losses and metrics that tasks are judged by.

A task (tasks/) says which of them are its own, and makes predictions of what a network answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from services.training.spec.fields import Loss


def cross_entropy(loss: Loss, weights: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """The cross-entropy that a spec asks for, as a function of (outputs, targets) and a mean over samples. `weights`
    are those of `class_weights`."""
    smoothing = getattr(loss, "label_smoothing", 0.0)
    if weights is None and not smoothing:
        return F.cross_entropy
    if weights is None:
        return lambda outputs, y: F.cross_entropy(outputs, y, label_smoothing=smoothing)
    # Not torch's weighted mean: that divides by the weights of the batch alone, so in a batch of one class they act on
    # nothing.
    return lambda outputs, y: (
        F.cross_entropy(outputs, y, weight=weights, label_smoothing=smoothing, reduction="sum") / len(y)
    )


def cross_entropies(loss: Loss, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """The same loss of each sample, times the weight of its class: (samples,)."""
    weights = None if weights is None else weights.to(outputs.dtype)
    smoothing = getattr(loss, "label_smoothing", 0.0)
    return F.cross_entropy(outputs, targets, weight=weights, label_smoothing=smoothing, reduction="none")


def positive_weights(chosen: Any, targets: Tensor) -> Tensor | None:
    """What the loss of a yes of each label is multiplied by: (labels,). `balanced` is noes / yeses among `targets`
    (samples, labels), those of training."""
    if chosen is None:
        return None
    labels = targets.shape[1]
    if chosen == "balanced":
        yes = targets.double().sum(dim=0)
        return ((len(targets) - yes).clamp(min=1) / yes.clamp(min=1)).float()
    return torch.tensor(chosen if isinstance(chosen, list) else [chosen] * labels, device=targets.device)


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


def of_classes(predicted: Tensor, targets: Tensor, classes: int) -> dict[str, float | None]:
    """accuracy and macro_f1 of class indices (samples,)."""
    confusion = torch.bincount(targets * classes + predicted, minlength=classes * classes).view(classes, classes)
    hits = confusion.diagonal()
    return {
        "accuracy": float(hits.sum()) / len(targets),
        "macro_f1": _macro_f1(hits, confusion.sum(dim=0), confusion.sum(dim=1)),
    }


def of_labels(predicted: Tensor, targets: Tensor) -> dict[str, float | None]:
    """Several labels a sample, 0 and 1 (samples, labels): accuracy counts the samples with every label right,
    label_accuracy counts the labels."""
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


def of_values(outputs: Tensor, targets: Tensor) -> dict[str, float | None]:
    """mae, rmse and r2 of numbers (samples, columns). r2 is that of all target columns together, each against its own
    mean; None where targets do not vary."""
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


def errors_of_each(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """mse, mae or huber of each number, in the shape of the outputs."""
    if loss.name == "huber":
        return F.huber_loss(outputs, targets, delta=loss.delta, reduction="none")
    return F.mse_loss(outputs, targets, reduction="none") if loss.name == "mse" else (outputs - targets).abs()


def pinball(outputs: Tensor, targets: Tensor, quantiles: Sequence[float]) -> Tensor:
    """The quantile loss of each output (..., quantiles) for targets (...): an error above the quantile q counts q
    times, one below it 1 - q times (Koenker and Bassett 1978)."""
    levels = outputs.new_tensor(quantiles)
    errors = targets[..., None] - outputs
    return torch.maximum(levels * errors, (levels - 1.0) * errors)


def of_forecasts(points: Tensor, targets: Tensor, naive: Tensor) -> dict[str, float | None]:
    """mase, smape, mae and rmse of numbers (samples, values). `naive` is what each error is divided by for mase; errors
    where it is 0 are left out, and mase is None if that leaves none."""
    errors = (points - targets).abs()
    return {
        "mase": _mean_of(*scaled_errors(errors, naive)),
        "smape": float(symmetric_errors(points, targets).mean()),
        "mae": float(errors.mean()),
        "rmse": float(errors.square().mean().sqrt()),
    }


def scaled_errors(errors: Tensor, naive: Tensor) -> tuple[Tensor, Tensor]:
    """Errors divided by those of the naive forecast, 0 where that has none; and where it has some: (samples, values)
    both."""
    there = naive > 0
    return torch.where(there, errors / naive.masked_fill(~there, 1.0), 0.0), there


def symmetric_errors(points: Tensor, targets: Tensor) -> Tensor:
    """2 |error| / (|forecast| + |actual|) of each number: 0 to 2, and 0 where both are 0."""
    size = points.abs() + targets.abs()
    return torch.where(size > 0, 2.0 * (points - targets).abs() / size.masked_fill(size == 0, 1.0), 0.0)


def _mean_of(values: Tensor, there: Tensor) -> float | None:
    count = int(there.sum())
    return float(values.sum()) / count if count else None
