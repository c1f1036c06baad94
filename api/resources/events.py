"""/v1/jobs/{id}/events and /logs: what happened to a job, and the log lines of its trainers."""

from __future__ import annotations

from flask import Response, request

from api import auth, openapi, schemas
from api.resources.jobs import identified
from api.service import current
from services import db
from services.jobs import control, events
from services.orm import Event, LogLine

api = openapi.blueprint("events", __name__, prefix="/v1/jobs", about="What happened to a job, and what it said.")

PLAIN = "text/plain"


@api.get("/<job_id>/events", operation_id="listEvents", responses={200: schemas.EventList, **openapi.problems(404)})
def index(path: schemas.JobPath, query: schemas.EventsQuery) -> Response:
    """List the events of a job, in the order they happened

    Events are changes of state, checkpoints, retries, requests and warnings.
    """
    with db.read_scope(current().engine) as session:
        control.revision(session, identified(path.job_id), tenant=auth.tenant())
        rows, more = events.page(session, path.job_id, after=query.after, limit=query.limit)
    return openapi.answer(schemas.EventList(data=[described(row) for row in rows], has_more=more))


@api.get("/<job_id>/logs", operation_id="listLogLines", responses={200: schemas.LogLineList, **openapi.problems(404)})
def logs(path: schemas.JobPath, query: schemas.LogsQuery) -> Response:
    """List the log lines of a job, ascending

    With `Accept: text/plain` the answer is plain text. The service keeps the newest 2,000 lines.
    """
    with db.read_scope(current().engine) as session:
        control.revision(session, identified(path.job_id), tenant=auth.tenant())
        rows, more = events.lines(session, path.job_id, after=query.after, limit=query.limit)
    found = [described_line(row) for row in rows]
    vary = {"Vary": "Accept"}
    if request.accept_mimetypes.best_match(["application/json", PLAIN]) != PLAIN:
        return openapi.answer(schemas.LogLineList(data=found, has_more=more), headers=vary)
    if more:
        vary["Link"] = f'<{api.url_prefix}/{path.job_id}/logs?after={found[-1].number}&limit={query.limit}>; rel="next"'
    return Response("".join(map(_plain, found)), headers=vary, content_type="text/plain; charset=utf-8")


def _plain(line: schemas.LogLine) -> str:
    return f"{line.at:%Y-%m-%dT%H:%M:%SZ} {line.level:<7} {line.text}\n"


def described(row: Event) -> schemas.Event:
    """The event as clients see it."""
    return schemas.Event.model_validate(
        {
            "id": row.id,
            "at": schemas.moment(row.at),
            "type": row.type,
            "level": row.level,
            "attempt": row.attempt,
            "worker": row.worker,
            "from_status": row.from_status,
            "to_status": row.to_status,
            "reason": row.reason,
            "message": row.message,
            "data": row.data,
        }
    )


def described_line(row: LogLine) -> schemas.LogLine:
    """The log line as clients see it."""
    return schemas.LogLine.model_validate(
        {
            "number": row.number,
            "at": schemas.moment(row.at),
            "attempt": row.attempt,
            "level": row.level,
            "text": row.text,
        }
    )
