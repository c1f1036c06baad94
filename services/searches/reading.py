"""Reads the `search` of a document: what is varied, how values are suggested, how trials are compared.

Every problem has a JSON pointer. Whether the spec and its data allow these values is for `checking.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.errors import Problem, SpecInvalid
from services.jobs.matrix import pointer_to, value
from services.searches import space, stopping
from services.searches.space import Range, Space, Values, key_of
from services.training.measures import MEASURES
from services.wording import problems_of

MOST_FIELDS = 30
MOST_VALUES = 100
"""In the lists of all fields together."""
MOST_VALUE_LETTERS = 2000
"""Of a value of a list, as JSON."""
MOST_TRIALS = 1000
DEFAULT_TRIALS = 40
MOST_MINUTES = 10_080
"""A week."""
PREFIX = "validation_"
FORMS = "must be a list of values, or {low, high} and optionally `log` or `step`"

Algorithm = Literal["tpe", "random", "grid"]


class Section(BaseModel):
    """The fields of a document's `search`."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    space: dict[str, Any] | None = None
    """Dotted paths into the spec. Each has a list of values, or the bounds of a number: `low`, `high` and optionally
    `log` or `step`. With `when` a field is varied only if other fields have certain values. Null: chosen for the data
    set. Then the first trial is the spec itself, and fields that the spec states are not varied."""
    algorithm: Algorithm = "tpe"
    """`tpe` learns from the trials so far. `random` does not. `grid` makes every combination of lists once."""
    trials: int | None = Field(None, ge=1, le=MOST_TRIALS)
    """Null: 40, or every combination if there are fewer; every combination of a grid. With `minutes`: 1,000 at most, as
    many as there is time for."""
    minutes: float | None = Field(None, gt=0, le=MOST_MINUTES)
    """How many minutes the trials and the final model may take from the submission on. No trial begins when too little
    time seems to be left for it and for the final model; what has begun is completed. Null: no limit."""
    final: bool = True
    """True trains the best trial's spec once more, on the samples of training and validation together, and tests this
    model once. No trial is tested. False tests every trial, and trains no final model."""
    parallel: int | None = Field(None, ge=1, le=100)
    """How many trials may wait or run at once. Null: as many as its queue has workers at the submission, but at most
    4."""
    metric: str | None = None
    """The metric of validation data by which trials are compared. Null: what `training.best_by` says."""
    stop_early: stopping.Name | None = "median"
    """Whether trials are stopped early if they are worse than others after 1/9 and 1/3 of the epochs. `median`: a trial
    goes on unless it is worse than the median of the complete trials. `asha`: only the best third goes on. Null: never.
    The default of a grid, and with `data.split.folds`, is null."""
    seed: int = Field(0, ge=0, lt=2**63)
    """The same seed and the same results give the same next trial."""


class Wanted(NamedTuple):
    """A search as its document asks for it."""

    base: Mapping[str, Any]
    """The spec without its `search`."""
    section: Section
    space: Space
    trials: int


def read(document: Mapping[str, Any]) -> Wanted:
    """What a document asks for.

    Raises:
        SpecInvalid: with every problem of its `search`; what is wrong with the spec is not looked at.
    """
    base = {key: each for key, each in document.items() if key != "search"}
    given = document.get("search")
    if not isinstance(given, Mapping):
        example = "`search: {space: {training.optimizer.lr: {low: 1.0e-4, high: 1.0e-1, log: true}}}`"
        raise SpecInvalid([Problem("/search", f"must say what to vary, such as {example}")])
    found, problems = read_space(given.get("space"), base)
    problems += _base_problems(base)
    section = None
    try:
        section = Section.model_validate({**given, "space": {}})
    except ValidationError as error:
        problems += [Problem(f"/search{each.pointer}", each.detail) for each in problems_of(error, Section, given)]
    if section is not None:
        problems += _metric_problems(section.metric)
    if section is None or found is None or problems:
        raise SpecInvalid(problems)
    trials, problems = _trials(section, found)
    if problems:
        raise SpecInvalid(problems)
    return Wanted(base, section.model_copy(update={"space": given["space"]}), found, trials)


