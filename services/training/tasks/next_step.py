"""The next character or word of a text, at every step: a language model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from services.training.measures import Answers
from services.training.tasks.task import Described, Judged, Task

if TYPE_CHECKING:
    import numpy as np
    from loopline.preprocessing.scaling import Scaling
    from torch import Tensor

    from services.training.files.summary import DatasetSummary
    from services.training.gate.paired import Scores
    from services.training.spec.fields import Loss

UNKNOWN = 0
"""The class of what the vocabulary does not have; its entries follow."""


class NextStep(Task):
    """`y` is (samples, 0): the texts are all there is. The head has an output for what is unknown and one for each
    entry of the vocabulary, at each step. The loss is a mean over steps, in nats."""

    name = "text"
    words = "texts without labels"
    losses = {"text": ("cross_entropy",)}  # noqa: RUF012
    by_step = True
    is_continued = True

    def holds(self, y: NDArray[Any], steps: int | None = None) -> bool:
        return y.ndim == 2 and y.shape[1] == 0

    def described(self, y: NDArray[Any], lengths: NDArray[np.int64]) -> Described:
        return Described(0)

    def refusal(self, loss: str, summary: DatasetSummary) -> str | None:
        if loss == "cross_entropy":
            return None
        return f"{loss} does not fit the next character or word, which is one of several: use cross_entropy"

    def answers(self, width: int) -> Answers:
        return "steps"

    def targets(
        self, y: NDArray[Any], lengths: NDArray[np.int64], scaling: Scaling
    ) -> tuple[Tensor, list[int | str] | None, int]:
        raise NotImplementedError("continuation.py makes the targets of texts")

    def plain(self, targets: Tensor, width: int) -> Tensor:
        raise NotImplementedError("texts have baselines of their own, in ngrams.py")

    def plain_words(self, outputs: Tensor, classes: list[int | str] | None) -> str:
        raise NotImplementedError("texts have baselines of their own, in ngrams.py")

    def loss(self, loss: Loss, targets: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
        from torch.nn import functional as F

        return lambda outputs, y: F.cross_entropy(outputs, y)

    def losses_of_each(self, loss: Loss, targets: Tensor, width: int) -> Callable[[Tensor, Tensor], Tensor]:
        from torch.nn import functional as F

        return lambda outputs, y: F.cross_entropy(outputs, y, reduction="none")

    def kept(self, outputs: Tensor) -> Tensor:
        import torch

        best = outputs.argmax(dim=1)  # in few bytes, because an epoch has many steps
        return best.to(torch.int16 if outputs.shape[1] <= 1 << 15 else torch.int32)

    def metrics_of_kept(
        self, kept: Tensor, targets: Tensor, width: int, scale: list[float] | None = None
    ) -> dict[str, float | None]:
        return {"accuracy": float((kept == targets).double().mean())}

    def _metrics(self, outputs: Tensor, targets: Tensor, scale: list[float] | None) -> dict[str, float | None]:
        from torch.nn import functional as F

        nats = float(F.cross_entropy(outputs.double(), targets))
        return {**self.metrics_of_kept(outputs.argmax(dim=1), targets, outputs.shape[1]), **self.metrics_of_loss(nats)}

    def metrics_of_loss(self, loss: float) -> dict[str, float | None]:
        """The loss as a perplexity (e to the power of it), and in bits: of a character, if texts are read by them."""
        perplexity = math.exp(loss) if loss < math.log(1e300) else math.inf
        return {"perplexity": perplexity, "bits_per_step": loss / math.log(2.0)}

    def scores(self, metric: str, loss: Loss, judged: Judged) -> Scores:
        raise NotImplementedError("a spec with this task has no retrain")


TASK = NextStep()
