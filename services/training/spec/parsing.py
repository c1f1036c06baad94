"""From a document to a spec: what is filled in, and what is wrong with it.

    parse(document) -> Spec          a document, with its preset and the defaults filled in
    completed(spec, ...)             with what is chosen for a data set, if the document names no network
    stored(document) -> Spec         a document that was resolved before, by this version or an older one
    check_data(spec, summary)        does this spec fit this data set?

All problems are reported at once. Each has a JSON pointer and a sentence that says what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from services.errors import Problem, SpecInvalid
from services.training.files.summary import DatasetSummary
from services.training.spec import automatic, rules, tasks
from services.training.spec.automatic import Choice
from services.training.spec.fields import Spec, Training
from services.training.spec.presets import PRESETS
from services.training.spec.widths import of_texts
from services.training.tasks import known
from services.wording import problems_of, without


def parse(document: Mapping[str, Any], *, accepted: bool = False) -> Spec:
    """Validates one document. `accepted`: it was before, maybe when names might hold more.

    Raises SpecInvalid with every problem: those of single fields, and those of fields that do not go together (judged
    with the wrong fields left out). If the document leaves the network open, fields that may be chosen are not judged
    together: `completed` does so.
    """
    merged = _with_preset(document)
    merged = _merged(tasks.defaults(merged), merged)
    try:
        spec = Spec.model_validate(merged, context={"accepted": accepted})
        problems: list[Problem] = []
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise SpecInvalid([Problem("", "the spec is nested too deeply")]) from None
        problems = problems_of(error, Spec, merged)
        spec = _best_guess(merged, error)
    judged = rules.problems_of_open if automatic.is_open(document) else rules.problems
    problems += [p for p in judged(spec, merged) if p.pointer not in {q.pointer for q in problems}]
    if problems:
        raise SpecInvalid(problems)
    return spec


def completed(spec: Spec, document: Mapping[str, Any], summary: DatasetSummary) -> tuple[Spec, Sequence[Choice]]:
    """The spec of a document with what was chosen for this data set, and what that is: nothing, unless the document
    leaves the network open.

    Raises SpecInvalid.
    """
    if not automatic.is_open(document):
        return spec, ()
    chosen = automatic.choices(document, summary)
    return parse(automatic.filled(document, chosen), accepted=True), chosen


def stored(document: Mapping[str, Any]) -> Spec:
    """The spec that a job or a model was stored with.

    Raises SpecInvalid.
    """
    return parse(as_it_was(document), accepted=True)


def as_it_was(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a stored spec. A version that did not know a field did without it: targets were not scaled then,
    and a forecast did not read the calendar."""
    data, task = document.get("data"), document.get("task")
    found = dict(document)
    if isinstance(data, Mapping) and "target_scaling" not in data:
        found["data"] = {**data, "target_scaling": "none"}
    if isinstance(task, Mapping) and task.get("name") == "forecast" and "calendar" not in task:
        found["task"] = {**task, "calendar": "none"}
    return found


def check_data(spec: Spec, summary: DatasetSummary) -> Spec:
    """Checks that the spec fits the data set and fills in what the data decides: the task, the loss, the scaling of
    targets, how texts are read, and the pooling where there is a class for each step.

    Raises SpecInvalid with every problem.
    """
    problems = list(tasks.problems(spec, summary))
    if not problems:
        spec, summary = tasks.resolved(spec, summary), tasks.as_trained(spec, summary)
        problems = list(rules.data_problems(spec, summary))
    if problems:
        raise SpecInvalid(problems)
    training, data = spec.training, spec.data
    if training.loss is None:
        default = tasks.default_loss(spec, summary)
        training = training.model_copy(update={"loss": Training.model_validate({"loss": default}).loss})
    if data.target_scaling is None:
        scaling = "standard" if known.chosen(summary.target, training.loss).scales_targets else "none"
        data = data.model_copy(update={"target_scaling": scaling})
    if summary.texts is not None:
        data = data.model_copy(update={"text": of_texts(data.text, summary.texts)})
    architecture = spec.architecture
    if known.chosen(summary.target, training.loss).by_step:
        architecture = architecture.model_copy(update={"pooling": "none"})
    spec = spec.model_copy(update={"architecture": architecture, "training": training, "data": data})
    return spec.model_copy(update={"task": tasks.named(spec, summary)})


def _with_preset(document: Mapping[str, Any]) -> dict[str, Any]:
    preset = document.get("preset")
    if not isinstance(preset, str) or preset not in PRESETS:
        return dict(document)
    return _merged(PRESETS[preset].fragment, document)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def _best_guess(document: dict[str, Any], error: ValidationError) -> Spec:
    """The spec with its wrong fields left out and its missing ones filled, so that the rules can look at the rest."""
    filled: dict[str, Any] = {"data": {"synthetic": {}}}
    pruned = without(document, error.errors(include_url=False, include_input=False))
    for attempt in (
        _merged(filled, pruned) if "data" not in pruned else _merged(filled | {"data": {}}, pruned),
        filled,
    ):
        try:
            return Spec.model_validate(attempt)
        except ValidationError:
            continue
    raise AssertionError("the filled-in spec is valid")
