"""The final model of a search: the best trial's spec, trained once more on all but the test part, and tested once.

It is a job of the search without a number. If trials are added later and another one is the best then, there is another
final model; the newest one counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.errors import SpecInvalid
from services.jobs.control import TrialOf, Wanted
from services.jobs.matrix import value, with_value
from services.jobs.submission import Known
from services.orm import Job, Search
from services.searches import checking, queries
from services.searches.queries import Best
from services.training.spec import Spec


def newest(session: Session, search_id: str) -> Job | None:
    """The final model's job, if one was made."""
    query = select(Job).where(Job.search_id == search_id, Job.trial.is_(None)).order_by(Job.id.desc()).limit(1)
    return session.scalar(query)


def missing(session: Session, search: Search) -> Best | None:
    """The best trial, if its final model is wanted and was not made."""
    if not search.settings.get("final") or search.cancel_requested:
        return None
    best = queries.detail(session, search).best
    made = newest(session, search.id)
    return None if best is None or (made is not None and made.choices == best.choices) else best


def wanted(session: Session, search: Search, best: Best, spec: Mapping[str, Any]) -> Wanted[Spec]:
    """The job of the final model; `spec` is the best trial's, as its document has it.

    Raises:
        SpecInvalid, DatasetValidating, DatasetNotFound: its data set cannot be used any more.
    """
    trial = session.get_one(Job, best.job_id)
    for document in (_on_all(spec, trial), with_value(spec, ["data", "split", "evaluate_test"], True)):
        try:
            found = checking.fitted(session, document, {}, search.tenant, Known(), accepted=True)
        except SpecInvalid as error:  # a given split, or one by time, may need its validation part
            last = error
        else:
            return found._replace(trial=TrialOf(search.id, None, best.choices))
    raise last


def _on_all(spec: Mapping[str, Any], trial: Job) -> Mapping[str, Any]:
    """The spec without a validation part, trained for as many epochs as were best."""
    split = {**(value(spec, "data.split") or {}), "validation": 0.0, "folds": None, "evaluate_test": True}
    found = with_value(spec, ["data", "split"], split)
    found = with_value(found, ["training", "epochs"], max(1, int((trial.result or {})["best_epoch"])))
    found = with_value(found, ["training", "early_stopping"], None)
    return with_value(found, ["training", "best_by"], "loss")
