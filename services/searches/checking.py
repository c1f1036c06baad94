"""Checks that a spec and its data allow the values of a space, before a search is accepted.

Every value of a list and both ends of a range are checked like a submission, each in a few combinations with others. A
value is refused if all of its combinations are refused because of it. Single combinations may be invalid: the search
refuses such a trial when its turn comes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from services.datasets import versions
from services.errors import Problem, SpecInvalid
from services.jobs import submission
from services.jobs.control import Wanted as WantedJob
from services.jobs.matrix import pointer_to, value, with_value
from services.jobs.submission import Known
from services.searches.reading import NEEDS_VALIDATION, PREFIX, Wanted
from services.searches.space import Choices, Field, Range, Space, Values, key_of, spec_of
from services.searches.stopping import Rule, rule_of
from services.training.measures import MEASURES
from services.training.spec import Spec
from services.training.spec.fields import Synthetic
from services.training.spec.footprint import of_synthetic
from services.training.spec.rules import counts_of_split

MOST_TRIED = 64
"""A space with no more combinations of corners is tried with all of them."""
EACH = 3
"""Otherwise each corner is tried in so many combinations."""
MOST_PROBLEMS = 100


class Found(NamedTuple):
    """What a search is accepted with."""

    metric: str
    """As results have it, such as `validation_accuracy`."""
    higher_is_better: bool
    datasets: Mapping[str, str]
    """By the names that specs give, the versions that they mean now: every trial uses these."""
    stop_early: Rule | None


@dataclass(frozen=True)
class _Tried:
    choices: Choices
    spec: Spec | None
    problems: Sequence[Problem]
    """Where they lie in the document of the search."""


def check(session: Session, wanted: Wanted, tenant: str) -> Found:
    """What the search means, if its space is valid. Inserts nothing.

    Raises:
        SpecInvalid: with every problem of the spec, its data and the space.
        DatasetValidating: a data set is still being checked.
    """
    known = Known()
    tried = [_try(session, wanted, choices, tenant, known) for choices in combinations(wanted.space)]
    if problems := [*_always_wrong(wanted.space, tried)]:
        raise SpecInvalid(problems[:MOST_PROBLEMS])
    specs = [each.spec for each in tried if each.spec is not None]
    metric = _metric(wanted, specs)
    problems = [*_metric_problems(session, wanted, tried, metric, tenant, known), *_split_problems(specs, known)]
    problems += _stop_early_problems(wanted, specs)
    if problems:
        raise SpecInvalid(problems)
    datasets = {name: f"{row.name}@{row.version}" for name, (row, _) in known.datasets.items() if row is not None}
    return Found(PREFIX + metric, MEASURES[metric].higher_is_better, datasets, _stop_early(wanted, specs))


def combinations(space: Space) -> Iterator[Choices]:
    """Combinations of corners, each corner in some of them."""
    corners = Space([Field(each.path, _cornered(each), each.when) for each in space.fields])
    few = [*islice(corners.cells(), MOST_TRIED + 1)]
    if len(few) <= MOST_TRIED:
        yield from few
        return
    drawn = random.Random(0)  # noqa: S311  (the same ones each time)
    for each in space.fields:
        for corner in each.domain.corners:
            for _ in range(EACH):
                yield _drawn(space, each, corner, drawn)


def _cornered(field: Field) -> Values:
    return Values(tuple(field.domain.corners))


def _drawn(space: Space, field: Field, corner: Any, drawn: random.Random) -> Choices:
    """Corners drawn at random, with one of them set and the conditions of its field met."""
    fixed: dict[str, Any] = {field.path: corner}
    for each in reversed(space.fields):  # each stands behind those that its condition names
        if each.path in fixed:
            fixed |= {path: drawn.choice(allowed) for path, allowed in each.when.items() if path not in fixed}
    choices: dict[str, Any] = {}
    for each in space.fields:
        if each.is_varied(choices):
            choices[each.path] = fixed.get(each.path, drawn.choice(each.domain.corners))
    return choices


def _try(session: Session, wanted: Wanted, choices: Choices, tenant: str, known: Known) -> _Tried:
    try:
        job = fitted(session, wanted.base, choices, tenant, known)
    except SpecInvalid as error:
        return _Tried(choices, None, [_located(wanted, choices, problem) for problem in error.problems])
    return _Tried(choices, job.spec, ())


def fitted(
    session: Session, base: Mapping[str, Any], choices: Choices, tenant: str, known: Known, *, accepted: bool = False
) -> WantedJob[Spec]:
    """The job of a trial. Raises SpecInvalid, DatasetValidating."""
    return submission.fitted(session, submission.read(spec_of(base, choices), accepted=accepted), tenant, known)


def _located(wanted: Wanted, choices: Choices, problem: Problem) -> Problem:
    """The problem of a trial's spec, where it lies in the document of the search."""
    for path, chosen in choices.items():
        field, whole = wanted.space[path], pointer_to(path.split("."))
        if problem.pointer == whole or problem.pointer.startswith(f"{whole}/"):
            below = problem.pointer.removeprefix(whole)
            return Problem(f"{field.pointer}/{_place_of(field, chosen)}{below}", problem.detail)
        parts = problem.pointer.strip("/").split("/")
        if whole.startswith(f"{problem.pointer}/") and problem.pointer and value(wanted.base, ".".join(parts)) is None:
            return Problem(field.pointer, f"{'.'.join(parts)} {problem.detail}")
    return problem


