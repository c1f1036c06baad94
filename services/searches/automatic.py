"""Chooses what a search varies if its document has no `space`, for its data. docs/searches.md lists the fields.

If the spec names no network, it is completed first, like that of a job. The values of the spec are the first trial. So
on validation data, the best trial is at least as good as the defaults. A field that the document states is not varied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from services.datasets import versions
from services.errors import Problem, SpecInvalid
from services.jobs import submission
from services.jobs.matrix import value, with_value
from services.jobs.submission import Known
from services.searches.space import PLACE, key_of
from services.training.files.summary import DatasetSummary
from services.training.spec import Spec, automatic
from services.training.spec.fields import AdamW, Forecast, NextStep, Synthetic
from services.training.spec.footprint import of_synthetic
from services.training.tasks import known

LARGEST_PATCH = 10_000
TEST = 0.2
"""The share of the samples that becomes the test if neither the spec nor the data set says which are."""
FEWEST_FOR_TEST = 40
"""With fewer samples none is set aside: what so small a test says is worth less than the samples are for training."""
FEWEST_OF_CLASS = 5
"""With fewer samples of a class, it might be missing from the test."""


class Plan(NamedTuple):
    """What was chosen for a search whose document has no `space`."""

    base: Mapping[str, Any]
    """The spec, completed."""
    space: Mapping[str, Any]
    """As a document has it."""
    first: Mapping[str, Any]
    """The choices of the first trial: the values of the spec."""


def plan(session: Session, document: Mapping[str, Any], tenant: str) -> Plan:
    """What the search of this document varies.

    Raises:
        SpecInvalid: with every problem of the spec.
        DatasetValidating: its data set is still being checked.
    """
    stated = {key: each for key, each in document.items() if key != "search"}
    known_data = Known()
    job = submission.fitted(session, submission.read(stated), tenant, known_data)
    found = known_data.datasets[job.spec.data.dataset][0] if job.spec.data.dataset is not None else None
    summary = versions.summary(found) if found else of_synthetic(job.spec.data.synthetic or Synthetic())
    section = document.get("search")
    has_final = not isinstance(section, Mapping) or section.get("final") is not False
    if has_final and _wants_test(stated, job.spec, summary):
        with contextlib.suppress(SpecInvalid):  # its samples, such as the windows of a forecast, may be too few
            tested = with_value(stated, ["data", "split", "test"], TEST)
            job = submission.fitted(session, submission.read(tested), tenant, known_data)
            stated = tested
    base = automatic.filled(stated, job.chosen)
    whole = job.spec.document()
    space = {path: domain for path, domain in _space(job.spec, summary) if _is_free(stated, path)}
    if not space:
        raise SpecInvalid(
            [Problem(PLACE, "must say what to vary: the spec states all fields that are varied otherwise")]
        )
    return Plan(
        base, space, {path: value(whole, path) for path, domain in space.items() if _is_varied(space, whole, path)}
    )


def _wants_test(stated: Mapping[str, Any], spec: Spec, summary: DatasetSummary) -> bool:
    """Whether a test part is set aside, so that the final model is judged by samples that no trial was compared on."""
    if not _is_free(stated, "data.split.test") or summary.given_split is not None or spec.data.split.test is not None:
        return False
    if isinstance(spec.task, Forecast):
        return True
    counts = summary.class_counts or [FEWEST_OF_CLASS]
    return summary.samples >= FEWEST_FOR_TEST and min(counts) >= FEWEST_OF_CLASS


def _is_free(stated: Mapping[str, Any], path: str) -> bool:
    """Whether a document states neither this field nor, as something else than a mapping, one above it."""
    found: Any = stated
    for key in path.split("."):
        if not isinstance(found, Mapping):
            return found is None
        if key not in found:
            return True
        found = found[key]
    return False


def _is_varied(space: Mapping[str, Any], whole: Mapping[str, Any], path: str) -> bool:
    conditions = space[path].get("when", {}) if isinstance(space[path], Mapping) else {}
    return all(key_of(value(whole, other)) in map(key_of, allowed) for other, allowed in conditions.items())


def _space(spec: Spec, summary: DatasetSummary) -> Iterator[tuple[str, Any]]:
    """The domain of each field, which contains the value of the spec."""
    a, optimizer = spec.architecture, spec.training.optimizer
    yield "training.optimizer.lr", {"low": min(1e-3, optimizer.lr), "high": max(2e-2, optimizer.lr), "log": True}
    yield "architecture.hidden_size", {"low": min(24, a.hidden_size), "high": max(128, 2 * a.hidden_size), "log": True}
    layers = {1, 2, a.num_layers} if a.dropout == 0 else {2, a.num_layers}  # dropout is between layers
    if len(layers) > 1:
        yield "architecture.num_layers", sorted(layers)
    if isinstance(spec.task, NextStep):
        return
    yield "architecture.head_dropout", {"low": 0.0, "high": max(0.5, a.head_dropout)}
    if isinstance(optimizer, AdamW) and (decay := optimizer.weight_decay) > 0:
        yield "training.optimizer.weight_decay", {"low": min(1e-3, decay), "high": max(0.3, decay), "log": True}
    if isinstance(spec.task, Forecast):
        return
    if a.pooling != "none":
        yield "architecture.pooling", sorted({"max", "mean", a.pooling})
    yield from _preparation(spec, summary)


def _preparation(spec: Spec, summary: DatasetSummary) -> Iterator[tuple[str, Any]]:
    data = spec.data
    if summary.texts is not None:
        return
    numbers = summary.features if summary.inputs is None else summary.inputs.numbers
    if numbers and summary.max_length > 1:
        yield "data.differences", _with(["append", None], data.differences)
    if numbers and data.scaling != "none":
        yield "data.scaling_over", ["train", "per_sequence"]
    if not known.named(summary.target).by_step and summary.max_length >= 4 * max(2, data.patch):
        sizes = {data.patch, max(1, data.patch // 2), min(LARGEST_PATCH, data.patch * 2)}
        yield "data.patch", sorted(sizes)


def _with(values: list[Any], own: Any) -> list[Any]:
    return values if own in values else [*values, own]
