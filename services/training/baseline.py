"""What a model has to beat to have learnt anything: the plainest answer to its task, the same for every sample; a
linear model that knows no order; and the most similar training sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from services.training import forecasts, linear, measures, neighbour, ngrams, rivals
from services.training.continuation import Continuation
from services.training.loop import Run
from services.training.measures import SPLITS
from services.training.parts import Part
from services.training.rivals import Metrics


def of(run: Run, metrics: Metrics, *, thorough: bool = True) -> dict[str, Any]:
    """The baseline of a run with these metrics, learnt from the training split and judged on the same splits as they
    (`rivals.compared`). The metric by which the model beats it or does not is of the test split if there is one.
    `thorough` fits a linear model and looks for similar training sequences too, where the task has these."""
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
    if thorough and (model := linear.fitted(data)) is not None:
        found[linear.words(data)] = _named(judged, lambda part: model.metrics(data, part))
    split = next(split for split in SPLITS if split in judged)
    if thorough and split != "train" and (near := neighbour.fitted(data)) is not None:
        found[neighbour.WORDS] = _named(judged, lambda part: near.metrics(data, part))
    samples = len(judged[split].y) if task.stratifies and split != "train" else None  # training samples prove nothing
    return rivals.compared(metrics, found, f"{split}_{name}", {constant: f"always answering with {constant}"}, samples)


def _of_constant(run: Run, answer: Tensor, part: Part) -> Metrics:
    return run.data.task.metrics(answer.expand(len(part.y), -1), part.y, run.data.target_scaling.scale)


def _named(parts: Mapping[str, Part], metrics: Callable[[Part], Metrics]) -> dict[str, float | None]:
    return {f"{split}_{name}": value for split, part in parts.items() for name, value in metrics(part).items()}
