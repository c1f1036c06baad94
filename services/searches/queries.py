"""What clients see of searches: counts, trials, the best one, and how much each field matters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services import paging
from services.db import now
from services.errors import SearchNotFound
from services.jobs import batches
from services.orm import Job, Search
from services.searches import importance
from services.searches.importance import Importance
from services.searches.reading import read_space
from services.searches.trials import MEASURED, stopped_at, value_of
from services.states import Reason, Status
from services.text import clean
from services.training.measures import Measure, recorded

REFUSED = "refused"
"""The status of a trial whose choices no spec allows; it is no job."""
PRUNED = "pruned"
"""The status of a trial that was stopped early; its job is cancelled, with this reason."""


class Best(NamedTuple):
    """The best trial of a search."""

    trial: int
    job_id: str
    value: float
    choices: Mapping[str, Any]


class Row(NamedTuple):
    """A trial as the table of its search has it."""

    trial: int
    job_id: str | None
    """None of one that was refused."""
    name: str | None
    status: str
    message: str | None
    value: float | None
    """Of the metric."""
    best_so_far: float | None
    """Of this trial and those before it."""
    choices: Mapping[str, Any]
    epoch: int
    epochs: int | None
    seconds: float | None
    """From its first start to its end."""
    lease_until: float | None = None
    """Until when its attempt has the lease, by the clock of the database."""
    asked_at: float = 0.0
    """When the database was asked, by the same clock."""


class Final(NamedTuple):
    """The final model of a search: the best trial's spec, trained on all but the test part."""

    job_id: str
    status: str
    message: str | None
    epoch: int
    epochs: int | None
    metrics: Mapping[str, float | None]
    """Empty until it has succeeded."""
    baseline: Mapping[str, Any] | None
    """What it is compared with; None until it has succeeded."""
    lease_until: float | None
    asked_at: float
    """Both as of a trial."""


@dataclass(frozen=True)
class Detail:
    """A search with all its trials."""

    counts: Mapping[str, int]
    rows: Sequence[Row]
    best: Best | None
    final: Final | None
    importance: Sequence[Importance]
    revision: str


class Summary(NamedTuple):
    """The number of trials of a search in each state, and a revision that changes with all that a reader can see."""

    counts: Mapping[str, int]
    revision: str


def goes_on() -> sa.ColumnElement[bool]:
    """Whether a trial has not ended, in the words of ix_jobs_search_going_on."""
    ended: Sequence[sa.ColumnElement[str]] = [
        sa.literal_column(f"'{each}'") for each in ("succeeded", "failed", "cancelled")
    ]
    return Job.status.not_in(ended)


def _standing(status: str, reason: str | None) -> str:
    """The status of a job, or that it was stopped early."""
    return PRUNED if status == Status.CANCELLED and reason == Reason.PRUNED else status


def get(session: Session, search_id: str, *, tenant: str | None = None) -> Search:
    """The search.

    Raises:
        SearchNotFound: there is none, or it is another tenant's.
    """
    search = session.get(Search, search_id, populate_existing=True)
    if search is None or (tenant is not None and search.tenant != tenant):
        raise SearchNotFound(f"There is no search {clean(search_id, 100)}.")
    return search


def page(
    session: Session, *, limit: int = 20, after: str | None = None, tenant: str | None = None
) -> tuple[Sequence[Search], bool]:
    """Searches older than the search `after`, newest first, and whether there are more."""
    query = select(Search)
    if tenant is not None:
        query = query.where(Search.tenant == tenant)
    return paging.newest(session, query, Search.id, after=after, limit=limit)


def summaries(session: Session, searches: Sequence[Search]) -> Mapping[str, Summary]:
    """The number of trials in each state, of each of these searches, in one query."""
    kinds = (Job.search_id, Job.status, Job.reason)
    query = select(*kinds, func.count(Job.trial), func.sum(Job.revision))
    query = query.where(Job.search_id.in_([each.id for each in searches])).group_by(*kinds)
    counts: dict[str, Counter[str]] = {each.id: Counter() for each in searches}
    revisions: Counter[str] = Counter()
    for search_id, status, reason, jobs, revision in session.execute(query):
        counts[str(search_id)][_standing(status, reason)] += jobs
        revisions[str(search_id)] += int(revision)
    return {each.id: _summary(each, counts[each.id], revisions[each.id]) for each in searches}


