"""/v1/batches: submit jobs together, look at them as one table, wait for them, cancel them as one."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, g

from api import auth, bodies, openapi, polling, schemas
from api.polling import Seen
from api.resources.jobs import foreseen, silent_since
from api.schemas import moment_or_none
from api.service import current
from services import db, faults
from services.errors import BatchNotFound
from services.idempotency import Key
from services.jobs import batches, dry_runs, matrix, queries
from services.jobs.batches import Summary
from services.orm import Batch
from services.states import TERMINAL, Status

api = openapi.blueprint("batches", __name__, prefix="/v1/batches", about="Jobs that are submitted together.")

BATCH_ID = re.compile(r"batch_[0-9a-hjkmnp-tv-z]{26}")

log = logging.getLogger(__name__)

_LISTED = {
    "type": "object",
    "required": ["jobs"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": matrix.MAX_NAME},
        "jobs": {"type": "array", "minItems": 1, "maxItems": matrix.MAX_JOBS, "items": {"type": "object"}},
    },
    "description": "Specs, any of which may have a `matrix`.",
}
_VARIED = {
    "type": "object",
    "required": ["data", "matrix"],
    "properties": {
        "matrix": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"type": "array", "minItems": 1},
            "description": "Dotted paths into the spec, each with its values: every combination is a job.",
        }
    },
    "description": "A spec with a `matrix` beside its fields.",
}
_BODY = {
    "required": True,
    "content": {
        media: {
            "schema": {"anyOf": [_LISTED, _VARIED]},
            "examples": {
                "matrix": {"summary": "One spec and a matrix", "value": schemas.MATRIX_EXAMPLE},
                "jobs": {"summary": "A list of specs", "value": schemas.BATCH_EXAMPLE},
            },
        }
        for media in ("application/json", "application/yaml")
    },
}


@api.post(
    "",
    operation_id="submitBatch",
    request_body=_BODY,
    responses={202: schemas.Batch, 200: schemas.DryRunList, **openapi.problems(409, 413, 415)},
)
def submit(header: schemas.SubmitHeader, query: schemas.SubmitQuery) -> Response:
    """Submit jobs together

    The body, JSON or YAML, is `{name, jobs: [spec, ...]}` or one spec with a `matrix`. The service accepts all jobs or
    none: a 422 names every problem of every job. With `dry_run=true` nothing is submitted: the answer says what a
    submission would do.
    """
    if query.dry_run:
        return _foreseen()
    document, fingerprint = bodies.document()
    scope = f"{auth.tenant()} POST /v1/batches"
    key = Key(scope, header.idempotency_key, fingerprint) if header.idempotency_key else None
    with bodies.one_of_few(), db.session_scope(current().engine) as session:
        batch, replayed = batches.submit(session, document, key=key, request_id=g.request_id, tenant=auth.tenant())
        if not replayed:
            auth.note(session, "batch.submit", batch.id)
        members = queries.members(session.connection(), batch.id)
        summary = batches.summaries(session, [batch.id])[batch.id]
    if not replayed:
        log.info("%s: submitted, %d jobs", batch.id, len(members))
        faults.point("bell.due")
        for queue in sorted({job.queue for job in members}):
            current().bell.ring(queue)
    again = {"Idempotency-Replayed": "true"} if replayed else {}
    resource = _described(batch, summary, members)
    return openapi.answer(resource, 202, {"Location": resource["links"]["self"], **_seen(summary).headers, **again})


@api.post(
    "/dry-run",
    operation_id="dryRunBatch",
    request_body=_BODY,
    responses={200: schemas.DryRunList, **openapi.problems(409, 413, 415)},
)
def dry_run() -> Response:
    """Say what a submission of jobs together would do

    This is `POST /v1/batches?dry_run=true` under a path of its own, which a service of an older version rejects with
    405.
    """
    return _foreseen()


def _foreseen() -> Response:
    document, _ = bodies.document()
    with bodies.one_of_few(), db.read_scope(current().engine) as session:
        found = dry_runs.of_batch(session, document, auth.tenant())
    return openapi.answer({"object": "list", "data": [foreseen(each) for each in found]})


@api.get("", operation_id="listBatches", responses={200: schemas.BatchList})
def index(query: schemas.PageQuery) -> Response:
    """List batches, newest first, without their jobs"""
    with db.read_scope(current().engine) as session:
        rows, more = batches.page(session, limit=query.limit, after=query.after, tenant=auth.tenant())
        summaries = batches.summaries(session, [batch.id for batch in rows])
    data = [_summarised(batch, summaries[batch.id]) for batch in rows]
    return openapi.answer({"object": "list", "data": data, "has_more": more})


@api.get(
    "/<batch_id>",
    operation_id="getBatch",
    responses={200: schemas.Batch, **openapi.NOT_MODIFIED, **openapi.problems(404)},
)
def show(path: schemas.BatchPath, query: schemas.JobQuery) -> Response:
    """Get a batch and its jobs, or wait until they change

    `wait` and `If-None-Match` work as for a job: the answer comes as soon as a job differs from the `ETag`, or without
    an `ETag` as soon as every job has ended.
    """
    _identified(path.batch_id)
    tenant, engine = auth.tenant(), current().engine

    def look() -> Seen:
        with db.read_scope(engine) as session:
            batches.get(session, path.batch_id, tenant=tenant)
            return _seen(batches.summaries(session, [path.batch_id])[path.batch_id])

    if (same := polling.not_modified(look, query.wait)) is not None:
        return same
    with db.read_scope(engine) as session:
        batch = batches.get(session, path.batch_id, tenant=tenant)
        now = batches.summaries(session, [path.batch_id])[path.batch_id]
        members = queries.members(session.connection(), path.batch_id)
    return openapi.answer(_described(batch, now, members), headers=_seen(now).headers)


@api.post("/<batch_id>/cancel", operation_id="cancelBatch", responses={202: schemas.Batch, **openapi.problems(404)})
def cancel(path: schemas.BatchPath) -> Response:
    """Cancel every job of a batch that has not ended

    Waiting jobs are cancelled at once. Running jobs are asked to stop. Jobs that have ended do not change.
    """
    with db.session_scope(current().engine) as session:
        batch = batches.cancel(session, _identified(path.batch_id), tenant=auth.tenant())
        auth.note(session, "batch.cancel", batch.id)
        members = queries.members(session.connection(), batch.id)
        summary = batches.summaries(session, [batch.id])[batch.id]
    return openapi.answer(_described(batch, summary, members), 202, _seen(summary).headers)


def _identified(batch_id: str) -> str:
    """The id, if it could be one: nothing else reaches the database."""
    if not BATCH_ID.fullmatch(batch_id):
        raise BatchNotFound(f"There is no batch {batch_id if len(batch_id) <= 100 else batch_id[:100] + '…'!r}.")
    return batch_id


def _seen(summary: Summary) -> Seen:
    return Seen(summary.revision, summary.terminal)


def _summarised(batch: Batch, summary: Summary) -> dict[str, Any]:
    self = f"{api.url_prefix}/{batch.id}"
    return {
        "object": "batch",
        "id": batch.id,
        "name": batch.name,
        "status": summary.status,
        "terminal": summary.terminal,
        "total": summary.total,
        "counts": {str(status): summary.counts.get(status, 0) for status in Status},
        "varied": batch.varied,
        "schedule_id": batch.schedule_id,
        "created_at": schemas.moment(batch.created_at),
        "ended_at": schemas.moment_or_none(summary.ended_at),
        "links": {"self": self, "cancel": f"{self}/cancel"},
    }


def _described(batch: Batch, summary: Summary, members: Sequence[Any]) -> dict[str, Any]:
    rows = [_row(job, batch.varied) for job in members]
    ends = [job.finished_at for job in members if job.finished_at is not None]
    return {
        **_summarised(batch, summary),
        "fraction": sum(1.0 if row["terminal"] else row["fraction"] for row in rows) / len(rows) if rows else 1.0,
        "finished_at": schemas.moment(max(ends)) if ends and summary.terminal else None,
        "jobs": rows,
    }


def _row(job: Any, varied: Sequence[str]) -> dict[str, Any]:
    """A row of `looks.members` as a `schemas.BatchJob`."""
    result: Mapping[str, Any] = json.loads((job.result if job.status == Status.SUCCEEDED else None) or "{}")
    requested = json.loads(job.requested) if varied else {}
    took = job.finished_at - job.started_at if job.finished_at is not None and job.started_at is not None else None
    return {
        "id": job.id,
        "name": job.name,
        "status": job.status,
        "terminal": job.status in TERMINAL,
        "reason": job.reason,
        "message": job.message,
        "warnings": openapi.stored(job.warnings) or [],
        "cell": {path: matrix.value(requested, path) for path in varied},
        "attempt": job.attempt,
        "epoch": job.epoch,
        "epochs": job.epochs,
        "fraction": _fraction(job),
        "best": openapi.stored(job.best),
        "metrics": batches.metrics_of(result),
        "silent_since": moment_or_none(silent_since(job, current().settings)),
        "seconds": took,
        "links": {"self": f"/v1/jobs/{job.id}"},
    }


def _fraction(job: Any) -> float:
    if job.status == Status.SUCCEEDED:
        return 1.0
    return min(job.step / job.steps, 1.0) if job.steps else 0.0
