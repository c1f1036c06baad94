"""What to mind of a model: the advice of its result, and its limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.training.card.facts import Facts
from services.training.card.markdown import name, number, sentence
from services.training.card.wording import Lines, counted, listed, metric_name, span
from services.training.gate import drift

FEW = 100
"""Fewer samples than this say little."""


def advice(facts: Facts) -> Lines:
    said = [
        *(sentence(each) for each in _advised(facts.model)),
        *_limits(facts),
        *_of_retraining(facts.model.get("retrain")),
    ]
    return ["## Advice and limits", "", *(f"- {each}" for each in said), ""] if said else []


def _advised(model: Mapping[str, Any]) -> Sequence[str]:
    found = model.get("advice") or ()
    return [found] if isinstance(found, str) else found


def _limits(facts: Facts) -> Iterator[str]:
    lengths, data, model = facts.model["data"].get("lengths"), facts.spec["data"], facts.model
    if lengths is not None:
        steps = span(lengths["shortest"], lengths["longest"])
        yield f"It was trained on sequences of {steps} steps. On shorter or longer ones it may be worse."
    yield from _worse_lengths(facts)
    if data["missing"] == "refuse" and (model.get("preprocessing") or {}).get("text") is None:
        yield "It has not learned what to do about missing values, so it refuses them."
    if "test" not in facts.samples and "validation" in facts.samples:
        is_set_aside = not data["split"].get("evaluate_test", True)
        why = "It was not tested: its spec sets the test split aside" if is_set_aside else "There is no test split"
        yield f"{why}. The validation split chose the best epoch, so its numbers are a little too good."
    for split in ("validation", "test"):
        if 0 < (count := facts.samples.get(split, FEW)) < FEW:
            yield f"The {split} split has only {counted(count, 'sample')}, so its numbers are rough."
    never = [each for each, precision, support in _answered(facts) if precision is None and support]
    if never:
        yield f"In the {facts.split} split it never answers with {listed(never, name)}."
    if share := (model.get("unknown_share") or {}).get("train"):
        yield f"{share:.2%} of the training text was unknown to its vocabulary."
    if model.get("rollbacks"):
        yield f"Training diverged and was rolled back {counted(model['rollbacks'], 'time')}."


def _worse_lengths(facts: Facts) -> Iterator[str]:
    found = facts.details.get("lengths") or {"is_worse": ()}
    for place, is_worse in enumerate(found["is_worse"]):
        if is_worse:
            steps, count = span(found["shortest"][place], found["longest"][place]), found["sequences"][place]
            yield (
                f"It is clearly worse on sequences of {steps} steps: {metric_name(facts.metric)} is "
                f"{number(found[facts.metric][place])} on the {count:,} of the {facts.split} split, and "
                f"{number(facts.judged)} on all of it."
            )


def _answered(facts: Facts) -> Iterator[tuple[Any, float | None, int]]:
    found = facts.details.get("classes")
    if found:
        yield from zip(found["name"], found["precision"], found["support"], strict=True)


def _of_retraining(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found and found.get("drift"):
        yield sentence(drift.sentence(found["drift"], found["drift"]["than"]))
    if found and found.get("gate"):
        yield sentence(found["gate"]["message"])
