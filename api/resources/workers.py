"""/v1/workers: the workers that run jobs."""

from __future__ import annotations

from collections.abc import Collection

from flask import Response

from api import auth, openapi, schemas
from api.service import current
from services import db
from services.jobs import control, workers
from services.orm import Worker

api = openapi.blueprint("workers", __name__, prefix="/v1/workers", about="The processes that take jobs.")


@api.get("", operation_id="listWorkers", responses={200: schemas.WorkerList})
def index() -> Response:
    """List the workers with a heartbeat within the last minute, and what they are doing"""
    with db.read_scope(current().engine) as session:
        rows = workers.seen(session)
        ours = control.known(session, [row.job_id for row in rows if row.job_id], tenant=auth.tenant())
    return openapi.answer(schemas.WorkerList(data=[described(row, ours) for row in rows]))


def described(row: Worker, ours: Collection[str]) -> schemas.Worker:
    """The worker as clients see it; of another tenant's job they see that there is one."""
    return schemas.Worker.model_validate(
        {
            "name": row.name,
            "queues": workers.queues(row),
            "state": row.state,
            "job_id": row.job_id if row.job_id in ours else None,
            "started_at": schemas.moment(row.started_at),
            "seen_at": schemas.moment(row.seen_at),
            "heard_at": None if row.heard_at is None else schemas.moment(row.heard_at),
            "device": row.device,
            "memory_bytes": row.memory_bytes,
        }
    )
