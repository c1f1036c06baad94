"""The trials of a search so far, read from the rows of its jobs. Nothing else is stored about them, except the refused
ones, which have no jobs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.db import now
from services.orm import Epoch, Job, Search
from services.searches.space import Choices
from services.states import TERMINAL, Reason, Status


class State(StrEnum):
    """What is known of a trial."""

    GOING_ON = "going_on"
    COMPLETE = "complete"
    """It has a value of the metric."""
    IMPOSSIBLE = "impossible"
    """These choices cannot be trained, so similar ones are avoided."""
    PRUNED = "pruned"
    """It was stopped early, because other trials were better."""
    LOST = "lost"
    """It ended without a value for a reason that says nothing about its choices."""


OF_CHOICES = frozenset(
    {
        Reason.DIVERGED,
        Reason.CANNOT_TRAIN,
        Reason.TOO_LARGE,
        Reason.OUT_OF_MEMORY_GPU,
        Reason.OUT_OF_MEMORY_HOST,
        Reason.TIME_LIMIT,
    }
)
"""Why jobs fail because of their spec."""


MEASURED = (Job.result["metrics"].label("metrics"), Job.result["mean"].label("mean"))
"""The small parts of a job's result that have its metrics. The database takes them out of results that may be long."""


@dataclass(frozen=True)
class Trial:
    """One trial, as far as the suggestion of the next ones depends on it."""

    number: int
    choices: Choices
    state: State
    value: float | None = None
    """Of the metric; finite, and None unless it is complete."""
    reports: Mapping[int, float] = field(default_factory=dict)
    """Of a trial that was stopped early: the metric at the epoch at which it was; NaN if it has none there."""


def history(session: Session, search: Search) -> Sequence[Trial]:
    """The trials of a search, those refused too, by number."""
    columns = (Job.trial, Job.choices, Job.status, Job.reason, *MEASURED)
    rows = session.execute(select(*columns).where(*of_search(search.id))).all()
    metric = search.settings["metric"]
    reports = stopped_at(session, search.id, metric)
    made = [Trial(row.trial, row.choices, *_outcome(row, metric), reports.get(row.trial, {})) for row in rows]
    refused = [Trial(each["trial"], each["choices"], State.IMPOSSIBLE) for each in search.refused]
    return sorted([*made, *refused], key=lambda trial: trial.number)


def standing(session: Session, search: Search) -> object:
    """What a suggestion depends on besides the search's row; a trial that has ended no longer changes. Cheap."""
    going_on = Job.status.not_in(TERMINAL)
    rows = session.execute(select(Job.trial, going_on).where(*of_search(search.id)).order_by(Job.trial))
    return search.made, [(number, bool(goes_on)) for number, goes_on in rows]


def failing(session: Session, search: Search, many: int) -> str | None:
    """Why the last of its trials failed, if the last so many that have ended all failed or were refused. Those from
    before a client last let the search go on are not looked at."""
    since = search.settings.get("looked_at_from", 0)
    columns = (Job.trial, Job.status, sa.func.coalesce(Job.message, Job.reason).label("why"))
    query = select(*columns).where(*of_search(search.id), Job.trial > since, Job.status.in_(TERMINAL))
    ended = [(row.trial, row.status, row.why) for row in session.execute(query.order_by(Job.trial.desc()).limit(many))]
    refused = [(each["trial"], Status.FAILED, each["problems"][0]) for each in search.refused if each["trial"] > since]
    last = sorted([*ended, *refused[-many:]], reverse=True)[:many]
    if len(last) < many or any(status != Status.FAILED for _, status, _ in last):
        return None
    return str(last[0][2])


def of_search(search_id: str) -> Sequence[sa.ColumnElement[bool]]:
    """Whether a job is a trial of this search. Its final model is a job of the search too, and no trial."""
    return (Job.search_id == search_id, Job.trial.is_not(None))


def time_is_over(session: Session, search: Search) -> bool:
    """Whether the minutes of a search are over, or too few seem to be left for another trial and the final model. Three
    of four trials took no longer than is reckoned with. The final model takes about as long as a trial that was not
    stopped early."""
    minutes: float | None = search.settings.get("minutes")
    if minutes is None:
        return False
    duration = Job.finished_at - Job.started_at
    query = select(duration, Job.status).where(*of_search(search.id), duration.is_not(None)).order_by(duration)
    ended = [(took or 0.0, status) for took, status in session.execute(query).all()]
    needed = ended[3 * len(ended) // 4][0] if ended else 0.0
    complete = [took for took, status in ended if status == Status.SUCCEEDED]
    if search.settings.get("final") and complete:
        needed += statistics.median(complete)
    at = session.scalar(select(now())) or 0.0
    return at + needed >= search.created_at + 60.0 * minutes


def value_of(row: Any, metric: str) -> float | None:
    """The metric in a row with the columns MEASURED: with folds their mean. None if there is none, or none that is
    finite."""
    found = {**(row.metrics or {}), **(row.mean or {})}.get(metric)  # with folds the final model is not validated
    return float(found) if found is not None and math.isfinite(found) else None


def stopped_at(session: Session, search_id: str, metric: str) -> Mapping[int, Mapping[int, float]]:
    """Of each trial that was stopped early, by number: the epoch, and the metric there; NaN if it has none."""
    stopped = (Job.search_id == search_id, Job.status == Status.CANCELLED, Job.reason == Reason.PRUNED)
    last = sa.and_(Epoch.job_id == Job.id, Epoch.epoch == Job.epoch)
    rows = session.execute(select(Job.trial, Epoch.epoch, Epoch.record).join(Epoch, last).where(*stopped))
    return {row.trial: {row.epoch: _number(row.record.get(metric))} for row in rows}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _outcome(row: Any, metric: str) -> tuple[State, float | None]:
    if row.status not in TERMINAL:
        return State.GOING_ON, None
    if row.status == Status.SUCCEEDED and (found := value_of(row, metric)) is not None:
        return State.COMPLETE, found
    if row.status == Status.CANCELLED and row.reason == Reason.PRUNED:
        return State.PRUNED, None
    return State.IMPOSSIBLE if row.status == Status.FAILED and row.reason in OF_CHOICES else State.LOST, None
