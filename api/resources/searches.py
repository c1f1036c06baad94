"""/v1/searches: find the best values of some fields of a spec, by training one job after the other."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from flask import Response, g
from sqlalchemy.orm import Session

from api import auth, bodies, openapi, polling, schemas
from api.polling import Seen
from api.resources.jobs import foreseen, silent_since
from api.service import current
from services import db, faults
from services.errors import SearchNotFound
from services.idempotency import Key
from services.orm import Search
from services.searches import advice, control, dry_runs, queries, state
from services.searches.queries import Final, Row
from services.searches.reading import Section
from services.states import TERMINAL
from services.training.measures import recorded

api = openapi.blueprint("searches", __name__, prefix="/v1/searches", about="Searches for the best values of a spec.")

SEARCH_ID = re.compile(r"search_[0-9a-hjkmnp-tv-z]{26}")

log = logging.getLogger(__name__)

_BODY = {
    "required": True,
    "content": {
        media: {
            "schema": {
                "type": "object",
                "required": ["data", "search"],
                "properties": {"search": Section.model_json_schema()},
                "description": "A spec with a `search` beside its fields.",
            },
            "examples": {"search": {"summary": "Three fields of a spec", "value": schemas.SEARCH_EXAMPLE}},
        }
        for media in ("application/json", "application/yaml")
    },
}


@api.post(
    "",
    operation_id="submitSearch",
    request_body=_BODY,
    responses={201: schemas.Search, 200: schemas.SearchDryRun, **openapi.problems(409, 413, 415)},
)
def submit(header: schemas.SubmitHeader, query: schemas.SubmitQuery) -> Response:
    """Submit a search

    The body, JSON or YAML, is a spec with a `search` beside its fields. The service checks the spec with the values of
    the space at once, also against its data set; a 422 names every problem. The first trial is queued within a second.
    With `dry_run=true` nothing is submitted: the answer says what a submission would do.
    """
    if query.dry_run:
        return _foreseen()
    document, fingerprint = bodies.document()
    scope = f"{auth.tenant()} POST /v1/searches"
    key = Key(scope, header.idempotency_key, fingerprint) if header.idempotency_key else None
    with bodies.one_of_few(), db.session_scope(current().engine) as session:
        search, replayed = control.submit(session, document, key=key, request_id=g.request_id, tenant=auth.tenant())
        if not replayed:
            auth.note(session, "search.submit", search.id)
        answer = _answer(session, search, 201)
    if not replayed:
        log.info("%s: submitted, %d trials", search.id, search.trials)
    answer.headers["Location"] = f"{api.url_prefix}/{search.id}"
    return _replayed(answer, replayed)


@api.post(
    "/dry-run",
    operation_id="dryRunSearch",
    request_body=_BODY,
    responses={200: schemas.SearchDryRun, **openapi.problems(409, 413, 415)},
)
def dry_run() -> Response:
    """Say what a submission of a search would do

    This is `POST /v1/searches?dry_run=true` under a path of its own, which a service of an older version rejects with
    405.
    """
    return _foreseen()


def _foreseen() -> Response:
    document, _ = bodies.document()
    with bodies.one_of_few(), db.read_scope(current().engine) as session:
        found = dry_runs.of_search(session, document, auth.tenant())
    trial = foreseen(found.trial)
    plain = {field.name: getattr(found, field.name) for field in fields(found)}
    return openapi.answer({**plain, "object": "search_dry_run", "name": trial["name"], "trial": trial})


@api.get("", operation_id="listSearches", responses={200: schemas.SearchList})
def index(query: schemas.PageQuery) -> Response:
    """List searches, newest first, without their trials"""
    with db.read_scope(current().engine) as session:
        rows, more = queries.page(session, limit=query.limit, after=query.after, tenant=auth.tenant())
        summaries = queries.summaries(session, rows)
    data = [_summarised(search, summaries[search.id].counts) for search in rows]
    return openapi.answer({"object": "list", "data": data, "has_more": more})


@api.get(
    "/<search_id>",
    operation_id="getSearch",
    responses={200: schemas.Search, **openapi.NOT_MODIFIED, **openapi.problems(404)},
)
def show(path: schemas.SearchPath, query: schemas.JobQuery) -> Response:
    """Get a search and its trials, or wait until they change

    `wait` and `If-None-Match` work as for a job: the answer comes as soon as the search or a trial differs from the
    `ETag`, or without an `ETag` as soon as the search has ended.
    """
    _identified(path.search_id)
    tenant, engine = auth.tenant(), current().engine

    def look() -> Seen:
        with db.read_scope(engine) as session:
            search = queries.get(session, path.search_id, tenant=tenant)
            return Seen(queries.summaries(session, [search])[search.id].revision, search.ended_at is not None)

    if (same := polling.not_modified(look, query.wait)) is not None:
        return same
    with db.read_scope(engine) as session:
        return _answer(session, queries.get(session, path.search_id, tenant=tenant), 200)


@api.post("/<search_id>/cancel", operation_id="cancelSearch", responses={202: schemas.Search, **openapi.problems(404)})
def cancel(path: schemas.SearchPath) -> Response:
    """Cancel a search

    It makes no more trials. Trials that wait are cancelled at once, and those that run are asked to stop. A search that
    has ended does not change.
    """
    return _changed(path, control.cancel, "search.cancel")


@api.post(
    "/<search_id>/pause", operation_id="pauseSearch", responses={202: schemas.Search, **openapi.problems(404, 409)}
)
def pause(path: schemas.SearchPath) -> Response:
    """Pause a search

    It makes no more trials, and its trials are paused as jobs are. 409 if it has ended.
    """
    return _changed(path, control.pause, "search.pause")


@api.post(
    "/<search_id>/resume", operation_id="resumeSearch", responses={202: schemas.Search, **openapi.problems(404, 409)}
)
def resume(path: schemas.SearchPath) -> Response:
    """Resume a paused search and its trials

    409 if it has ended: add trials to let it go on.
    """
    return _changed(path, control.resume, "search.resume", rings=True)


@api.post(
    "/<search_id>/trials",
    operation_id="addTrials",
    request_body={
        "required": True,
        "content": {"application/json": {"schema": schemas.MoreTrials.model_json_schema(), "example": {"more": 20}}},
    },
    responses={202: schemas.Search, **openapi.problems(404, 409, 413, 415)},
)
def add(path: schemas.SearchPath, header: schemas.SubmitHeader) -> Response:
    """Add trials to a search

    A search that has ended goes on. A paused one stays paused.
    """
    search_id = _identified(path.search_id)
    wanted = bodies.wanted(schemas.MoreTrials, "These trials cannot be added.")
    fingerprint = hashlib.sha256(f"{search_id} {wanted.more}".encode()).hexdigest()
    scope = f"{auth.tenant()} POST /v1/searches/trials"
    key = Key(scope, header.idempotency_key, fingerprint) if header.idempotency_key else None
    with db.session_scope(current().engine) as session:
        search, replayed = control.add(session, search_id, wanted.more, key=key, tenant=auth.tenant())
        if not replayed:
            auth.note(session, "search.add", search.id)
        answer = _answer(session, search, 202)
    return _replayed(answer, replayed)


def _changed(path: schemas.SearchPath, act: Callable[..., Search], action: str, *, rings: bool = False) -> Response:
    with db.session_scope(current().engine) as session:
        search = act(session, _identified(path.search_id), tenant=auth.tenant())
        auth.note(session, action, search.id)
        queues = control.queues(session, search.id) if rings else []
        answer = _answer(session, search, 202)
    faults.point("bell.due")
    for queue in queues:
        current().bell.ring(queue)
    return answer


def _identified(search_id: str) -> str:
    """The id, if it could be one: nothing else reaches the database."""
    if not SEARCH_ID.fullmatch(search_id):
        raise SearchNotFound(f"There is no search {search_id if len(search_id) <= 100 else search_id[:100] + '…'!r}.")
    return search_id


def _replayed(answer: Response, replayed: bool) -> Response:
    if replayed:
        answer.headers["Idempotency-Replayed"] = "true"
    return answer


def _answer(session: Session, search: Search, status: int) -> Response:
    found = queries.detail(session, search)
    best = found.best and {**found.best._asdict(), "links": {"self": f"/v1/jobs/{found.best.job_id}"}}
    resource = {
        **_summarised(search, found.counts),
        "best": best,
        "final": found.final and {**_heard(found.final), "links": {"self": f"/v1/jobs/{found.final.job_id}"}},
        "trials": [_row(row) for row in found.rows],
        "importance": [each._asdict() for each in found.importance],
        "advice": advice.of(session, search, found),
        "document": search.document,
    }
    return openapi.answer(resource, status, Seen(found.revision, search.ended_at is not None).headers)


def _row(row: Row) -> dict[str, Any]:
    terminal = row.status in TERMINAL or row.status == queries.REFUSED
    return {**_heard(row), "terminal": terminal, "links": row.job_id and {"self": f"/v1/jobs/{row.job_id}"}}


def _heard(row: Row | Final) -> dict[str, Any]:
    """The row with `silent_since` in the place of its lease."""
    plain = row._asdict()
    del plain["lease_until"], plain["asked_at"]
    return {**plain, "silent_since": schemas.moment_or_none(silent_since(row, current().settings))}


def _summarised(search: Search, counts: Mapping[str, int]) -> dict[str, Any]:
    self = f"{api.url_prefix}/{search.id}"
    settings = {name: each for name, each in search.settings.items() if name in schemas.SearchSettings.model_fields}
    return {
        "object": "search",
        "id": search.id,
        "name": search.name,
        "status": search.status,
        "terminal": search.status in state.ENDED,
        "message": search.message,
        "cancel_requested": search.cancel_requested,
        "wanted": search.trials,
        "made": search.made,
        "parallel": search.parallel,
        "counts": counts,
        "settings": {**settings, "higher_is_better": recorded(search.settings["metric"]).higher_is_better},
        "created_at": schemas.moment(search.created_at),
        "ended_at": schemas.moment_or_none(search.ended_at),
        "links": {"self": self, **{verb: f"{self}/{verb}" for verb in ("cancel", "pause", "resume", "trials")}},
    }
