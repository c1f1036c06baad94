"""Label smoothing: how low the loss of a model can get that was trained with it. Needs only the standard library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def least_loss(smoothing: float, classes: int) -> float:
    """The cross-entropy of a model that gives each class exactly its smoothed probability, in nats: no loss is less.
    `smoothing` is the share of a target that is spread evenly over so many classes, 2 or more."""
    other = smoothing / classes
    right = 1.0 - smoothing + other
    return -right * math.log(right) - (classes - 1) * other * math.log(other)


def sentence(loss: Mapping[str, Any], classes: int | None) -> str | None:
    """A sentence for people about a `training.loss` with label smoothing: why it does not reach 0. None without
    smoothing. With `class_weights` the least value is not said, because it depends on them."""
    smoothing = loss.get("label_smoothing")
    if not isinstance(smoothing, int | float) or not 0 < smoothing < 1:
        return None
    least = ""
    if classes is not None and classes > 1 and not loss.get("class_weights"):
        least = f" With {classes:,} classes it is at least {least_loss(smoothing, classes):.3g}."
    return f"Label smoothing ({smoothing:g}) keeps the loss from reaching 0, even if every answer is right.{least}"
