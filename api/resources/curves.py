"""/v1/curves: the losses of many jobs, for small pictures."""

from __future__ import annotations

from dataclasses import asdict

from flask import Response

from api import auth, openapi, schemas
from api.service import current
from services import db
from services.jobs import curves

api = openapi.blueprint("curves", __name__, prefix="/v1/curves", about="Small pictures of many jobs.")


@api.get("", operation_id="listCurves", responses={200: schemas.CurveList})
def index(query: schemas.CurvesQuery) -> Response:
    """List the losses of many jobs at a few of their epochs

    A page that shows a table of jobs draws a small curve for each of them, and asks once for all.
    """
    asked = list(dict.fromkeys(query.jobs.split(",")))
    with db.read_scope(current().engine) as session:
        found = curves.of_jobs(session, asked, tenant=auth.tenant(), points=query.points)
    data = [{"job_id": job_id, **asdict(found[job_id])} for job_id in asked if job_id in found]
    return openapi.answer({"object": "list", "data": data, "has_more": False})
