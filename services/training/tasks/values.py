"""Numbers to predict, one or several a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from loopline.files import rounding
from numpy.typing import NDArray

from services.training.files import scan
from services.training.files.archive import Findings
from services.training.files.suspicion import Suspicion
from services.training.measures import Answers
from services.training.tasks.multilabel import as_long_as_x, is_one_hot, one_hot
from services.training.tasks.task import Judged, Task

if TYPE_CHECKING:
    from loopline.preprocessing.scaling import Scaling
    from torch import Tensor

    from services.training.files.npz import Limits
    from services.training.files.summary import DatasetSummary
    from services.training.gate.paired import Scores
    from services.training.spec.fields import Loss

MANY_WHOLE = 20
"""Different whole numbers in a float `y` beyond which they are taken for measurements without a word."""
FAR = 3.0
"""Standard deviations from zero from which on unscaled targets cost training most of its updates."""
FEWEST = 10
"""Targets below which their mean and spread say little."""

LOSSES = ("mse", "mae", "huber")


class Values(Task):
    """`y` is floats, (samples,) or (samples, targets); the head has an output for each. With a loss of its own it also
    takes classes and labels that are numbers."""

    name = "values"
    words = "values to predict"
    losses = {"values": LOSSES, "classes": LOSSES, "multilabel": LOSSES}  # noqa: RUF012
    scales_targets = True

    def holds(self, y: NDArray[Any], steps: int | None = None) -> bool:
        return True

    def checked(
        self,
        y: NDArray[Any],
        lengths: NDArray[np.int64] | None,
        steps: int | None,
        split: NDArray[np.int8] | None,
        limits: Limits,
        findings: Findings,
    ) -> NDArray[Any]:
        if y.dtype.kind == "f":
            bad = scan.not_finite(y)
            if bad.size:
                findings.add(
                    "y",
                    f"{scan.holding(bad)} NaN or infinity (or numbers beyond float32): leave these rows out, or "
                    "rescale y",
                )
        elif y.shape[1] == 1:
            findings.add("y", f"y has shape {y.shape}: save y.ravel() for classes, or y.astype(np.float32) for values")
        return narrowed(y)

    def suspicions(self, y: NDArray[Any], steps: int) -> Iterator[Suspicion]:
        columns = y.shape[1]
        if columns > 1 and is_one_hot(y):
            yield one_hot(columns, f"{columns} values to predict")
            return
        if columns > 1:
            yield from _of_columns(y, columns, steps)
        elif (y == np.floor(y)).all() and 1 < (kinds := len(np.unique(y))) <= MANY_WHOLE:
            yield Suspicion(
                "whole_floats_y",
                "loss_unsaid",
                f"y holds {kinds} different whole numbers as floats, and is taken as values to predict. For classes "
                "save y.astype(np.int64); for values name a loss, such as training.loss: mse.",
            )
        yield from _of_far_targets(y.astype(np.float64))

    def refusal(self, loss: str, summary: DatasetSummary) -> str | None:
        if loss == "cross_entropy":
            return (
                "cross_entropy needs one class a sequence, and the targets of this data set are real-valued: use mse, "
                "mae or huber, or upload y as whole numbers or words"
            )
        if loss == "bce":
            return "bce needs targets of 0 and 1, and those of this data set are real-valued: use mse"
        return None

    def answers(self, width: int) -> Answers:
        return "values"

    def targets(
        self, y: NDArray[Any], lengths: NDArray[np.int64], scaling: Scaling
    ) -> tuple[Tensor, list[int | str] | None, int]:
        import torch

        values = y[:, None] if y.ndim == 1 else y
        return torch.from_numpy(scaling.applied(values)), None, values.shape[1]

    def loss(self, loss: Loss, targets: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
        from torch.nn import functional as F

        if loss.name == "huber":
            delta = loss.delta
            return lambda outputs, y: F.huber_loss(outputs, y, delta=delta)
        return F.mse_loss if loss.name == "mse" else F.l1_loss

    def losses_of_each(self, loss: Loss, targets: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda outputs, y: _each(loss, outputs, y)

    def plain(self, targets: Tensor, width: int) -> Tensor:
        return targets.double().mean(dim=0)

    def plain_words(self, outputs: Tensor, classes: list[int | str] | None) -> str:
        return "the mean of the training targets"

    def _metrics(self, outputs: Tensor, targets: Tensor, scale: list[float] | None) -> dict[str, float | None]:
        from services.training import metrics

        outputs, targets = outputs.double(), targets.double()
        if scale is None:
            return metrics.of_values(outputs, targets)
        factors = outputs.new_tensor(scale)  # the shift is in both alike, so it plays no part
        return metrics.of_values(outputs * factors, targets * factors)

    def details(self, outputs: Tensor, targets: Tensor, names: Sequence[int | str], scale: list[float] | None) -> Any:
        import torch

        from services.training import details

        if outputs.shape[1] == 1:
            return None  # the metrics say it
        factors = outputs.new_tensor(1.0 if scale is None else scale, dtype=torch.float64)
        return details.of_values(outputs.double() * factors, targets.double() * factors, names)

    def scores(self, metric: str, loss: Loss, judged: Judged) -> Scores:
        from services.training.gate import scores

        outputs, targets = judged.outputs.double(), judged.targets.double()
        if metric != "loss":
            return scores.of_values(metric, outputs, targets)
        if loss.name == "huber":
            unit = outputs.new_tensor(1.0 if judged.scale is None else judged.scale)
            each = (_elements(loss, outputs / unit, targets / unit) * unit.square()).mean(dim=1)
        else:
            each = _each(loss, outputs, targets)
        return scores.mean(judged.weighted(each))


def _each(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each sample: (samples,)."""
    return _elements(loss, outputs, targets).mean(dim=1)


