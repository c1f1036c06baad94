"""/v1/jobs/{id}/checkpoints: saved states from which training continues exactly."""

from __future__ import annotations

from flask import Response

from api import auth, downloads, openapi, schemas
from api.resources.jobs import identified
from api.service import current
from services import db
from services.errors import CheckpointNotFound
from services.jobs import control, progress
from services.orm import Checkpoint
from services.states import Kind

api = openapi.blueprint("checkpoints", __name__, prefix="/v1/jobs", about="Places from which training goes on exactly.")


@api.get(
    "/<job_id>/checkpoints",
    operation_id="listCheckpoints",
    responses={200: schemas.CheckpointList, **openapi.problems(404)},
)
def index(path: schemas.JobPath) -> Response:
    """List the checkpoints of a job, ascending"""
    with db.read_scope(current().engine) as session:
        job = control.get(session, identified(path.job_id), tenant=auth.tenant())
        rows = progress.checkpoints(session, job.id) if job.kind == Kind.TRAIN else []
    return openapi.answer(schemas.CheckpointList(data=[described(row) for row in rows]))


@api.get(
    "/<job_id>/checkpoints/<step>",
    operation_id="downloadCheckpoint",
    responses={200: openapi.files("The checkpoint's two files.", "application/zip"), **openapi.problems(404)},
)
def download(path: schemas.CheckpointPath) -> Response:
    """Download a checkpoint as a zip"""
    with db.read_scope(current().engine) as session:
        job = control.get(session, identified(path.job_id), tenant=auth.tenant())
        if job.kind != Kind.TRAIN:
            raise CheckpointNotFound(f"The job {job.id} predicts, so it has no checkpoints.")
        row = progress.get_checkpoint(session, job.id, path.step)
    return downloads.zip_response(f"{row.job_id}-checkpoint-{row.step}.zip", current().storage, row.job_id, row.files)


def described(row: Checkpoint) -> schemas.Checkpoint:
    """The checkpoint as clients see it."""
    weights = next(file for file in row.files if file["name"].endswith(".safetensors"))
    return schemas.Checkpoint(
        id=row.step,
        epoch=row.epoch,
        fold=row.fold or None,
        step=row.step,
        best=row.best,
        bytes=sum(file["bytes"] for file in row.files),
        sha256=weights["sha256"],
        created_at=schemas.moment(row.created_at),
        links=schemas.CheckpointLinks(self=f"{api.url_prefix}/{row.job_id}/checkpoints/{row.step}"),
    )