def _place_of(field: Field, chosen: Any) -> str:
    if isinstance(field.domain, Range):
        return "low" if chosen == field.domain.low else "high"
    return str([key_of(each) for each in field.domain.corners].index(key_of(chosen)))


def _always_wrong(space: Space, tried: Sequence[_Tried]) -> Iterator[Problem]:
    """Problems that every combination has, and those of a value that every combination with it has."""
    everywhere = _shared(tried)
    yield from everywhere
    for field in space.fields:
        for corner in field.domain.corners:
            place = f"{field.pointer}/{_place_of(field, corner)}"
            having = [each for each in tried if field.path in each.choices]
            having = [each for each in having if key_of(each.choices[field.path]) == key_of(corner)]
            for problem in _shared(having):
                if problem not in everywhere and problem.pointer.startswith((place, field.pointer)):
                    yield problem
    if not everywhere and all(each.spec is None for each in tried):
        first = tried[0]
        words = ", ".join(f"{path}={chosen}" for path, chosen in first.choices.items())
        for problem in first.problems:
            yield Problem(problem.pointer, f"{problem.detail} (with {words}; no combination that was tried is valid)")


def _shared(tried: Sequence[_Tried]) -> Sequence[Problem]:
    """The problems that all of these have."""
    if not tried:
        return []
    return [each for each in tried[0].problems if all(each in other.problems for other in tried[1:])]


def _metric(wanted: Wanted, specs: Sequence[Spec]) -> str:
    given = wanted.section.metric
    return specs[0].training.best_by if given is None else given.removeprefix(PREFIX)


def _metric_problems(
    session: Session, wanted: Wanted, tried: Sequence[_Tried], metric: str, tenant: str, known: Known
) -> Iterator[Problem]:
    varied = [each.path for each in wanted.space.fields]
    if metric == "loss" and any(f"{path}.".startswith("training.loss.") for path in varied):
        yield Problem(
            "/search/metric", "must be another metric than the loss, because the space varies training.loss itself"
        )
    good = next(each for each in tried if each.spec is not None)
    judged = with_value(spec_of(wanted.base, good.choices), ["training", "best_by"], metric)
    try:
        submission.fitted(session, submission.read(judged), tenant, known)
    except SpecInvalid as error:  # what `best_by` may be, a metric may be
        for problem in error.problems:
            if problem.pointer == "/training/best_by":
                yield Problem("/search/metric", problem.detail)


def _stop_early(wanted: Wanted, specs: Sequence[Spec]) -> Rule | None:
    """How trials are stopped early. The rungs of all trials are at the same epochs, even if their epochs are varied."""
    name = wanted.section.stop_early
    if "stop_early" not in wanted.section.model_fields_set and (wanted.section.algorithm == "grid" or _folds(specs)):
        name = None
    return rule_of(name, max(spec.training.epochs for spec in specs))


def _stop_early_problems(wanted: Wanted, specs: Sequence[Spec]) -> Iterator[Problem]:
    section = wanted.section
    if section.stop_early is not None and "stop_early" in section.model_fields_set and _folds(specs):
        detail = "must be null with data.split.folds: the folds of a trial end one after the other"
        yield Problem("/search/stop_early", detail)


def _folds(specs: Sequence[Spec]) -> bool:
    return any(spec.data.split.folds is not None for spec in specs)


def _split_problems(specs: Sequence[Spec], known: Known) -> Iterator[Problem]:
    for spec in specs:
        dataset = known.datasets[spec.data.dataset][0] if spec.data.dataset is not None else None
        summary = versions.summary(dataset) if dataset else of_synthetic(spec.data.synthetic or Synthetic())
        if spec.data.split.folds is None and not counts_of_split(spec, summary).get("validation"):
            yield Problem("/data/split/validation", NEEDS_VALIDATION)
            return
