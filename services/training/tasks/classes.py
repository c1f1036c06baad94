"""One class a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from services.text import HIDDEN_IN_WORDS, is_plain
from services.training.files import scan
from services.training.files.archive import Findings
from services.training.measures import Answers
from services.training.tasks.task import Described, Judged, Target, Task

if TYPE_CHECKING:
    from loopline.preprocessing.scaling import Scaling
    from torch import Tensor

    from services.training.files.npz import Limits
    from services.training.files.summary import DatasetSummary
    from services.training.gate.paired import Scores
    from services.training.spec.fields import Loss


class Classes(Task):
    """`y` is (samples,), whole numbers or words; the head has an output for each class."""

    name: Target = "classes"
    words = "classes"
    label = "class"
    """What there is to predict, in the singular."""
    losses = {"classes": ("cross_entropy",)}  # noqa: RUF012
    stratifies = True

    def holds(self, y: NDArray[Any], steps: int | None = None) -> bool:
        return y.ndim == 1 and y.dtype.kind != "f"

    def checked(
        self,
        y: NDArray[Any],
        lengths: NDArray[np.int64] | None,
        steps: int | None,
        split: NDArray[np.int8] | None,
        limits: Limits,
        findings: Findings,
    ) -> NDArray[Any]:
        kinds = check_kinds(y, limits, findings, "a classifier")
        if kinds is not None and split is not None and len(split) == len(y) and (split == 0).any():
            _check_seen(y, kinds, split, findings)
        return y

    def described(self, y: NDArray[Any], lengths: NDArray[np.int64]) -> Described:
        return counted(y)

    def labels(self, y: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any] | None:
        return y

    def refusal(self, loss: str, summary: DatasetSummary) -> str | None:
        if loss == "cross_entropy":
            return None
        if loss == "bce":
            if summary.target_dim <= 2:
                return None
            return f"bce with one target a sequence takes two classes; here are {summary.target_dim}: use cross_entropy"
        if any(isinstance(label, str) for label in summary.classes or ()):
            return f"{loss} needs numbers, and the targets of this data set are words: use cross_entropy"
        return None

    def answers(self, width: int) -> Answers:
        return "classes"

    def targets(
        self, y: NDArray[Any], lengths: NDArray[np.int64], scaling: Scaling
    ) -> tuple[Tensor, list[int | str] | None, int]:
        import torch

        labels, indices = np.unique(y, return_inverse=True)
        return torch.from_numpy(indices.astype(np.int64)), labels.tolist(), len(labels)

    def loss(self, loss: Loss, targets: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
        from services.training import metrics

        return metrics.cross_entropy(loss, self.class_weights(loss, targets, width))

    def losses_of_each(self, loss: Loss, targets: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
        from services.training import metrics

        weights = self.class_weights(loss, targets, width)
        return lambda outputs, y: metrics.cross_entropies(loss, outputs, y, weights)

    def class_weights(self, loss: Loss, targets: Tensor, width: int) -> Tensor | None:
        from services.training import metrics

        return metrics.class_weights(getattr(loss, "class_weights", None), targets, width)

    def plain(self, targets: Tensor, width: int) -> Tensor:
        counts = targets.bincount(minlength=width)
        return (counts.argsort(descending=True, stable=True).argsort() == 0).float()  # the first of the most frequent

    def plain_words(self, outputs: Tensor, classes: list[int | str] | None) -> str:
        return f"the most frequent {self.label} ({(classes or [])[int(outputs.argmax())]})"

    def _metrics(self, outputs: Tensor, targets: Tensor, scale: list[float] | None) -> dict[str, float | None]:
        from services.training import metrics

        return metrics.of_classes(outputs.argmax(dim=1), targets, outputs.shape[1])

    def details(self, outputs: Tensor, targets: Tensor, names: Sequence[int | str], scale: list[float] | None) -> Any:
        from services.training import details

        among = outputs.double().logsumexp(dim=1)  # one class is ranked by its probability
        confidence = (outputs.amax(dim=1).double() - among).exp()
        predicted = outputs.argmax(dim=1)
        return details.of_classes(predicted, targets, names, lambda n: outputs[:, n].double() - among, confidence)

    def scores(self, metric: str, loss: Loss, judged: Judged) -> Scores:
        from services.training import metrics
        from services.training.gate import scores

        outputs, targets = judged.outputs, judged.targets
        if metric == "loss":
            each = metrics.cross_entropies(loss, outputs.double(), targets, judged.weights)
            return scores.mean(judged.weighted(each))
        return scores.of_classes(metric, outputs.argmax(dim=1), targets, outputs.shape[1])


def counted(y: NDArray[Any]) -> Described:
    """The labels of y (labels,), and how often each occurs."""
    labels = scan.distinct(y)
    counts = sum(np.bincount(np.searchsorted(labels, y[a:b]), minlength=labels.size) for a, b in scan.blocks(y))
    return Described(labels.size, labels.tolist(), np.asarray(counts).tolist())


def check_kinds(y: NDArray[Any], limits: Limits, findings: Findings, learner: str) -> NDArray[Any] | None:
    """The sorted labels of y (labels,); None where there are too many. Notes what no y may have."""
    kinds = scan.distinct(y, most=limits.max_classes)
    values = "save values as floats, y.astype(np.float32)"
    if kinds.size > limits.max_classes:
        findings.add("y", f"y has more than {limits.max_classes:,} classes: {values}")
        return None
    if kinds.size == 1:
        findings.add("y", f"y has one class only, {scan.some(kinds)}: {learner} needs two; {values}")
    if limits.plain_labels and y.dtype.kind == "U":
        _check_plain(y, kinds, findings)
    return kinds


def _check_plain(y: NDArray[Any], labels: NDArray[Any], findings: Findings) -> None:
    """Notes the rows whose labels, which are text, hold something hidden."""
    hidden = np.array([label for label in labels.tolist() if not is_plain(label)], dtype=labels.dtype)
    if hidden.size:
        found = np.concatenate(
            [start + np.flatnonzero(np.isin(y[start:stop], hidden)) for start, stop in scan.blocks(y)]
        )
        findings.add(
            "y",
            f"{scan.holding(found)} labels with {HIDDEN_IN_WORDS}, which no label may have: {scan.some(hidden)}; "
            "rename them",
        )


def _check_seen(y: NDArray[Any], labels: NDArray[Any], split: NDArray[np.int8], findings: Findings) -> None:
    unseen = np.setdiff1d(labels, scan.distinct(y, where=split == 0))
    if unseen.size == 0:
        return
    bad = [start + np.flatnonzero(np.isin(y[start:stop], unseen)) for start, stop in scan.blocks(y)]
    found = np.concatenate(bad)
    found = found[split[found] > 0]
    if found.size:
        findings.add(
            "y",
            f"labels that are missing from training, {scan.some(unseen)}, stand in {scan.listed(found)} of validation "
            "or test: move some of these rows to training, or leave them out",
        )


TASK = Classes()
