"""Makes the trials of searches: the scheduler's part.

`due` reads without a lock. For each search found, `advance` does one thing: it makes a trial or the final model, or
pauses or ends the search. The suggestion takes long. So it is computed from a snapshot before the transaction. The
transaction locks the search's row and checks again: if anything has changed, it does nothing, and the next look starts
again. So any number of schedulers may run, and one that dies at any moment has done all of it or nothing. A unique
index also ensures that each number has one trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db, faults
from services.db import now
from services.errors import DatasetNotFound, DatasetValidating, QuotaExceeded, SearchNotFound, SpecInvalid
from services.jobs import control
from services.jobs.control import Created, TrialOf
from services.jobs.matrix import MAX_NAME, value, with_value
from services.jobs.submission import Known
from services.orm import Job, Search
from services.searches import checking, final, queries, reading, state, trials
from services.searches.queries import Best
from services.searches.space import Choices, spec_of
from services.searches.trials import Trial
from services.states import SearchStatus
from services.text import clean
from services.training.measures import recorded

WAIT_SECONDS = 10.0
"""Until a search that has to wait, for example because of a quota, is looked at again."""
LOOK_SECONDS = 3.0
"""Until a search whose time is over is looked at again while its last jobs go on."""
MOST_FAILED = 20
"""A search that is not a grid is paused after so many trials in a row that failed or were refused: something else is
wrong."""
MOST_PROBLEMS = 3
MOST_LETTERS = 300
"""Of a problem of a refused trial."""


class Did(StrEnum):
    """What was done about a search."""

    NOTHING = "nothing"
    MADE = "made"
    REFUSED = "refused"
    WAITS = "waits"
    PAUSED = "paused"
    ENDED = "ended"


class Step(NamedTuple):
    """What was done about a search, and about which of its trials."""

    did: Did
    trial: int = 0
    """0 for the final model."""
    job: Created | None = None
    """The job of the trial or of the final model, if one was made. The doorbell of its queue must be rung."""
    message: str | None = None


NOTHING = Step(Did.NOTHING)


def due(session: Session) -> Sequence[str]:
    """Searches that may have something to do, those first that have waited longest."""
    return session.scalars(due_statement()).all()


def due_statement() -> sa.Select[str]:
    """It reads an index of the searches that go on, and an index of their jobs that go on."""
    many = select(func.count()).where(Job.search_id == Search.id, queries.goes_on()).scalar_subquery()
    has_room = sa.and_(Search.made < Search.trials, many < Search.parallel, sa.not_(Search.cancel_requested))
    query = select(Search.id).where(Search.due_at.is_not(None), Search.due_at <= now(), sa.or_(many == 0, has_room))
    return query.order_by(Search.due_at, Search.id)


def advance(engine: Engine, search_id: str) -> Step:
    """Make the next trial of a search, or end it, if that is due.

    Raises:
        Unavailable: the database cannot answer.
    """
    with db.read_scope(engine) as session:
        seen = session.get(Search, search_id)
        if seen is None:
            return NOTHING
        room, before = _has_room(session, seen), trials.standing(session, seen)
        known = trials.history(session, seen) if room else []
    choices = _suggested(seen, known) if room else None
    with db.session_scope(engine) as session:
        try:
            search = state.locked(session, search_id, skip_locked=True)
        except SearchNotFound:  # another scheduler has it
            return NOTHING
        if search.due_at is None:
            return NOTHING
        if choices is not None and _has_room(session, search) and trials.standing(session, search) == before:
            is_grid = search.settings["algorithm"] == "grid"
            if not is_grid and (reason := trials.failing(session, search, MOST_FAILED)) is not None:
                return _pause(search, reason)
            step = _make(session, search, choices)
            faults.point("trial.written")
            return step
        if not _is_over(session, search):
            _look_later(session, search)
            return NOTHING
        is_refused = search.settings.get("final_refused", False)
        if not is_refused and (best := final.missing(session, search)) is not None:
            return _make_final(session, search, best)
        return Step(Did.ENDED, message=search.status) if state.end(session, search) else NOTHING


def _has_room(session: Session, search: Search) -> bool:
    if search.cancel_requested or not _wants_more(session, search):
        return False
    return len(state.going_on(session, search.id)) < search.parallel


def _wants_more(session: Session, search: Search) -> bool:
    """Whether another trial is wanted, and there seems to be time for it. The first one is made in any case."""
    if search.made == 0:
        return True
    return search.made < search.trials and not trials.time_is_over(session, search)


def _look_later(session: Session, search: Search) -> None:
    """Keep a search from being due at each look, if it has no time for its other trials and its last jobs go on."""
    is_due = search.made < search.trials and len(state.going_on(session, search.id)) < search.parallel
    if is_due and not _wants_more(session, search):
        search.due_at = now() + LOOK_SECONDS


def _is_over(session: Session, search: Search) -> bool:
    """Whether no job of it goes on, and it makes no more trials."""
    is_enough = search.cancel_requested or not _wants_more(session, search)
    return is_enough and not state.going_on(session, search.id)


def _suggested(search: Search, known: Sequence[Trial]) -> Choices:
    from services.searches import suggesting  # which imports Optuna

    settings = search.settings
    if search.made == 0 and settings.get("first") is not None:
        return settings["first"]  # type: ignore[no-any-return]
    space, problems = reading.read_space(settings["space"], {})
    if space is None:
        raise SpecInvalid(problems)
    return suggesting.suggest(
        space,
        known,
        search.made + 1,
        algorithm=settings["algorithm"],
        seed=settings["seed"],
        higher_is_better=recorded(settings["metric"]).higher_is_better,
    )


def _make(session: Session, search: Search, choices: Choices) -> Step:
    """Make a job of a trial with these choices; or record that the rules refuse it, or that it has to wait."""
    number = search.made + 1
    try:
        with db.savepoint(session):
            base = _base(search, choices, number)
            wanted = checking.fitted(session, base, {}, search.tenant, Known(), accepted=True)
            wanted = wanted._replace(trial=TrialOf(search.id, number, choices))
            [job] = control.create_all(session, [wanted], request_id=search.request_id, tenant=search.tenant)
    except SpecInvalid as error:
        return _refuse(search, number, choices, error)
    except (QuotaExceeded, DatasetValidating, DatasetNotFound) as error:
        if search.message != error.message:
            state.change(search, message=error.message)
        search.due_at = now() + WAIT_SECONDS
        return Step(Did.WAITS, number, message=error.message)
    state.change(search, made=number, message=None)
    return Step(Did.MADE, number, job)


def _base(search: Search, choices: Choices, number: int) -> Mapping[str, Any]:
    """The spec of a trial, with the versions of data sets that the search began with, and a name of its own."""
    document = search.settings.get("base") or search.document
    spec = spec_of({key: each for key, each in document.items() if key != "search"}, choices)
    dataset = value(spec, "data.dataset")
    if isinstance(dataset, str):
        spec = with_value(spec, ["data", "dataset"], search.settings["datasets"].get(dataset, dataset))
    if search.settings.get("final"):
        spec = with_value(spec, ["data", "split", "evaluate_test"], False)
    if "name" not in choices:
        spec["name"] = _named(search, number)
    return spec


def _make_final(session: Session, search: Search, best: Best) -> Step:
    """Make the job of the final model. If its data set is gone, the search ends without one, until trials are added."""
    spec = _base(search, best.choices, best.trial)
    try:
        with db.savepoint(session):
            found = final.wanted(session, search, best, {**spec, "name": _named(search, "final")})
            [job] = control.create_all(session, [found], request_id=search.request_id, tenant=search.tenant)
    except (SpecInvalid, DatasetNotFound) as error:
        why = str(error.problems[0]) if isinstance(error, SpecInvalid) else error.message
        message = clean(f"The final model was refused: {why}", MOST_LETTERS)
        state.change(search, settings={**search.settings, "final_refused": True}, message=message)
        return Step(Did.REFUSED, message=message)
    except (QuotaExceeded, DatasetValidating) as error:
        if search.message != error.message:
            state.change(search, message=error.message)
        search.due_at = now() + WAIT_SECONDS
        return Step(Did.WAITS, message=error.message)
    state.change(search, message=None)
    return Step(Did.MADE, job=job)


def _named(search: Search, what: object) -> str:
    ending = f"[{what}]"
    return f"{(search.name or '')[: MAX_NAME - len(ending)]}{ending}"


def _refuse(search: Search, number: int, choices: Choices, error: SpecInvalid) -> Step:
    problems = [clean(str(problem), MOST_LETTERS) for problem in error.problems[:MOST_PROBLEMS]]
    refused = [*search.refused, {"trial": number, "choices": dict(choices), "problems": problems}]
    state.change(search, made=number, refused=refused)
    return Step(Did.REFUSED, number, message=problems[0])


def _pause(search: Search, reason: str) -> Step:
    """Pause a search whose last trials have all failed, for the reason of the last one."""
    message = f"The last {MOST_FAILED} trials failed or were refused, so the search was paused. The last one: {reason}"
    state.change(search, status=SearchStatus.PAUSED, due_at=None, message=message)
    return Step(Did.PAUSED, search.made, message=message)
