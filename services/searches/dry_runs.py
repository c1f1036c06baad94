"""What the submission of a search would do: validated as one, and how long it would take. Nothing is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from services.jobs import dry_runs
from services.jobs.dry_runs import DryRun as Trial
from services.jobs.estimates import about
from services.searches import checking, control
from services.searches.reading import Wanted
from services.searches.space import spec_of

MOST_COMBINATIONS = 10_000
"""More are not counted."""


@dataclass(frozen=True)
class DryRun:
    """What is known of a search that was not submitted."""

    trial: Trial
    """A trial with the values of the spec, or with the first valid values of the space if these are not valid."""
    space: Mapping[str, Any]
    combinations: int | None
    """None if there is no end of them, or if they are more than MOST_COMBINATIONS."""
    trials: int
    parallel: int
    metric: str
    minutes: float | None
    seconds: float | None
    """Of all trials and the final model, roughly, on the workers that are there now; None if it is unknown."""
    message: str
    """How long a trial and the search take, in words, or why that is unknown."""


def of_search(session: Session, document: Mapping[str, Any], tenant: str) -> DryRun:
    """What a submission of this document would do.

    Raises what `control.submit` raises.
    """
    wanted, _ = control.wanted_of(session, document, tenant)
    found = checking.check(session, wanted, tenant)
    control.check_room(session, tenant)
    tried, counted = _tried(session, wanted, tenant), wanted.space.count(MOST_COMBINATIONS + 1)
    trial, parallel = tried[0], control.parallel_of(session, wanted)
    longest = max((each.estimate.seconds or 0.0 for each in tried), default=0.0)
    seconds = _seconds(wanted, trial, longest, min(parallel, max(1, control.listening(session, wanted))))
    return DryRun(
        trial=trial,
        space=wanted.section.space or {},
        combinations=None if counted is None or counted > MOST_COMBINATIONS else counted,
        trials=wanted.trials,
        parallel=parallel,
        metric=found.metric,
        minutes=wanted.section.minutes,
        seconds=seconds,
        message=_message(wanted, trial, longest, seconds),
    )


def _tried(session: Session, wanted: Wanted, tenant: str) -> Sequence[Trial]:
    """A trial with the values of the spec, and trials with the least and the largest values: those that are valid."""
    choices = ({}, *checking.combinations(wanted.space))
    return dry_runs.of_valid(session, (spec_of(wanted.base, each) for each in choices), tenant)


def _seconds(wanted: Wanted, trial: Trial, longest: float, at_once: int) -> float | None:
    """As if half of the trials were like `trial`, and the others took `longest` seconds."""
    first, minutes = trial.estimate.seconds, wanted.section.minutes
    if first is None:
        return None
    each = (first + longest) / 2
    final = each if wanted.section.final else 0.0
    whole = math.ceil(wanted.trials / at_once) * each + final
    return whole if minutes is None else min(whole, max(60.0 * minutes, first + final))  # one trial is made in any case


def _message(wanted: Wanted, trial: Trial, longest: float, seconds: float | None) -> str:
    each, minutes = trial.estimate.seconds, wanted.section.minutes
    if each is None or seconds is None:
        return trial.estimate.message
    most = f", the longest about {about(longest)}" if about(longest) != about(each) else ""
    said = f"A trial will take about {about(each)}{most}, and the search about {about(seconds)}."
    if minutes is None or each <= 60.0 * minutes:
        return said
    return f"{said} A trial takes longer than the {about(60.0 * minutes)} of the search; the first one is always made."