def most_trials(found: Space) -> tuple[int, str]:
    """How many trials a search of this space may have, and why not more."""
    most = found.count(MOST_TRIALS + 1)
    if most is None or most > MOST_TRIALS:
        return MOST_TRIALS, f"a search has at most {MOST_TRIALS:,} trials"
    return most, f"the space has {most:,} combinations"


def _trials(section: Section, found: Space) -> tuple[int, list[Problem]]:
    if section.algorithm == "grid":
        if ranges := [each for each in found.fields if isinstance(each.domain, Range)]:
            detail = "is a range, and a grid needs a list of values; or set `algorithm` to tpe or random"
            return 0, [Problem(each.pointer, detail) for each in ranges]
        if section.trials is None and found.count(MOST_TRIALS + 1) == MOST_TRIALS + 1:
            detail = f"stands for more than {MOST_TRIALS:,} combinations; leave some values out, or use tpe or random"
            return 0, [Problem(space.PLACE, detail)]
    most, why = most_trials(found)
    if section.trials is None:
        is_open = section.algorithm == "grid" or section.minutes is not None
        return (most if is_open else min(DEFAULT_TRIALS, most)), []
    if section.trials > most:
        return 0, [Problem("/search/trials", f"must be at most {most:,}, because {why}; got {section.trials:,}")]
    return section.trials, []


def _base_problems(base: Mapping[str, Any]) -> Iterator[Problem]:
    if base.get("kind", "train") != "train":
        yield Problem("/kind", "must be train: a search compares models that it trains")
    if base.get("retrain") is not None:
        yield Problem("/retrain", "a search trains candidates and moves no alias: leave it out")
    if "matrix" in base:
        yield Problem("/matrix", "is for batches; list the values in /search/space")
    split = value(base, "data.split.validation")
    if isinstance(split, int | float) and split == 0 and value(base, "data.split.folds") is None:
        yield Problem("/data/split/validation", NEEDS_VALIDATION)


NEEDS_VALIDATION = "must be more than 0: a search compares its trials on validation data"


def _metric_problems(metric: str | None) -> Iterator[Problem]:
    if metric is None:
        return
    name = metric.removeprefix(PREFIX)
    if metric.startswith(("test_", "train_")) and metric.partition("_")[2] in MEASURES:
        better = PREFIX + metric.partition("_")[2]
        why = (
            "the test data are for the model that the search finds, and would not be new to it if they chose it"
            if metric.startswith("test_")
            else "a model that learns its training data by heart would be the best one"
        )
        yield Problem("/search/metric", f"must be of validation data, such as {better}: {why}")
    elif name not in MEASURES:
        known = ", ".join(PREFIX + each for each in MEASURES)
        yield Problem("/search/metric", f"must be one of {known}; got {metric[:100]}")


class _RangeFields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = Field(None, gt=0)
    when: dict[str, list[Any]] | None = None


class _ValuesFields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    values: list[Any] = Field(min_length=1)
    when: dict[str, list[Any]] | None = None


def read_space(given: object, base: Mapping[str, Any]) -> tuple[Space | None, list[Problem]]:
    """The space in `search.space` of a document whose spec is `base`, or None and what is wrong with it."""
    if not isinstance(given, Mapping) or not given:
        example = "`training.optimizer.lr: {low: 1.0e-4, high: 1.0e-1, log: true}`"
        return None, [Problem(space.PLACE, f"must name one path into the spec or more, such as {example}")]
    if len(given) > MOST_FIELDS:
        return None, [Problem(space.PLACE, f"has {len(given)} fields; a search varies at most {MOST_FIELDS}")]
    fields: list[space.Field] = []
    problems: list[Problem] = []
    for path, what in given.items():
        if (wrong := _path_problem(str(path), given, base)) is not None:
            problems.append(Problem(_place(path), wrong))
        else:
            problems += _add_field(fields, str(path), what)
    if not problems and (values := sum(len(each.domain.corners) for each in fields)) > MOST_VALUES:
        problems.append(Problem(space.PLACE, f"has {values} values in its lists; at most {MOST_VALUES} together"))
    problems = problems or [*_when_problems(fields)]
    ordered = [] if problems else _ordered(fields)
    if not problems and len(ordered) < len(fields):
        circle = next(each for each in fields if each not in ordered)
        problems.append(Problem(f"{circle.pointer}/when", "leads back to this field itself"))
    return (None if problems else Space(ordered)), problems


def _place(path: object) -> str:
    return space.PLACE + pointer_to([str(path)])


