"""What a model has to beat to have learnt anything: the plainest answer to its task, the same for every sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.training import epochs, forecasts, measures, ngrams
from services.training.continuation import Continuation
from services.training.loop import Run
from services.training.measures import MEASURES, SPLITS
from services.training.tasks import known

FEW_UPDATES = 200
"""A model that was updated less often has mostly not been trained enough."""


def of(run: Run, metrics: Mapping[str, float | None]) -> dict[str, Any]:
    """The baseline of a run with these metrics, learnt from the training split and judged on the same splits as they:
    `{"answer", "metrics", "metric", "is_beaten", "message"}`. `metric` is the one by which the model beats it or does
    not, on the test split if there is one. `message` is a sentence where it does not."""
    found = _of(run, metrics)
    if found["message"]:
        found["message"] += _advice(run)
    return found


def _advice(run: Run) -> str:
    """What to do about a model that was hardly trained."""
    updates = run.state.step - run.fold.steps_before
    if updates >= FEW_UPDATES:
        return ""
    is_unscaled = run.spec.data.scaling == "none" and run.data.task.name != known.TEXT
    return (
        f" It was updated only {updates:,} time{'' if updates == 1 else 's'}: lower training.batch_size, raise "
        f"training.epochs or the learning rate{', or set data.scaling to standard' if is_unscaled else ''}."
    )


def _of(run: Run, metrics: Mapping[str, float | None]) -> dict[str, Any]:
    task, data = run.data.task, run.data
    if task.of_series:
        return forecasts.baseline(run, metrics)
    if isinstance(run.data, Continuation):
        return ngrams.baseline(run, metrics)
    answer = task.plain(data.train.y, data.output_size)  # (output_size,)
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    found: dict[str, float | None] = {}
    for split, part in parts.items():
        if part is not None and f"{split}_loss" in metrics:
            outputs = answer.expand(len(part.y), -1)
            judged = task.metrics(outputs, part.y, data.target_scaling.scale)
            found |= {f"{split}_{name}": value for name, value in judged.items()}
    name = measures.default(task.answers(data.output_size))
    split = next(split for split in SPLITS if f"{split}_{name}" in found)
    metric = f"{split}_{name}"
    value, plain = metrics.get(metric), found[metric]
    is_beaten = value is not None and (plain is None or MEASURES[name].is_better(value, plain))
    words = task.plain_words(answer, data.classes)
    message = None
    if not is_beaten and value is not None:
        message = (
            f"The model does not beat its baseline: {metric} is {value:.4g}, and always answering with {words} gives "
            f"{plain:.4g}."
        )
    return {
        "answer": words,
        "metrics": epochs.finite(found),
        "metric": metric,
        "is_beaten": is_beaten,
        "message": message,
    }
