"""What clients do with a search: submit, pause, resume and cancel it, and add trials.

Functions take the session first and never commit. `tenant=None`, which is for operators, means every tenant's searches.
The trials themselves are made by the scheduler (`advance.py`), so a submission is a row and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services import idempotency
from services.access import tenants
from services.db import now
from services.errors import IllegalMove, Invalid, JobNotFound, Problem, QuotaExceeded
from services.idempotency import Key
from services.jobs import control as jobs
from services.jobs import workers
from services.orm import Job, Search, new_id
from services.searches import automatic, checking, queries, reading, state, trials
from services.searches.automatic import Plan
from services.searches.checking import Found
from services.searches.reading import Wanted
from services.states import SearchStatus
from services.text import is_plain
from services.training.spec import Spec

MOST_GOING_ON = 100
"""Searches of one tenant that have not ended."""
MOST_BY_DEFAULT = 4
"""Trials at once. The more there are, the fewer results each suggestion is based on."""


class Submitted(NamedTuple):
    """A search, and whether an earlier request with the same Idempotency-Key had made the change."""

    search: Search
    replayed: bool


def submit(
    session: Session,
    document: Mapping[str, Any],
    *,
    key: Key | None = None,
    request_id: str | None = None,
    tenant: str = tenants.DEFAULT,
) -> Submitted:
    """The search that the document asks for: a new one, or the one that an earlier request with this key made.

    Raises:
        SpecInvalid: with every problem of the spec, its data and the space.
        DatasetValidating: a data set is still being checked.
        QuotaExceeded: the tenant has as many searches as it may.
        IdempotencyConflict, IdempotencyInFlight: as `idempotency.claim`.
    """
    if key is not None and (earlier := idempotency.claim(session, key)) is not None:
        return Submitted(queries.get(session, earlier, tenant=tenant), replayed=True)
    wanted, opened = wanted_of(session, document, tenant)
    found = checking.check(session, wanted, tenant)
    check_room(session, tenant)
    name = document.get("name")
    search = Search(
        id=new_id("search"),
        tenant=tenant,
        name=name if isinstance(name, str) and is_plain(name) else None,
        document=dict(document),
        settings=_settings(wanted, found, opened),
        status=SearchStatus.RUNNING,
        parallel=parallel_of(session, wanted),
        trials=wanted.trials,
        refused=[],
        due_at=now(),
        created_at=now(),
        request_id=request_id,
    )
    session.add(search)
    session.flush()
    session.refresh(search)
    if key is not None:
        idempotency.settle(session, key, search.id)
    return Submitted(search, replayed=False)


def check_room(session: Session, tenant: str) -> None:
    """Raises QuotaExceeded if the tenant has as many searches as it may."""
    count = select(func.count(Search.id)).where(Search.tenant == tenant, Search.ended_at.is_(None))
    if (session.scalar(count) or 0) >= MOST_GOING_ON:
        raise QuotaExceeded(f"A tenant has at most {MOST_GOING_ON} searches that have not ended; cancel some first.")


def wanted_of(session: Session, document: Mapping[str, Any], tenant: str) -> tuple[Wanted, Plan | None]:
    """What a document asks for, and what was chosen if it does not say what to vary. Raises SpecInvalid,
    DatasetValidating."""
    given = document.get("search")
    if not isinstance(given, Mapping) or given.get("space") is not None:
        return reading.read(document), None
    opened = automatic.plan(session, document, tenant)
    return reading.read({**opened.base, "search": {**given, "space": opened.space}}), opened


def _settings(wanted: Wanted, found: Found, opened: Plan | None) -> dict[str, Any]:
    """The settings of a search's row."""
    section = wanted.section
    return {
        "space": dict(section.space or {}),
        "algorithm": section.algorithm,
        "metric": found.metric,
        "seed": section.seed,
        "datasets": dict(found.datasets),
        "stop_early": found.stop_early,
        "minutes": section.minutes,
        "final": section.final,
        "base": dict(opened.base) if opened else None,
        "first": dict(opened.first) if opened else None,
    }


def parallel_of(session: Session, wanted: Wanted) -> int:
    """How many trials go on at once: if the document does not say it, one for each worker that takes them."""
    if wanted.section.parallel is not None:
        return wanted.section.parallel
    return max(1, min(listening(session, wanted), MOST_BY_DEFAULT))


def listening(session: Session, wanted: Wanted) -> int:
    """How many workers take the trials."""
    return workers.listening(session, wanted.base.get("queue", Spec.model_fields["queue"].default))


