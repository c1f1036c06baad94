"""The final model of a search: the best trial's spec, trained once more on all samples but the test, and tested once.

The parts are drawn as they were for the trial, so the test part is the one that no trial has used. The model is a job
of the search without a number. If trials are added later and another trial is then the best, another final model is
made; the newest one counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services.jobs.control import TrialOf, Wanted
from services.jobs.matrix import value, with_value
from services.jobs.submission import Known
from services.orm import Job, Search
from services.searches import checking, queries
from services.searches.queries import Best
from services.searches.trials import MEASURED, of_search, value_of
from services.states import Status
from services.training.measures import recorded
from services.training.messages import Selection
from services.training.spec import Spec, stored
from services.training.spec.fields import Forecast, NextStep


def newest(session: Session, search_id: str) -> Job | None:
    """The final model's job, if one was made."""
    query = select(Job).where(Job.search_id == search_id, Job.trial.is_(None)).order_by(Job.id.desc()).limit(1)
    return session.scalar(query)


def missing(session: Session, search: Search) -> Best | None:
    """The best trial, if its final model is wanted and was not made. A final model that failed or was cancelled is made
    again only after another trial."""
    if not search.settings.get("final") or search.cancel_requested:
        return None
    best = queries.detail(session, search).best
    made = newest(session, search.id)
    if best is None or made is None:
        return best
    if made.status in (Status.FAILED, Status.CANCELLED):
        last = session.scalar(select(func.max(Job.id)).where(*of_search(search.id)))
        return None if last is None or last < made.id else best
    return None if made.choices == best.choices else best


def selection(session: Session, job: Job) -> Selection | None:
    """How the spec of a job was selected; None if it is not the final model of a search. Trials that were added after
    the job do not count, so every attempt gets the same."""
    if job.search_id is None or job.trial is not None or (search := session.get(Search, job.search_id)) is None:
        return None
    metric, columns = search.settings["metric"], (Job.trial, Job.choices, *MEASURED)
    made = session.execute(select(*columns).where(*of_search(search.id), Job.id < job.id)).all()
    values = [each for row in made if row.choices == job.choices and (each := value_of(row, metric)) is not None]
    best = (max if recorded(metric).higher_is_better else min)(values, default=None)
    return Selection(search.id, max((row.trial for row in made), default=1), metric, best)


def wanted(session: Session, search: Search, best: Best, spec: Mapping[str, Any]) -> Wanted[Spec]:
    """The job of the final model; `spec` is the best trial's, as its document has it.

    Raises:
        SpecInvalid, DatasetValidating, DatasetNotFound: its data set cannot be used any more.
    """
    document = _on_all(spec, session.get_one(Job, best.job_id))
    found = checking.fitted(session, document, {}, search.tenant, Known(), accepted=True)
    return found._replace(trial=TrialOf(search.id, None, best.choices))


def _on_all(spec: Mapping[str, Any], trial: Job) -> Mapping[str, Any]:
    """The spec for the samples of training and validation together, up to the best epoch of the trial. With folds the
    spec does not change, except that it is tested: a job with folds ends with a model of all samples anyway."""
    found = with_value(spec, ["data", "split", "evaluate_test"], True)
    if value(trial.spec, "data.split.folds") is not None:
        return found
    task = stored(trial.spec).task
    is_by_place = isinstance(task, NextStep) and bool(task.joined)
    if is_by_place or (isinstance(task, Forecast) and value(trial.spec, "data.split.method") == "time"):
        found = with_value(found, ["data", "split", "validation"], 0.0)  # the test is the end of it in any case
    else:
        found = with_value(found, ["data", "split", "train_on_validation"], True)
    changed = {"epochs": max(1, int((trial.result or {})["best_epoch"])), "early_stopping": None, "keep": "last"}
    for name, each in changed.items():
        found = with_value(found, ["training", name], each)
    return with_value(found, ["training", "best_by"], "loss")
