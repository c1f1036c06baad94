"""/v1/jobs/{id}/stream: what happens to a job, as server-sent events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, current_app, request

from api import auth, openapi, schemas, streams
from api.resources.events import described, described_line
from api.resources.jobs import document_of, identified
from api.service import Service, current
from api.streams import Turn, message
from services import db
from services.jobs import changes, queries
from services.jobs.changes import Cursor, News
from services.states import TERMINAL

api = openapi.blueprint("streams", __name__, prefix="/v1", about="What happens, as server-sent events.")

HEADERS = {"X-Accel-Buffering": "no"}
"""A proxy must not hold messages back."""
ANSWERS: Any = {
    "200": openapi.files("Server-sent events, for as long as there may be more.", streams.MEDIA_TYPE),
    "204": {"description": "There is nothing after `Last-Event-ID`, and never will be."},
}


class JobReader:
    """Reads what is new of a job as the messages of a stream, from `cursor` on."""

    def __init__(self, app: Flask, job_id: str, tenant: str, cursor: Cursor) -> None:
        self.job_id, self.cursor = job_id, cursor
        self._app, self._tenant = app, tenant

    @property
    def revision(self) -> int:
        return self.cursor.revision

    def read(self) -> Turn:
        service: Service = self._app.extensions["loopline"]
        with db.read_scope(service.engine) as session:
            news = changes.of_job(session, self.job_id, self.cursor, tenant=self._tenant)
        with self._app.app_context():
            text = b"".join(self._messages(news))
        ended = news.job.status in TERMINAL and not news.more
        if ended:
            text += message("end", self.cursor, openapi.dumps({"status": news.job.status}))
        return Turn(text, news.more, ended)

    def _messages(self, news: News) -> Iterator[bytes]:
        """Each with the cursor of a reader that has it and those before it."""
        if news.job.revision != self.cursor.revision:
            self.cursor = self.cursor._replace(revision=news.job.revision)
            yield self._message("job", document_of(news.job, queries.position(news.job), full=False))
        for event in news.events:
            self.cursor = self.cursor.after_event(event)
            yield self._message("event", described(event))
        for line in news.lines:
            self.cursor = self.cursor._replace(line=line.number)
            yield self._message("line", described_line(line))
        if (steps := news.steps).step:
            self.cursor = self.cursor._replace(step=steps.step[-1])
            numbers = {"step": steps.step, "loss": steps.loss, "grad_norm": steps.grad_norm, "fold": steps.fold}
            yield self._message("steps", {"object": "steps", **numbers, "total": steps.total})
        for record in news.epochs:
            self.cursor = self.cursor._replace(epoch=record["epoch"])
            yield self._message("epoch", record)

    def _message(self, name: str, content: openapi.Answered) -> bytes:
        return message(name, self.cursor, openapi.dumps(content))


@api.get("/jobs/<job_id>/stream", operation_id="streamJob", responses={**ANSWERS, **openapi.problems(404)})
def of_job(path: schemas.JobPath, query: schemas.JobStreamQuery, header: schemas.StreamHeader) -> Response:
    """Follow a job

    The answer stays open, and sends what happens to the job as server-sent events until the job has ended: `job`,
    `event`, `line`, `steps`, `epoch`, and `end`. It begins with all that has happened so far, or after the rows that
    the parameters name, or after `Last-Event-ID`. 503 if too many streams are open: poll the job then.
    """
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    given = header.last_event_id
    cursor = Cursor.parse(given) if given else Cursor(0, query.event, query.line, query.epoch, query.step)
    reader = JobReader(app, identified(path.job_id), auth.tenant(), cursor)
    first = reader.read()
    if given and first.ended and reader.cursor == cursor:
        return Response(status=204)
    return _opened(reader, first)


def _opened(reader: streams.Reader, first: Turn) -> Response:
    wake = request.environ.get(streams.WAKE)
    body = current().streams.open(auth.holder(), reader, first, check=auth.still_valid(), wake=wake)
    request.environ[streams.STREAM] = True
    response = Response(body, content_type=f"{streams.MEDIA_TYPE}; charset=utf-8", headers=HEADERS)
    response.call_on_close(body.close)
    return response
