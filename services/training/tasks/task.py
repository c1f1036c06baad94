"""What every task answers, from the file that holds its targets to the gate that judges its models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from services.training.files.archive import Findings
from services.training.files.suspicion import Suspicion
from services.training.measures import Answers

if TYPE_CHECKING:
    from loopline.preprocessing.scaling import Scaling
    from torch import Tensor

    from services.training.files.npz import Limits
    from services.training.files.summary import DatasetSummary
    from services.training.gate.paired import Scores
    from services.training.spec.fields import Loss

Target = Literal["classes", "series", "tags", "text", "multilabel", "values"]
"""What the targets of a data set are, as its summary says it."""


@dataclass(frozen=True)
class Described:
    """The targets of a data set, counted."""

    width: int
    """Outputs that a model needs: the number of classes or tags, or the columns of y."""
    classes: list[int | str] | None = None
    """Sorted; None where there are none."""
    class_counts: list[int] | None = None
    """How often each of `classes` occurs."""


@dataclass(frozen=True)
class Judged:
    """What a model answered beside what is true, in the unit of the data, on the CPU."""

    outputs: Tensor
    targets: Tensor
    weights: Tensor | None = None
    """Those of `class_weights`."""
    scale: list[float] | None = None
    """That of targets which training has scaled: by it a huber loss tells large errors from small ones."""
    steps: NDArray[np.int64] | None = None
    """The valid steps of each sequence."""
    sample_weights: Tensor | None = None
    """What the loss of each target is multiplied by."""

    def weighted(self, losses: Tensor) -> Tensor:
        """The losses of the targets, times the weights of their samples."""
        return losses if self.sample_weights is None else losses * self.sample_weights.double()


class Task(ABC):
    """One kind of target, and how a model of it is trained and judged.

    `y` is an array of `Arrays`, in its final form unless said otherwise. `lengths` are the valid steps of sequences.
    Outputs of a network are (samples, width), as its head gave them; targets are what `targets()` made: (samples,) or
    (samples, width). Of a task `by_step` the samples there are the valid steps of all sequences, one after the other.
    """

    name: Target
    words: str
    """What there is to predict, in the plural: `classes`."""
    losses: Mapping[Target, tuple[str, ...]]
    """Of each kind of target that the task can be trained on, the names of its losses; the first one is the default."""

    # ---- y in a file; no torch

    @abstractmethod
    def holds(self, y: NDArray[Any], steps: int | None = None) -> bool:
        """Whether y is of this task: in its final form, or as it was read beside an x of so many `steps`. The first
        task of the table that says so has it."""

    def checked(
        self,
        y: NDArray[Any],
        lengths: NDArray[np.int64] | None,
        steps: int | None,
        split: NDArray[np.int8] | None,
        limits: Limits,
        findings: Findings,
    ) -> NDArray[Any]:
        """y as it was read, in its final form; what is wrong with it is noted. What is unknown of x is None."""
        return y

    def described(self, y: NDArray[Any], lengths: NDArray[np.int64]) -> Described:
        """What the summary of a data set says of y."""
        return Described(1 if y.ndim == 1 else y.shape[1])

    def labels(self, y: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any] | None:
        """All labels of y, (labels,); None where there are none."""
        return None

    def suspicions(self, y: NDArray[Any], steps: int) -> Iterator[Suspicion]:
        """What may have been meant otherwise. `y` is a sample (rows, columns) of the targets; x has `steps` steps."""
        yield from ()

    # ---- a spec with such data; no torch

    @abstractmethod
    def refusal(self, loss: str, summary: DatasetSummary) -> str | None:
        """Why a data set of this target cannot be trained on with this loss, and what to do; None where it can."""

    @abstractmethod
    def answers(self, width: int) -> Answers:
        """What a model with so many outputs answers with: the metrics follow from it."""

    def trains_on(self, loss: str) -> bool:
        """Whether a loss of this name is one of the task's."""
        return any(loss in names for names in self.losses.values())

    scales_targets = False
    """Whether `data.target_scaling` acts on them."""
    stratifies = False
    """Whether each sequence has one label, which a split keeps in proportion."""
    of_series = False
    """Whether what there is to predict are the next steps of x."""
    by_step = False
    """Whether there is a target for each step, and so the head answers at each step."""
    is_continued = False
    """Whether that target is the next step itself, so that an answer depends on how much was read before it."""
    quantiles: Sequence[float] = ()
    """Of which each target has an output; () if the outputs are the targets themselves."""

    # ---- training and judging; torch

    @abstractmethod
    def targets(
        self, y: NDArray[Any], lengths: NDArray[np.int64], scaling: Scaling
    ) -> tuple[Tensor, list[int | str] | None, int]:
        """Targets as the loss wants them, the sorted labels where there are classes, and the width of the head."""

    @abstractmethod
    def loss(self, loss: Loss, targets: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
        """The spec's loss as a function of (outputs, targets), a mean over samples; `targets` are those of training."""

    @abstractmethod
    def losses_of_each(self, loss: Loss, targets: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
        """The same, but the loss of each sample: (samples,)."""

    def class_weights(self, loss: Loss, targets: Tensor, width: int) -> Tensor | None:
        """What the loss of a sample of each class, or of a yes of each label, is multiplied by, from the targets of
        training: (classes,) or (labels,)."""
        return None

    def metrics(self, outputs: Tensor, targets: Tensor, scale: list[float] | None = None) -> dict[str, float | None]:
        """The metrics of outputs, None for one that is not defined; {} where there are no outputs. `scale` is that of
        targets that were scaled (`data.Scaling`): the metrics are in the unit of before."""
        return self._metrics(outputs.float(), targets, scale) if len(outputs) else {}

    @abstractmethod
    def _metrics(self, outputs: Tensor, targets: Tensor, scale: list[float] | None) -> dict[str, float | None]: ...

    def details(self, outputs: Tensor, targets: Tensor, names: Sequence[int | str], scale: list[float] | None) -> Any:
        """What lies behind the metrics, for a result: the scores of each class, label or target. None if there is
        nothing. `names` are those of the classes, or of the targets."""
        return None

    @abstractmethod
    def plain(self, targets: Tensor, width: int) -> Tensor:
        """The outputs (width,) of the plainest model, which answers the same to every sample, from the targets of
        training."""

    @abstractmethod
    def plain_words(self, outputs: Tensor, classes: list[int | str] | None) -> str:
        """What that model always answers with: `the most frequent class (3)`."""

    def in_unit(self, outputs: Tensor, targets: Tensor, scaling: Scaling) -> tuple[Tensor, Tensor]:
        """Outputs and targets in the unit of the data; `scaling` is that of the targets."""
        from services.training.preprocessing.scaling import undone

        return undone(outputs, scaling), undone(targets, scaling)

    def kept(self, outputs: Tensor) -> Tensor:
        """What is kept of outputs in training, until the metrics of the epoch are worked out."""
        return outputs

    def metrics_of_kept(
        self, kept: Tensor, targets: Tensor, width: int, scale: list[float] | None = None
    ) -> dict[str, float | None]:
        return self.metrics(kept, targets, scale)

    def metrics_of_loss(self, loss: float) -> dict[str, float | None]:
        """The metrics that say the same as the mean loss, in other units."""
        return {}

    @abstractmethod
    def scores(self, metric: str, loss: Loss, judged: Judged) -> Scores:
        """What each sample adds to a metric or to the loss. The sums over all samples make the metric or the loss."""
