"""/v1/jobs/{id}/predict and /v1/models/{model}/versions/{ref}/predict: asks a trained model.

The body and the answer hold many numbers, so neither is built from its schema.
"""

from __future__ import annotations

import csv
import io
import json
from functools import partial
from typing import Any, Literal

from flask import Response, request
from loopline.prediction.answers import Answer as Answered
from loopline.prediction.answers import words
from pydantic import Field

from api import auth, bodies, openapi, schemas
from api.resources.jobs import identified
from api.service import current
from services.prediction import asked, sources
from services.prediction.sources import Source

api = openapi.blueprint("predictions", __name__, prefix="/v1", about="Answers of trained models.")

MOST_WARNINGS = 20
"""That a header has room for."""
JSON = "application/json"


class PredictionModel(schemas.Answer):
    """The model that answered."""

    name: str | None
    """Null if the request named a job."""
    version: int | None
    job_id: str


class Prediction(schemas.Answer):
    """What a model says of some sequences. docs/predict.md has the columns of `rows` for each task."""

    object: Literal["prediction"] = "prediction"
    model: PredictionModel
    task: Literal["classification", "multilabel", "regression", "tagging", "forecast", "next_step"]
    warnings: list[str]
    """What makes the answer less sure."""
    rows: list[dict[str, Any]]
    """The answer as a table: for example a row per sequence with its `id`, `label` and `probability`."""


class Question(schemas.Body):
    """What a model is asked about: one of `x`, `texts` and `rows`."""

    x: list[Any] | None = Field(default=None, min_length=1)
    """Sequences, each a list of steps, each a list of numbers in the order of the model's features; or the steps of one
    sequence. null is a missing value."""
    texts: list[str] | None = Field(default=None, min_length=1)
    """Texts, for a model that reads texts."""
    rows: list[dict[str, Any]] | None = Field(default=None, min_length=1)
    """The rows of a table with the columns of the data set. The column to predict may be missing."""
    static: list[Any] | None = None
    """For each sequence of `x` or `texts`, the values of the whole sequence, if the model reads some."""
    future: list[Any] | None = None
    """For each sequence of `x`, the next steps of what is known ahead, for a forecast with `known_future`."""
    ids: list[str | int] | None = None
    """The names of the sequences; by default numbers from 0 on."""
    end: str | list[str] | None = None
    """For each sequence of `x`, the time of its last step, for a forecast that reads the calendar."""


_EXAMPLES = {
    "arrays": {
        "summary": "Two sequences of a model with two features",
        "value": {"x": [[[0.1, 2.0], [0.3, 1.5]], [[0.2, 1.0]]], "ids": ["walk_1", "walk_2"]},
    },
    "table": {
        "summary": "A table with a row for each step",
        "value": {
            "rows": [{"id": "walk_1", "pressure": 0.1, "flow": 2.0}, {"id": "walk_1", "pressure": 0.3, "flow": 1.5}]
        },
    },
    "texts": {"summary": "Texts", "value": {"texts": ["a slow start", "but what an end"]}},
}
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        JSON: {"schema": Question.model_json_schema(), "examples": _EXAMPLES},
        bodies.CSV: {"schema": {"type": "string"}, "example": "id,pressure,flow\nwalk_1,0.1,2.0\nwalk_1,0.3,1.5\n"},
    },
}
_RESPONSES: dict[Any, Any] = {200: Prediction, **openapi.problems(404, 409, 413, 415)}


@api.post("/jobs/<job_id>/predict", operation_id="predictWithJob", request_body=_BODY, responses=_RESPONSES)
def of_job(path: schemas.JobPath) -> Response:
    """Ask the model of a job

    The body is JSON or a table as CSV, as at an upload. The answer is JSON, or CSV with `Accept: text/csv`. 404 until
    the job has a model. Nothing is stored.
    """
    return _answer(sources.of_job(current().engine, identified(path.job_id), tenant=auth.tenant()))


@api.post(
    "/models/<model>/versions/<ref>/predict",
    operation_id="predictWithModelVersion",
    request_body=_BODY,
    responses=_RESPONSES,
)
def of_version(path: schemas.ModelVersionPath) -> Response:
    """Ask one version of a model, by its number, an alias or `latest`

    The body is JSON or a table as CSV, as at an upload. The answer is JSON, or CSV with `Accept: text/csv`. An alias is
    looked up in each request, and the whole answer comes from one version, which it names. Nothing is stored.
    """
    return _answer(sources.of_version(current().engine, path.model, path.ref, tenant=auth.tenant()))


def _answer(source: Source) -> Response:
    body, is_csv = bodies.question(current().settings.max_prediction_bytes)
    found = current().predictor.answer(source, partial(asked.of_csv if is_csv else asked.of_json, body))
    wants_csv = request.accept_mimetypes.best_match((JSON, bodies.CSV)) == bodies.CSV
    return _csv(source, found) if wants_csv else _json(source, found)


def _json(source: Source, found: Answered) -> Response:
    document = {
        "object": "prediction",
        "model": {"name": source.name, "version": source.version, "job_id": source.job_id},
        **found.to_dict(),
    }
    return openapi.answer(document, headers=_headers(source))


def _csv(source: Source, found: Answered) -> Response:
    columns = found.columns()
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*map(words, columns.values()), strict=True))
    response = Response(text.getvalue(), content_type="text/csv; charset=utf-8")
    response.headers.update(_headers(source))
    if found.warnings:
        response.headers["Loopline-Warnings"] = json.dumps(found.warnings[:MOST_WARNINGS])
    return response


def _headers(source: Source) -> dict[str, str]:
    """Which model answered."""
    named = {} if source.name is None else {"Loopline-Model": f"{source.name}@{source.version}"}
    return {**named, "Loopline-Job": source.job_id, "Vary": "Accept"}