def _elements(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each value: (samples, targets)."""
    from torch.nn import functional as F

    if loss.name == "huber":
        return F.huber_loss(outputs, targets, delta=loss.delta, reduction="none")
    function = F.mse_loss if loss.name == "mse" else F.l1_loss
    return function(outputs, targets, reduction="none")


def narrowed(y: NDArray[Any]) -> NDArray[Any]:
    """Values as float32 where it holds them all, and as float64 elsewhere."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = y.astype(np.float32, copy=False)
        return narrow if (narrow == y).all() else y.astype(np.float64, copy=False)


def _of_columns(y: NDArray[Any], columns: int, steps: int) -> Iterator[Suspicion]:
    """Several columns of whole numbers."""
    if not (y == np.floor(y)).all():
        return
    if ((y == 0) | (y == 1)).all():
        yield Suspicion(
            "labels_as_floats",
            "loss_unsaid",
            f"y holds only 0 and 1 as floats, and is taken as {columns} values to predict. For yes-or-no labels save "
            "y.astype(np.int64).",
        )
    elif columns == steps:
        yield as_long_as_x(
            columns, "values to predict", "y.astype(np.int64)", "values name the loss, training.loss: mse"
        )
    elif len(np.unique(y)) <= MANY_WHOLE:
        yield Suspicion(
            "whole_y",
            "loss_unsaid",
            f"y holds whole numbers in {columns} columns, and is taken as {columns} values to predict, not as classes. "
            "For classes save y with shape (samples,); for values name a loss, such as training.loss: mse.",
        )


def _of_far_targets(y: NDArray[Any]) -> Iterator[Suspicion]:
    if len(y) < FEWEST:
        return
    if rounding.lost(y[:, None, :]):
        yield Suspicion(
            "float32_y",
            "targets_unscaled",
            f"y holds numbers as large as {np.abs(y).max():.3g}, whose differences float32 cannot hold, and "
            "data.target_scaling is none. Leave it out, or subtract a constant from y.",
        )
        return
    center, spread = y.mean(axis=0), y.std(axis=0)
    far = np.flatnonzero((spread > 0) & (np.abs(center) > FAR * spread))
    if far.size:
        yield Suspicion(
            "far_y",
            "targets_unscaled",
            f"y lies around {center[far[0]]:.3g} and varies by {spread[far[0]]:.3g}, and data.target_scaling is none, "
            "so training spends most updates on finding that center. Leave target_scaling out.",
        )


TASK = Values()
