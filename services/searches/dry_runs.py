"""What the submission of a search would do: validated as one, and how long it would take. Nothing is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from services.errors import SpecInvalid
from services.jobs import dry_runs, submission
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
    """Of all trials and the final model, at most; None if it is unknown."""
    message: str
    """How long a trial and the search take, in words, or why that is unknown."""


def of_search(session: Session, document: Mapping[str, Any], tenant: str) -> DryRun:
    """What a submission of this document would do.

    Raises what `control.submit` raises.
    """
    wanted, _ = control.wanted_of(session, document, tenant)
    found = checking.check(session, wanted, tenant)
    control.check_room(session, tenant)
    trial, parallel = _trial(session, wanted, tenant), control.parallel_of(session, wanted)
    seconds, counted = _seconds(wanted, trial, parallel), wanted.space.count(MOST_COMBINATIONS + 1)
    return DryRun(
        trial=trial,
        space=wanted.section.space or {},
        combinations=None if counted is None or counted > MOST_COMBINATIONS else counted,
        trials=wanted.trials,
        parallel=parallel,
        metric=found.metric,
        minutes=wanted.section.minutes,
        seconds=seconds,
        message=_message(wanted, trial, seconds),
    )


def _trial(session: Session, wanted: Wanted, tenant: str) -> Trial:
    for choices in ({}, *checking.combinations(wanted.space)):
        try:
            return dry_runs.of_spec(session, submission.read(spec_of(wanted.base, choices)), tenant)
        except SpecInvalid as error:
            refused = error
    raise refused


def _seconds(wanted: Wanted, trial: Trial, parallel: int) -> float | None:
    each, minutes = trial.estimate.seconds, wanted.section.minutes
    if each is None:
        return None
    trials = math.ceil(wanted.trials / parallel) * each
    if minutes is not None:  # the first trial is made in any case
        trials = min(trials, max(60.0 * minutes, each))
    return trials + (each if wanted.section.final else 0.0)


def _message(wanted: Wanted, trial: Trial, seconds: float | None) -> str:
    each, minutes = trial.estimate.seconds, wanted.section.minutes
    if each is None or seconds is None:
        return trial.estimate.message
    said = f"A trial will take about {about(each)}, the search about {about(seconds)} at most."
    if minutes is None or each <= 60.0 * minutes:
        return said
    return f"{said} A trial takes longer than the {about(60.0 * minutes)} of the search; the first one is always made."