def detail(session: Session, search: Search) -> Detail:
    """A search with its trials, by number."""
    columns = (Job.id, Job.trial, Job.name, Job.status, Job.reason, Job.message, Job.choices, Job.epoch, Job.epochs)
    more = (Job.started_at, Job.finished_at, Job.revision, Job.lease_until, now().label("asked_at"), *MEASURED)
    found = session.execute(select(*columns, *more).where(Job.search_id == search.id).order_by(Job.id)).all()
    jobs, finals = [job for job in found if job.trial is not None], [job for job in found if job.trial is None]
    metric, measure = search.settings["metric"], recorded(search.settings["metric"])
    made = [*(_row(job, metric) for job in jobs), *map(_refused, search.refused)]
    rows = _with_best_so_far(sorted(made, key=lambda row: row.trial), measure)
    counts = Counter(_standing(job.status, job.reason) for job in jobs)
    summary = _summary(search, counts, sum(job.revision for job in found))
    stopped = stopped_at(session, search.id, metric) if counts[PRUNED] else {}
    model = _final(session, finals[-1]) if finals else None
    fields = _importance(search, rows, stopped, measure)
    return Detail(summary.counts, rows, _best(rows, measure), model, fields, summary.revision)


def _summary(search: Search, counts: Mapping[str, int], revisions: int) -> Summary:
    # A job that is deleted lowers both numbers, so neither alone would do.
    revision = f"{search.revision}.{sum(counts.values())}.{revisions}"
    each_status = {str(each): counts.get(each, 0) for each in (*Status, PRUNED)}
    return Summary({**each_status, REFUSED: len(search.refused)}, revision)


def _row(job: Any, metric: str) -> Row:
    took = job.finished_at - job.started_at if job.finished_at is not None and job.started_at is not None else None
    value = value_of(job, metric) if job.status == Status.SUCCEEDED else None
    status = _standing(job.status, job.reason)
    plain = (job.name, status, job.message, value, None, job.choices, job.epoch, job.epochs, took)
    return Row(job.trial, job.id, *plain, job.lease_until, job.asked_at)


def _final(session: Session, job: Any) -> Final:
    metrics, baseline = {}, None
    if job.status == Status.SUCCEEDED:
        metrics = batches.metrics_of({"metrics": job.metrics, "mean": job.mean})
        baseline = session.scalar(select(Job.result["baseline"]).where(Job.id == job.id))
    plain = (job.id, job.status, job.message, job.epoch, job.epochs)
    return Final(*plain, metrics, baseline, job.lease_until, job.asked_at)


def _refused(trial: Mapping[str, Any]) -> Row:
    message = "; ".join(trial["problems"])
    return Row(trial["trial"], None, None, REFUSED, message, None, None, trial["choices"], 0, None, None)


def _with_best_so_far(rows: Sequence[Row], measure: Measure) -> Sequence[Row]:
    best: float | None = None
    found = []
    for row in rows:
        if row.value is not None and (best is None or measure.is_better(row.value, best)):
            best = row.value
        found.append(row._replace(best_so_far=best))
    return found


def _best(rows: Sequence[Row], measure: Measure) -> Best | None:
    """The best trial; of equal ones the first."""
    best: Row | None = None
    for row in rows:
        if row.value is not None and (best is None or measure.is_better(row.value, best.value or 0.0)):
            best = row
    if best is None or best.job_id is None or best.value is None:
        return None
    return Best(best.trial, best.job_id, best.value, best.choices)


def _importance(
    search: Search, rows: Sequence[Row], stopped: Mapping[int, Mapping[int, float]], measure: Measure
) -> Sequence[Importance]:
    """From the ranks of the complete trials, and behind them of those that were stopped early, as TPE ranks them: those
    that got further are better."""
    space, _ = read_space(search.settings["space"], {})
    keys: dict[int, tuple[float, ...]] = {}
    for row in rows:
        if row.value is not None:
            keys[row.trial] = (0, 0, -row.value if measure.higher_is_better else row.value)
        for epoch, value in stopped.get(row.trial, {}).items():
            is_number = not math.isnan(value)
            keys[row.trial] = (1, -epoch, (-value if measure.higher_is_better else value) if is_number else math.inf)
    places = {key: place for place, key in enumerate(sorted({*keys.values()}))}
    ranked = [(row.choices, places[keys[row.trial]]) for row in rows if row.trial in keys]
    return [] if space is None else importance.of_fields(space, ranked)
