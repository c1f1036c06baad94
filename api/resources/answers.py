"""/v1/jobs/{id}/answers: the result of a job that predicts."""

from __future__ import annotations

from flask import Response

from api import auth, downloads, openapi, schemas
from api.resources.jobs import identified
from api.service import current
from services import db
from services.errors import AnswersNotReady
from services.jobs import control
from services.states import TERMINAL, Kind

api = openapi.blueprint("answers", __name__, prefix="/v1/jobs", about="The result of a job that predicts.")


@api.get(
    "/<job_id>/answers",
    operation_id="downloadAnswers",
    responses={
        200: openapi.files("The answers, as CSV or Parquet.", "text/csv", "application/vnd.apache.parquet"),
        206: openapi.files("The range of the file that was asked for.", "application/octet-stream"),
        304: {"description": "The client has the file."},
        **openapi.problems(404, 416),
    },
)
def download(path: schemas.JobPath) -> Response:
    """Download the answers of a job that predicts, in whole or by range"""
    with db.read_scope(current().engine) as session:
        job = control.get(session, identified(path.job_id), tenant=auth.tenant())
    if job.kind != Kind.PREDICT:
        raise AnswersNotReady("This job trains: it has a model and no answers.")
    if not job.files:
        ended = f"This job has no answers: it ended as {job.status}." if job.status in TERMINAL else None
        raise AnswersNotReady(ended)
    [file] = job.files
    return downloads.file_response(file["name"], current().storage, job.id, file)
