"""/v1/jobs/{id}/stream and /v1/stream: what happens to a job, and to all jobs of a tenant, as server-sent events."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from threading import Lock
from typing import Any

from flask import Flask, Response, current_app, request

from api import auth, openapi, schemas, streams
from api.resources.events import described, described_line
from api.resources.jobs import document_of, identified
from api.service import Service, current
from api.streams import Turn, message
from services import db
from services.jobs import changes, queries
from services.jobs.changes import Cursor, News, Place
from services.jobs.events import Type
from services.states import TERMINAL

api = openapi.blueprint("streams", __name__, prefix="/v1", about="What happens, as server-sent events.")

HEADERS = {"X-Accel-Buffering": "no"}
"""A proxy must not hold messages back."""
MOST_MISSED = 1000
"""Events after which a client that comes back has to read the lists again."""
ANSWERS: Any = {
    "200": openapi.files("Server-sent events, for as long as there may be more.", streams.MEDIA_TYPE),
    "204": {"description": "There is nothing after `Last-Event-ID`, and never will be."},
}


class JobReader:
    """Reads what is new of a job as the messages of a stream, from `cursor` on."""

    def __init__(self, app: Flask, job_id: str, tenant: str, cursor: Cursor) -> None:
        self.job_id: str | None = job_id
        self.tenant, self.cursor = tenant, cursor
        self._app, self._id, self._has_begun = app, job_id, False

    @property
    def revision(self) -> int:
        return self.cursor.revision

    def notice(self, job_ids: Collection[str]) -> None:
        """Nothing: its revision says whether the job has changed."""

    def read(self) -> Turn:
        service: Service = self._app.extensions["loopline"]
        if not self._has_begun:  # what was read before may be old by now
            self._has_begun = True
            return self._read(service)[0]
        place = (self.tenant, self._id, self.cursor)
        turn, self.cursor = service.streams.shared.read(place, lambda: self._read(service))
        return turn

    def _read(self, service: Service) -> tuple[Turn, Cursor]:
        with db.read_scope(service.engine) as session:
            news = changes.of_job(session, self._id, self.cursor, tenant=self.tenant)
        with self._app.app_context():
            text = b"".join(self._messages(news))
        ended = news.job.status in TERMINAL and not news.more
        if ended:
            text += message("end", self.cursor, openapi.dumps({"status": news.job.status}))
        return Turn(text, news.more, ended), self.cursor

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


class JobsReader:
    """Reads the changes of state of a tenant's jobs from `place` on, and how far those that run have got."""

    job_id: str | None = None
    revision = 0

    def __init__(self, app: Flask, tenant: str, place: Place | None) -> None:
        self.tenant, self._app = tenant, app
        self._engine = app.extensions["loopline"].engine
        newest = changes.newest(self._engine)
        self.is_complete = place is None or abs(newest.event - place.event) <= MOST_MISSED
        """Whether nothing is missing since `place`."""
        self.place = place if place is not None and self.is_complete else newest
        self._noticed = {row.id for row in changes.running(self._engine, [tenant])}
        self._lock = Lock()

    def begin(self) -> Turn:
        """The first message; the rest comes at once."""
        return Turn(self._message("ready", {"complete": self.is_complete}), more=True)

    def notice(self, job_ids: Collection[str]) -> None:
        with self._lock:
            self._noticed |= set(job_ids)

    def read(self) -> Turn:
        with self._lock:
            jobs, self._noticed = self._noticed, set()
        told = changes.events_after(self._engine, self.place)
        parts = []
        for row, self.place in told:
            if row.tenant == self.tenant and row.type == Type.STATUS:
                jobs.add(row.job_id)
                parts.append(self._message("state", {"job_id": row.job_id, **described(row).model_dump(mode="json")}))
        if jobs:
            found = queries.some(self._engine, jobs, tenant=self.tenant)
            with self._app.app_context():
                documents = [document_of(job, found.positions.get(job.id), full=False) for job in found.rows]
            parts += [self._message("job", document) for document in documents]
        return Turn(b"".join(parts), more=len(told) == changes.MOST_ROWS)

    def _message(self, name: str, content: openapi.Answered) -> bytes:
        return message(name, self.place, openapi.dumps(content))


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


@api.get("/stream", operation_id="streamJobs", responses={"200": ANSWERS["200"]})
def of_tenant(header: schemas.StreamHeader) -> Response:
    """Follow all jobs

    The answer stays open, and sends each change of state of your jobs (`state`), and how far those that run have got
    (`job`), as server-sent events. It begins now, or after `Last-Event-ID`. Its first message, `ready`, says whether it
    is complete: if too much has happened since that id, read the lists again. 503 if too many streams are open.
    """
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    place = Place.parse(header.last_event_id) if header.last_event_id else None
    reader = JobsReader(app, auth.tenant(), place)
    return _opened(reader, reader.begin())


def _opened(reader: streams.Reader, first: Turn) -> Response:
    wake = request.environ.get(streams.WAKE)
    body = current().streams.open(auth.holder(), reader, first, check=auth.still_valid(), wake=wake)
    request.environ[streams.STREAM] = True
    response = Response(body, content_type=f"{streams.MEDIA_TYPE}; charset=utf-8", headers=HEADERS)
    response.call_on_close(body.close)
    return response