def cancel(session: Session, search_id: str, *, tenant: str | None = None) -> Search:
    """Make no more trials, and cancel those that have not ended. A search that has ended stays as it is.

    Raises:
        SearchNotFound: there is none, or it is another tenant's.
    """
    search = state.locked(session, search_id, tenant=tenant)
    if search.status in state.ENDED or search.cancel_requested:
        return search
    state.change(search, cancel_requested=True, due_at=now(), message=None)
    _each_going_on(session, search, jobs.cancel)
    state.end(session, search)
    return _fresh(session, search)


def pause(session: Session, search_id: str, *, tenant: str | None = None) -> Search:
    """Make no more trials, and pause those that have not ended. A paused search stays so.

    Raises:
        SearchNotFound: there is none, or it is another tenant's.
        IllegalMove: it has ended, or is being cancelled.
    """
    search = state.locked(session, search_id, tenant=tenant)
    _check_not_ended(search, "there is nothing to pause")
    if search.status != SearchStatus.PAUSED:
        state.change(search, status=SearchStatus.PAUSED, due_at=None, message=None)
        _each_going_on(session, search, jobs.pause)
    return _fresh(session, search)


def resume(session: Session, search_id: str, *, tenant: str | None = None) -> Search:
    """Let a paused search go on, with its trials. One that is not paused stays as it is.

    Raises:
        SearchNotFound: there is none, or it is another tenant's.
        IllegalMove: it has ended, or is being cancelled.
    """
    search = state.locked(session, search_id, tenant=tenant)
    _check_not_ended(search, "add trials to let it go on")
    if search.status == SearchStatus.PAUSED:
        settings = {**search.settings, "looked_at_from": search.made}
        state.change(search, status=SearchStatus.RUNNING, due_at=now(), message=None, settings=settings)
        _each_going_on(session, search, jobs.resume)
    return _fresh(session, search)


def add(session: Session, search_id: str, more: int, *, key: Key | None = None, tenant: str | None = None) -> Submitted:
    """Want more trials. A search that has ended goes on; a paused one stays paused. One whose time is over has no
    limit of minutes from now on, and makes so many trials more than it has made.

    Raises:
        SearchNotFound: there is none, or it is another tenant's.
        Invalid: the search would have more trials than it can have.
        IdempotencyConflict, IdempotencyInFlight: as `idempotency.claim`.
    """
    search = state.locked(session, search_id, tenant=tenant)
    if key is not None and idempotency.claim(session, key) is not None:
        return Submitted(search, replayed=True)
    is_over = trials.time_is_over(session, search)
    count = search.made if is_over or _is_cut_off(search) else search.trials
    space, _ = reading.read_space(search.settings["space"], {})
    most, why = reading.most_trials(space) if space is not None else (reading.MOST_TRIALS, "")
    if count + more > most:
        detail = f"must be at most {max(0, most - count):,}, because {why} and {count:,} are wanted already"
        raise Invalid("The search cannot have so many trials.", [Problem("/more", detail)])
    settings = {**search.settings, "looked_at_from": search.made, "final_refused": False}
    if is_over:
        settings["minutes"] = None
    values = {"trials": count + more, "settings": settings, "cancel_requested": False, "ended_at": None}
    if search.status != SearchStatus.PAUSED:
        values |= {"status": SearchStatus.RUNNING, "due_at": now(), "message": None}
    state.change(search, **values)
    if key is not None:
        idempotency.settle(session, key, search.id)
    return Submitted(_fresh(session, search), replayed=False)


def _is_cut_off(search: Search) -> bool:
    """Whether it was cancelled before its minutes were over, so that it wants no more trials than it has made."""
    return search.settings.get("minutes") is not None and search.status == SearchStatus.CANCELLED


def queues(session: Session, search_id: str) -> list[str]:
    """The queues of its trials that have not ended: whose workers are to be told after a resume."""
    query = select(Job.queue).where(Job.search_id == search_id, queries.goes_on()).distinct()
    return sorted(session.scalars(query))


def _check_not_ended(search: Search, advice: str) -> None:
    if search.status in state.ENDED:
        raise IllegalMove(f"The search {search.id} has ended ({search.status}); {advice}.")
    if search.cancel_requested:
        raise IllegalMove(f"The search {search.id} is being cancelled; {advice}.")


def _each_going_on(session: Session, search: Search, act: Callable[[Session, str], Job]) -> None:
    for job_id in state.going_on(session, search.id):
        with suppress(JobNotFound, IllegalMove):  # it has ended meanwhile
            act(session, job_id)


def _fresh(session: Session, search: Search) -> Search:
    session.flush()
    session.refresh(search)
    return search
