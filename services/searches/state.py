"""The state of a search: its row, held while it is changed, and its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services.db import now
from services.errors import SearchNotFound
from services.orm import Job, Search
from services.searches import final, queries
from services.searches.trials import of_search
from services.states import TERMINAL, SearchStatus, Status
from services.text import clean
from services.webhooks import news
from services.webhooks.news import News, moment

ENDED = (SearchStatus.SUCCEEDED, SearchStatus.FAILED, SearchStatus.CANCELLED)


def locked(session: Session, search_id: str, *, tenant: str | None = None, skip_locked: bool = False) -> Search:
    """The search, which nobody else changes until this transaction ends.

    Raises:
        SearchNotFound: there is none, or it is another tenant's; or another transaction holds it, with `skip_locked`.
    """
    query = select(Search).where(Search.id == search_id).with_for_update(skip_locked=skip_locked)
    search = session.scalar(query, execution_options={"populate_existing": True})
    if search is None or (tenant is not None and search.tenant != tenant):
        raise SearchNotFound(f"There is no search {clean(search_id, 100)}.")
    return search


def change(search: Search, **values: Any) -> None:
    """Change a search that this transaction holds."""
    for name, value in values.items():
        setattr(search, name, value)
    search.revision = Search.revision + 1


def going_on(session: Session, search_id: str) -> Sequence[str]:
    """The ids of its jobs that wait, run or are paused, oldest first."""
    query = select(Job.id).where(Job.search_id == search_id, queries.goes_on())
    return session.scalars(query.order_by(Job.id)).all()


def end(session: Session, search: Search) -> bool:
    """End a search that this transaction holds and that makes no more jobs, and announce it, unless a job of it goes
    on; whether it ended."""
    session.flush()
    if search.status in ENDED or going_on(session, search.id):
        return False
    mine = Job.search_id == search.id
    last = session.scalar(select(func.max(Job.finished_at)).where(mine, Job.status.in_(TERMINAL)))
    best = session.scalar(select(Job.id).where(*of_search(search.id), Job.status == Status.SUCCEEDED).limit(1))
    status = SearchStatus.SUCCEEDED if best is not None else SearchStatus.FAILED
    message = _message(session, search)
    if search.cancel_requested:
        status, last, message = SearchStatus.CANCELLED, None, None
    ended_at = session.scalar(select(now())) if last is None else last
    change(search, status=status, due_at=None, ended_at=ended_at, message=message)
    session.flush()
    news.announce(session, "search.ended", search.tenant, lambda: _news(session, search))
    return True


def _message(session: Session, search: Search) -> str | None:
    """Why a search ends before all wanted trials, or without a final model that can be used."""
    said = []
    minutes: float | None = search.settings.get("minutes")
    if minutes is not None and search.made < search.trials:
        said.append(f"No time was left for another trial (minutes: {minutes:g}).")
    model = final.newest(session, search.id)
    if search.settings.get("final_refused"):
        said.append(search.message or "The final model was refused.")
    elif model is not None and model.status == Status.FAILED:
        said.append(f"The final model failed: {model.message or model.reason}")
    elif model is not None and model.status == Status.CANCELLED:
        said.append("The final model was cancelled.")
    return " ".join(said) or None


def _news(session: Session, search: Search) -> News:
    found = queries.detail(session, search)
    data = {
        "id": search.id,
        "name": search.name,
        "status": search.status,
        "metric": search.settings["metric"],
        "trials": search.made,
        "counts": {**found.counts},
        "best": found.best and found.best._asdict(),
        "created_at": moment(search.created_at),
        "ended_at": moment(search.ended_at),
        "links": {"self": f"/v1/searches/{search.id}"},
    }
    return News(search.ended_at or 0.0, data, [search.id], [search.document.get("tags") or {}])
