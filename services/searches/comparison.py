"""Decides whether a trial that has reached a rung goes on, by comparing it with the other trials of its search.

The values come from the records of epochs, which outlive the attempt that made them. So a trial counts once at each
rung, however often it was resumed. If it goes on, its job gets an event, and it is not compared at this rung again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services.jobs.events import Type
from services.orm import Epoch, Event, Job, Search
from services.searches.stopping import FEWEST_AT_RUNG, FEWEST_COMPLETE, Rule, asha, median, rungs
from services.searches.trials import of_search
from services.states import Status
from services.training.measures import recorded


class Answer(NamedTuple):
    """Whether a trial goes on after a rung."""

    epoch: int
    goes_on: bool
    message: str
    """Why, for a person."""
    value: float | None
    """Of the metric, at this rung."""


@dataclass(frozen=True)
class Comparison:
    """How one attempt at a trial is compared with the other trials."""

    job_id: str
    search_id: str
    metric: str
    rule: Rule
    epochs: int
    """Of the trial."""
    rungs: tuple[int, ...]
    """Those at which the trial has no answer yet, ascending."""

    @property
    def higher_is_better(self) -> bool:
        return recorded(self.metric).higher_is_better

    def after(self, rung: int) -> Comparison:
        """The same, once the trial has its answer for this rung."""
        return replace(self, rungs=tuple(each for each in self.rungs if each > rung))

    def answer(self, session: Session, record: Mapping[str, Any]) -> Answer:
        """Whether the trial goes on after the rung whose record this is."""
        rung = int(record["epoch"])
        value = self.best([*self._best_until(session, rung, Job.id == self.job_id), self.value(record)])
        by = self._by_median if self.rule["rule"] == "median" else self._by_asha
        goes_on, why = by(session, rung, value)
        what = "The trial goes on" if goes_on else "The search stopped this trial early,"
        number = "is not defined" if value is None else f"is {value:.4g}"
        message = f"{what} after epoch {rung:,} of {self.epochs:,}. Its best {self.metric} until then {number}{why}."
        return Answer(rung, goes_on, message, value)

    def value(self, record: Mapping[str, Any] | None) -> float | None:
        """The metric in the record of an epoch; None if there is none, or none that is finite."""
        found = None if record is None else record.get(self.metric)
        return float(found) if found is not None and math.isfinite(found) else None

    def best(self, values: Sequence[float | None]) -> float | None:
        """The best one of some values; None if there is none."""
        there = [value for value in values if value is not None]
        return (max if self.higher_is_better else min)(there, default=None)

    def _best_until(self, session: Session, rung: int, *which: sa.ColumnElement[bool]) -> list[float | None]:
        """The best value of each of these trials up to a rung that it has reached."""
        value = Epoch.record[self.metric].as_float()
        best = (func.max if self.higher_is_better else func.min)(value)
        query = select(best).join(Job, Job.id == Epoch.job_id).where(*of_search(self.search_id), *which)
        query = query.where(Epoch.epoch <= rung).group_by(Epoch.job_id).having(func.max(Epoch.epoch) == rung)
        return [None if each is None else float(each) for each in session.scalars(query)]

    def _by_asha(self, session: Session, rung: int, value: float | None) -> tuple[bool, str]:
        found = self._best_until(session, rung, Job.id != self.job_id)
        others, factor = [each for each in found if each is not None], self.rule["factor"]
        goes_on = asha(value, others, higher_is_better=self.higher_is_better, factor=factor)
        if value is None:
            return goes_on, ", so it cannot be compared"
        count = len(others) + 1
        if count < FEWEST_AT_RUNG:
            return goes_on, f". Trials are compared from {FEWEST_AT_RUNG} on that have got there"
        better = sum(each > value if self.higher_is_better else each < value for each in others)
        most = max(count // factor, 1)
        these = "the best one goes on" if most == 1 else f"the best {most:,} go on"
        return goes_on, f". It is number {better + 1:,} of the {count:,} trials that have got there, and {these}"

    def _by_median(self, session: Session, rung: int, value: float | None) -> tuple[bool, str]:
        is_other = Job.id != self.job_id
        complete = self._best_until(session, rung, is_other, Job.status == Status.SUCCEEDED)
        query = select(func.count()).where(*of_search(self.search_id), is_other, Job.status == Status.SUCCEEDED)
        complete += [None] * ((session.scalar(query) or 0) - len(complete))  # those that ended before the rung
        own = [] if value is None else [value]
        goes_on = median(own, complete, higher_is_better=self.higher_is_better)
        values = [each for each in complete if each is not None]
        if len(complete) < FEWEST_COMPLETE:
            return goes_on, f". Trials are compared from {FEWEST_COMPLETE} complete ones on"
        if not own or not values:
            return goes_on, ", so it cannot be compared" if not own else ". No complete trial has a value there"
        than = "not worse" if goes_on else "worse"
        middle = f"{statistics.median(values):.4g}, the median of {len(values):,} complete trials"
        return goes_on, f". It is {than} than {middle}"


def comparison(session: Session, job: Job) -> Comparison | None:
    """How the claimed job is compared with others; None if it is no trial, or its search stops none early."""
    if job.search_id is None or job.trial is None:
        return None
    settings = session.scalar(select(Search.settings).where(Search.id == job.search_id)) or {}
    rule: Rule | None = settings.get("stop_early")
    if settings.get("first") is not None and job.trial == 1:
        return None  # the spec itself, with which the others are to be compared in full
    if rule is None or job.spec["data"]["split"].get("folds") is not None:
        return None
    passed = _passed(session, job.id) if job.attempt > 1 else 0
    epochs = job.spec["training"]["epochs"]
    whole = Comparison(job.id, job.search_id, settings["metric"], rule, epochs, ())
    return replace(whole, rungs=rungs(rule["first_rung"], epochs, rule["factor"])).after(passed)


def _passed(session: Session, job_id: str) -> int:
    """The last rung that the trial has passed, in any of its attempts."""
    told = session.scalars(select(Event.data).where(Event.job_id == job_id, Event.type == Type.RUNG))
    return max((data["epoch"] for data in told if data), default=0)
