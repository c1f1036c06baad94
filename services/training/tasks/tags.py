"""A class for each step of a sequence: tagging."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from services.training.files import scan
from services.training.files.archive import Findings
from services.training.files.suspicion import Suspicion
from services.training.tasks.classes import Classes, check_kinds
from services.training.tasks.task import Described, Judged

if TYPE_CHECKING:
    from loopline.preprocessing.scaling import Scaling
    from torch import Tensor

    from services.training.files.npz import Limits
    from services.training.files.summary import DatasetSummary
    from services.training.gate.paired import Scores
    from services.training.spec.fields import Loss

PADDING = -1
"""The value of y after the end of a sequence, if y is whole numbers; if it is words, it is an empty one."""
MANY_TAGS = 100
"""Different whole numbers beyond which a warning says that they are taken for tags."""


class Tags(Classes):
    """`y` is (samples, length, 1), whole numbers or words; the head has an output for each tag, at each step.

    Only valid steps count. What a file has behind the end of a sequence is replaced. As tensors the valid steps of all
    sequences stand one after the other, so padding is in no loss, class weight, metric or score.
    """

    name = "tags"
    words = "tags"
    label = "tag"
    losses = {"tags": ("cross_entropy",)}  # noqa: RUF012
    stratifies = False
    by_step = True

    def holds(self, y: NDArray[Any], steps: int | None = None) -> bool:
        """Words (samples, length) too, and whole numbers with as many columns as x has steps, if that is more than
        one. But 0 and 1 alone are yes-or-no labels."""
        if y.ndim != 2 or y.dtype.kind == "f":
            return y.ndim == 3
        if y.dtype.kind == "U":
            return True
        return 1 < y.shape[1] == steps and y.size > 0 and not (y.min() >= 0 and y.max() <= 1)

    def checked(
        self,
        y: NDArray[Any],
        lengths: NDArray[np.int64] | None,
        steps: int | None,
        split: NDArray[np.int8] | None,
        limits: Limits,
        findings: Findings,
    ) -> NDArray[Any]:
        given, y = y.shape, y[:, :, np.newaxis] if y.ndim == 2 else y
        if y.dtype.kind == "f":
            findings.add("y", f"y has shape {given} and holds floats: save tags as whole numbers or words")
        elif steps is not None and y.shape[1:] != (steps, 1):
            findings.add(
                "y",
                f"y has shape {given}, and x has {steps:,} steps: for a class for each step save y with shape "
                "(samples, length), as long as x; for one class a sequence save it with shape (samples,)",
            )
        elif lengths is not None and len(lengths) == len(y) and len(y):
            y = np.ascontiguousarray(y)
            y[np.arange(y.shape[1]) >= lengths[:, None]] = "" if y.dtype.kind == "U" else PADDING
            check_kinds(_all_valid(y, lengths), limits, findings, "a tagger")
        return y

    def described(self, y: NDArray[Any], lengths: NDArray[np.int64]) -> Described:
        counts: dict[int | str, int] = {}
        for labels in _valid(y, lengths):
            for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
                counts[label.item()] = counts.get(label.item(), 0) + int(count)
        tags = sorted(counts)
        return Described(len(tags), tags, [counts[tag] for tag in tags])

    def labels(self, y: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any] | None:
        return _all_valid(y, lengths)

    def suspicions(self, y: NDArray[Any], steps: int) -> Iterator[Suspicion]:
        if y.dtype.kind != "U" and (kinds := len(np.unique(y))) > MANY_TAGS:
            yield Suspicion(
                "many_tags",
                "loss_unsaid",
                f"y holds {kinds} or more different whole numbers, one for each step of x, and is taken as a class for "
                "each step. For values to predict save y.astype(np.float32).",
            )

    def refusal(self, loss: str, summary: DatasetSummary) -> str | None:
        if loss == "cross_entropy":
            return None
        return (
            f"{loss} is for targets of whole sequences, and this data set has a class for each step: use "
            "cross_entropy, or upload y as floats for values to predict"
        )

    def targets(
        self, y: NDArray[Any], lengths: NDArray[np.int64], scaling: Scaling
    ) -> tuple[Tensor, list[int | str] | None, int]:
        return super().targets(_all_valid(y, lengths), lengths, scaling)

    def kept(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(dim=1)  # an epoch has too many steps to keep a number for each tag of each

    def metrics_of_kept(
        self, kept: Tensor, targets: Tensor, width: int, scale: list[float] | None = None
    ) -> dict[str, float | None]:
        from services.training import metrics

        return metrics.of_classes(kept, targets, width)

    def scores(self, metric: str, loss: Loss, judged: Judged) -> Scores:
        """Of whole sequences, whose `steps` there are: steps of one sequence are no samples of their own."""
        from services.training import metrics
        from services.training.gate import scores

        outputs, targets, steps = judged.outputs, judged.targets, judged.steps
        assert steps is not None, "the steps of each sequence"  # noqa: S101
        if metric == "loss":
            each = metrics.cross_entropies(loss, outputs.double(), targets, judged.weights)
            return scores.mean_of_groups(judged.weighted(each), steps)
        return scores.of_grouped_classes(metric, outputs.argmax(dim=1), targets, outputs.shape[1], steps)


def _valid(y: NDArray[Any], lengths: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    """The valid steps of y (samples, length, 1), a block of sequences at a time."""
    for start, stop in scan.blocks(y):
        yield y[start:stop, :, 0][np.arange(y.shape[1]) < lengths[start:stop, None]]


def _all_valid(y: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any]:
    return np.concatenate([y[:0].reshape(-1), *_valid(y, lengths)])


TASK = Tags()
