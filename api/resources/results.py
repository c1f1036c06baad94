"""/v1/jobs/{id}/model: the result for use, weights, spec and preprocessing together."""

from __future__ import annotations

from typing import Any

from flask import Response

from api import auth, downloads, openapi, schemas
from api.resources.jobs import identified
from api.service import current
from services import db
from services.errors import ModelNotReady, NotFound
from services.jobs import control, progress
from services.orm import Job
from services.states import TERMINAL, Kind, Status
from services.training.card import names

api = openapi.blueprint("models", __name__, prefix="/v1/jobs", about="The result of a job that has succeeded.")

FILES = ("model.safetensors", "model.json", "history.json")
MORE = ("model.onnx", *names.NAMES)
"""Some models do not have all of these. The job's event `export` says why there is no model.onnx or no README.md; older
models have neither."""


@api.get(
    "/<job_id>/model",
    operation_id="downloadModel",
    responses={
        200: openapi.files(
            f"A zip of {', '.join(FILES)} and, as far as there are, {', '.join(MORE)}.", "application/zip"
        ),
        **openapi.problems(404),
    },
)
def archive(path: schemas.JobPath) -> Response:
    """Download the model as a zip

    If the job was cancelled, reached its time limit or was stopped by its search, these are the best weights until
    then, if an epoch had ended.
    The `model.json` then has `"complete": false` and `incomplete_because`.
    """
    job = _finished(path.job_id)
    files = [_recorded(job, name) for name in FILES]
    files += [file for file in job.files or () if file["name"] in MORE]
    return downloads.zip_response(f"{job.id}.zip", current().storage, job.id, files)


@api.get(
    "/<job_id>/model/<file>",
    operation_id="downloadModelFile",
    responses={
        200: openapi.files("The file.", *dict.fromkeys(downloads.MEDIA_TYPES.values())),
        206: openapi.files("The range of the file that was asked for.", "application/octet-stream"),
        304: {"description": "The client has the file."},
        **openapi.problems(404, 416),
    },
)
def single(path: schemas.FilePath) -> Response:
    """Download one file of the model, in whole or by range"""
    job = _finished(path.job_id)
    if path.file not in (*FILES, *MORE):
        raise NotFound(f"A model has no such file; it may have {', '.join((*FILES, *MORE))}.")
    return downloads.file_response(path.file, current().storage, job.id, _recorded(job, path.file))


def _finished(job_id: str) -> Job:
    with db.read_scope(current().engine) as session:
        job = control.get(session, identified(job_id), tenant=auth.tenant())
        kept = [str(row.step) for row in progress.checkpoints(session, job.id)]
    if job.kind != Kind.TRAIN:
        raise ModelNotReady(f"This job predicts, so it has no model: GET /v1/jobs/{job.id}/answers has its answers.")
    if job.status in TERMINAL and job.status != Status.SUCCEEDED and not job.files:
        message = f"This job has no model: it ended as {job.status}."
        if kept:
            message += f" Checkpoints are kept of steps {', '.join(kept)}: GET /v1/jobs/{job.id}/checkpoints/STEP."
        raise ModelNotReady(message)
    if job.status not in TERMINAL:
        raise ModelNotReady
    return job


def _recorded(job: Job, name: str) -> dict[str, Any]:
    found = next((file for file in job.files or () if file["name"] == name), None)
    if found is None:
        raise NotFound(f"This job's model has no {name}.")
    return found
