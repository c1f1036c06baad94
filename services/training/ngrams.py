"""What a language model has to beat: the most frequent character or word, and what follows the one before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from loopline.preprocessing.texts import Vocabulary
from numpy.typing import NDArray

from services.training import rivals
from services.training.bptt import Unrolled
from services.training.loop import Run
from services.training.measures import SPLITS
from services.training.tasks.next_step import TASK, UNKNOWN

Codes = NDArray[np.int64]
COMPARED_BY = "perplexity"


@dataclass(frozen=True)
class Ngrams:
    """How often each class, and each pair of neighbours, occurs in the training part.

    A pair has the probability of Witten and Bell (1991): (count + kinds * p(second)) / (count of first + kinds), where
    `kinds` says how many different ones follow the first. It needs nothing to be chosen.
    """

    single: NDArray[np.float64]
    """(classes,): the probability of each; every count is one higher than in training, so that none is 0."""
    pairs: Codes
    """(different pairs,): first * classes + second, ascending."""
    counts: Codes
    """(different pairs,)"""
    firsts: Codes
    """(classes,): how often each comes first."""
    kinds: Codes
    """(classes,): how many different ones follow each."""
    likeliest: Codes
    """(classes,): what follows each most often."""

    @classmethod
    def of(cls, before: Codes, targets: Codes, classes: int) -> Ngrams:
        counted = np.bincount(targets, minlength=classes)
        pairs, counts = np.unique(before * classes + targets, return_counts=True)
        first, second = np.divmod(pairs, classes)
        likeliest = np.full(classes, int(counted.argmax()))
        order = np.lexsort((second, -counts, first))
        found, at = np.unique(first[order], return_index=True)
        likeliest[found] = second[order][at]
        return cls(
            single=(counted + 1.0) / (len(targets) + classes),
            pairs=pairs,
            counts=counts,
            firsts=np.bincount(before, minlength=classes),
            kinds=np.bincount(first, minlength=classes),
            likeliest=likeliest,
        )

    def probabilities(self, before: Codes, targets: Codes) -> NDArray[np.float64]:
        """(steps,): those of the targets after what stands before them."""
        wanted = before * len(self.single) + targets
        place = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
        counts = np.where(self.pairs[place] == wanted, self.counts[place], 0)
        kinds, firsts, single = self.kinds[before], self.firsts[before], self.single[targets]
        found: NDArray[np.float64] = np.where(
            firsts > 0, (counts + kinds * single) / np.maximum(firsts + kinds, 1), single
        )
        return found


def baseline(run: Run, metrics: Mapping[str, float | None]) -> dict[str, Any]:
    """As `baseline.of`: the better one of both. `others` has the other one."""
    data, vocabulary = run.data, run.data.preprocessing.text
    assert vocabulary is not None, "continuation.py gives one"  # noqa: S101
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    judged = [split for split in SPLITS if f"{split}_loss" in metrics]
    model = Ngrams.of(*_steps(data.train), data.output_size)
    commonest = int(model.single.argmax())
    found: dict[str, dict[str, float | None]] = {
        f"the most frequent {vocabulary.by.removesuffix('s')} ({_shown(vocabulary, commonest)})": {},
        f"a bigram model, which knows the {vocabulary.by.removesuffix('s')} before": {},
    }
    for split in reversed(judged):
        before, targets = _steps(parts[split])
        answers = (
            (model.single[targets], np.full(len(targets), commonest)),
            (model.probabilities(before, targets), model.likeliest[before]),
        )
        for each, (chances, best) in zip(found.values(), answers, strict=True):
            known = {
                "accuracy": float((best == targets).mean()),
                **TASK.metrics_of_loss(float(-np.log(chances).mean())),
            }
            each |= {f"{split}_{name}": value for name, value in known.items()}
    return rivals.compared(metrics, found, f"{judged[0]}_{COMPARED_BY}", {each: f"{each}," for each in found})


def _steps(part: Any) -> tuple[Codes, Codes]:
    """What stands before each target, and the targets, as classes: (steps,) both."""
    assert isinstance(part, Unrolled), "continuation.py makes the parts"  # noqa: S101
    return part.x[:, 0].numpy().astype(np.int64) - 1, part.y.numpy()


def _shown(vocabulary: Vocabulary, number: int) -> str:
    return "unknown" if number == UNKNOWN else repr(vocabulary.entries[number - 1])