def _path_problem(path: str, given: Mapping[Any, Any], base: Mapping[str, Any]) -> str | None:
    first = path.split(".")[0]
    if not all(path.split(".")) or first in ("search", "kind"):
        return "is no path into a spec, such as `training.optimizer.lr`"
    if (above := next((other for other in given if path.startswith(f"{other}.")), None)) is not None:
        return f"lies within `{above}`, which the space has as well; keep one of them"
    parts = path.split(".")
    for through in (".".join(parts[:depth]) for depth in range(1, len(parts))):
        found = value(base, through)
        if found is not None and not isinstance(found, Mapping):
            return f"leads through {through}, which is no mapping in this spec"
    return None


def _add_field(fields: list[space.Field], path: str, what: object) -> list[Problem]:
    """Read a field and add it, unless something is wrong with it."""
    if not isinstance(what, Mapping | list):
        return [Problem(_place(path), FORMS)]
    document = {"values": what} if isinstance(what, list) else dict(what)
    model = _ValuesFields if "values" in document else _RangeFields
    try:
        read = model.model_validate(document)
    except ValidationError as error:
        prefix = _place(path)
        found = problems_of(error, model, document)
        pointers = [each.pointer.removeprefix("/values") if isinstance(what, list) else each.pointer for each in found]
        return [Problem(prefix + pointer, each.detail) for pointer, each in zip(pointers, found, strict=True)]
    if isinstance(read, _ValuesFields):
        domain: Range | Values = Values(tuple(read.values))
        problems = [*_values_problems(path, read.values, "" if isinstance(what, list) else "/values")]
    else:
        domain = Range(read.low, read.high, read.log, read.step)
        problems = [*_range_problems(path, domain)]
    if not problems:
        fields.append(space.Field(path, domain, read.when or {}))
    return problems


def _values_problems(path: str, values: Sequence[Any], below: str) -> Iterator[Problem]:
    texts = [json.dumps(each, sort_keys=True) for each in values]
    for at, text in enumerate(texts):
        if len(text) > MOST_VALUE_LETTERS:
            yield Problem(f"{_place(path)}{below}/{at}", f"is longer than {MOST_VALUE_LETTERS:,} characters")
        elif text in texts[:at]:
            yield Problem(f"{_place(path)}{below}/{at}", "stands there twice")


def _range_problems(path: str, domain: Range) -> Iterator[Problem]:
    place, low, high, step = _place(path), domain.low, domain.high, domain.step
    if not low < high or not math.isfinite(high - low):
        yield Problem(f"{place}/high", f"must be greater than low, which is {low}; got {high}")
    elif domain.log and low <= 0:
        yield Problem(f"{place}/low", f"must be greater than 0 with log; got {low}")
    elif domain.log and step is not None:
        yield Problem(f"{place}/step", "does not go with log: leave one of them out")
    elif domain.is_whole and step is not None and not isinstance(step, int):
        yield Problem(f"{place}/step", f"must be a whole number, because low and high are; got {step}")
    elif step is not None and step > high - low:
        yield Problem(f"{place}/step", f"is more than high - low; got {step}")


def _when_problems(fields: Sequence[space.Field]) -> Iterator[Problem]:
    by_path = {each.path: each for each in fields}
    for each in fields:
        for path, allowed in each.when.items():
            place = f"{each.pointer}/when{pointer_to([path])}"
            other = by_path.get(path)
            if other is None:
                yield Problem(place, "is no field of this space")
            elif not isinstance(other.domain, Values):
                yield Problem(place, "is a range; a condition needs a field with a list of values")
            elif not allowed:
                yield Problem(place, "must be a list of one value or more")
            else:
                known = {key_of(known) for known in other.domain.corners}
                strange = [at for at, one in enumerate(allowed) if key_of(one) not in known]
                yield from (Problem(f"{place}/{at}", f"is no value of {path}") for at in strange)


def _ordered(fields: Sequence[space.Field]) -> list[space.Field]:
    """Each field behind those that it depends on, otherwise as given; without those that depend on themselves."""
    ordered: list[space.Field] = []
    left = [*fields]
    while ready := [each for each in left if each.when.keys() <= {one.path for one in ordered}]:
        ordered.append(ready[0])
        left.remove(ready[0])
    return ordered
