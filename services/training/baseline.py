"""What a model has to beat to have learnt anything: the plainest answer to its task, the same for every sample; a
linear model that knows no order; and the most similar training sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from services.training import forecasts, linear, measures, neighbour, ngrams, rivals
from services.training.continuation import Continuation
from services.training.data import Prepared
from services.training.linear import Linear
from services.training.loop import Run
from services.training.measures import SPLITS
from services.training.neighbour import Neighbours
from services.training.parts import Part
from services.training.rivals import Metrics


def of(run: Run, metrics: Metrics, *, thorough: bool = True, failed: list[str] | None = None) -> dict[str, Any]:
    """The baseline of a run with these metrics, learnt from the training split and judged on the same splits as they
    (`rivals.compared`). The metric by which the model beats it or does not is of the test split if there is one.
    `thorough` fits a linear model and looks for similar training sequences too, where the task has these. `failed` gets
    a sentence about each of them that could not be made."""
    task, data = run.data.task, run.data
    if task.of_series:
        return forecasts.baseline(run, metrics)
    if isinstance(run.data, Continuation):
        return ngrams.baseline(run, metrics)
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    judged = {name: part for name, part in parts.items() if part is not None and f"{name}_loss" in metrics}
    name = measures.default(task.answers(data.output_size))
    answer = task.plain(data.train.y, data.output_size)  # (output_size,)
    constant = task.plain_words(answer, data.classes)
    found = {constant: _named(judged, lambda part: _of_constant(run, answer, part))}
    split = next(split for split in SPLITS if split in judged)
    fitters: dict[str, Callable[[Prepared], Linear | Neighbours | None]] = {}
    if thorough:
        fitters[linear.words(data)] = linear.fitted
        if split != "train":  # the most similar one would be the sequence itself
            fitters[neighbour.WORDS] = neighbour.fitted
    for words, fitted in fitters.items():
        try:
            if (model := fitted(data)) is not None:
                found[words] = _named(judged, partial(model.metrics, data))
        except Exception as error:  # noqa: BLE001  what a model is only compared with may not cost the model
            if failed is not None:
                failed.append(f"The model is not compared with {words}: {type(error).__name__} ({error!s:.200}).")
    proves = split != "train" and not task.by_step
    samples = len(judged[split].y) if proves else None  # which the model was not trained on
    verbs = {constant: f"always answering with {constant}"}
    return rivals.compared(metrics, found, f"{split}_{name}", verbs, samples, independent=is_independent(run))


def is_independent(run: Run) -> bool:
    """Whether the samples of a part count one by one, and do not come in groups."""
    return run.spec.data.split.method != "group"


def _of_constant(run: Run, answer: Tensor, part: Part) -> Metrics:
    return run.data.task.metrics(answer.expand(len(part.y), -1), part.y, run.data.target_scaling.scale)


def _named(parts: Mapping[str, Part], metrics: Callable[[Part], Metrics]) -> dict[str, float | None]:
    return {f"{split}_{name}": value for split, part in parts.items() for name, value in metrics(part).items()}
