"""Several yes-or-no labels a sequence; with the loss `bce` also two classes, as one yes or no."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from services.training.files.suspicion import Suspicion
from services.training.measures import Answers
from services.training.tasks.task import Judged, Task

if TYPE_CHECKING:
    from loopline.preprocessing.scaling import Scaling
    from torch import Tensor

    from services.training.files.summary import DatasetSummary
    from services.training.gate.paired import Scores
    from services.training.spec.fields import Loss

LUCK = 1e-3
"""How probable it may be that a pattern in y is there by chance."""
MANY_LABELS = 8
"""If there are this many labels or more, and as many as x has steps, a warning says so."""


class Multilabel(Task):
    """`y` is (samples, labels), 0 and 1; the head has an output for each label, a logit."""

    name = "multilabel"
    words = "yes-or-no labels"
    losses = {"multilabel": ("bce",), "classes": ("bce",)}  # noqa: RUF012

    def holds(self, y: NDArray[Any], steps: int | None = None) -> bool:
        return y.ndim == 2 and y.dtype.kind != "f" and (y.size == 0 or (y.min() >= 0 and y.max() <= 1))

    def suspicions(self, y: NDArray[Any], steps: int) -> Iterator[Suspicion]:
        columns = y.shape[1]
        if columns > 1 and is_one_hot(y):
            yield one_hot(columns, f"{columns} separate yes-or-no labels")
        elif columns == steps and columns >= MANY_LABELS:
            yield as_long_as_x(columns, "yes-or-no labels", "y[:, :, None]", "labels name the loss, training.loss: bce")

    def refusal(self, loss: str, summary: DatasetSummary) -> str | None:
        if loss != "cross_entropy":
            return None
        return (
            "cross_entropy needs one class a sequence, and the targets of this data set are several yes-or-no values a "
            "sequence: use bce, or upload y as whole numbers or words"
        )

    def answers(self, width: int) -> Answers:
        return "labels" if width > 1 else "classes"

    def targets(
        self, y: NDArray[Any], lengths: NDArray[np.int64], scaling: Scaling
    ) -> tuple[Tensor, list[int | str] | None, int]:
        import torch

        if y.ndim == 2:
            return torch.from_numpy(y.astype(np.float32)), None, y.shape[1]
        labels, indices = np.unique(y, return_inverse=True)
        return torch.from_numpy(indices.astype(np.float32)[:, None]), labels.tolist(), 1

    def loss(self, loss: Loss, targets: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
        from torch.nn import functional as F

        weights = self.class_weights(loss, targets, width)
        if weights is None:
            return F.binary_cross_entropy_with_logits
        return lambda outputs, y: F.binary_cross_entropy_with_logits(outputs, y, pos_weight=weights)

    def losses_of_each(self, loss: Loss, targets: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
        weights = self.class_weights(loss, targets, width)
        return lambda outputs, y: _each(outputs, y, weights)

    def class_weights(self, loss: Loss, targets: Tensor, width: int) -> Tensor | None:
        from services.training import metrics

        return metrics.positive_weights(getattr(loss, "pos_weight", None), targets)

    def plain(self, targets: Tensor, width: int) -> Tensor:
        return (targets.mean(dim=0) > 0.5).float() * 2.0 - 1.0

    def plain_words(self, outputs: Tensor, classes: list[int | str] | None) -> str:
        if classes is not None:
            return f"the most frequent class ({classes[int(outputs[0] > 0)]})"
        return "the more frequent answer of each label"

    def _metrics(self, outputs: Tensor, targets: Tensor, scale: list[float] | None) -> dict[str, float | None]:
        from services.training import metrics

        predicted, actual = (outputs > 0).long(), targets.long()
        if outputs.shape[1] == 1:
            return metrics.of_classes(predicted[:, 0], actual[:, 0], 2)
        return metrics.of_labels(predicted, actual)

    def details(self, outputs: Tensor, targets: Tensor, names: Sequence[int | str], scale: list[float] | None) -> Any:
        from services.training import details

        if len(names) == outputs.shape[1]:
            return details.of_labels(outputs, targets, names)
        yes = outputs[:, 0]  # of two classes
        predicted, confidence = (yes > 0).long(), yes.abs().double().sigmoid()
        return details.of_classes(predicted, targets[:, 0].long(), names, lambda n: yes if n else -yes, confidence)

    def scores(self, metric: str, loss: Loss, judged: Judged) -> Scores:
        from services.training.gate import scores

        outputs, targets = judged.outputs, judged.targets
        if metric == "loss":
            weights = None if judged.weights is None else judged.weights.double()
            return scores.mean(judged.weighted(_each(outputs.double(), targets.double(), weights)))
        predicted, actual = (outputs > 0).long(), targets.long()
        if outputs.shape[1] == 1:
            return scores.of_classes(metric, predicted[:, 0], actual[:, 0], 2)
        return scores.of_labels(metric, predicted, actual)


def _each(outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """The loss of each sample: (samples,). `weights` are those of a yes: (labels,)."""
    from torch.nn import functional as F

    losses = F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weights, reduction="none")
    return losses.mean(dim=1)


def is_one_hot(y: NDArray[Any]) -> bool:
    """Whether each row of y (rows, columns) has just one 1, and that is no luck."""
    one = ((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all()
    by_luck = (y.shape[1] * 0.5 ** y.shape[1]) ** len(y)
    return bool(one and by_luck < LUCK and (y.any(axis=0).sum() > 1))


def one_hot(columns: int, taken: str) -> Suspicion:
    return Suspicion(
        "one_hot_y",
        "loss_unsaid",
        f"Each row of y has just one 1 in its {columns} columns, as one-hot classes do, and is taken as {taken}. "
        "For classes save y.argmax(axis=1).",
    )


def as_long_as_x(columns: int, taken: str, by_step: str, otherwise: str) -> Suspicion:
    return Suspicion(
        "y_as_long_as_x",
        "loss_unsaid",
        f"y holds {columns} whole numbers a sequence, as many as x has steps, and is taken as {columns} {taken} of the "
        f"whole sequence. For a class for each step save {by_step}; for {otherwise}.",
    )


TASK = Multilabel()
