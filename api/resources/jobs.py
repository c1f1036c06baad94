"""/v1/jobs: submit, look, wait, cancel, pause, resume, delete, and the numbers of a run."""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import asdict, fields, replace
from typing import Any

from flask import Response, g
from sqlalchemy.orm import Session

from api import auth, bodies, openapi, polling, schemas
from api.polling import Seen
from api.schemas import moment, moment_or_none
from api.service import current
from services import db, faults, idempotency
from services.blobs import transfers
from services.errors import JobNotFound
from services.idempotency import Key
from services.jobs import control, dry_runs, predictions, progress, queries, submission
from services.jobs.dry_runs import DryRun
from services.jobs.submission import Parsed, SubmittedJob
from services.settings import Settings
from services.states import TERMINAL, Kind, Status
from services.training.files.npz import Limits

api = openapi.blueprint("jobs", __name__, prefix="/v1/jobs", about="One job is one request to train or to predict.")

MISSED_RENEWALS = 2.5
"""After so many a worker counts as silent."""
MAY_LACK = ("retrain", "baseline", "selection", "details", "gradients", "advice", "sample", "folds", "mean", "std")
"""Of a result."""
JOB_ID = re.compile(r"job_[0-9a-hjkmnp-tv-z]{26}")

log = logging.getLogger(__name__)

_BODY = {
    "required": True,
    "content": {
        media: {
            "schema": {"anyOf": [{"$ref": f"{openapi.SCHEMAS}Spec"}, {"$ref": f"{openapi.SCHEMAS}Predict"}]},
            "examples": {
                "predict": {"summary": "A model answers a file", "value": schemas.PREDICT_EXAMPLE},
                "full": {"summary": "Everything said", "value": schemas.SPEC_EXAMPLE},
                "preset": {"summary": "A preset on synthetic data", "value": schemas.PRESET_EXAMPLE},
            },
        }
        for media in ("application/json", "application/yaml")
    },
}


@api.post(
    "",
    operation_id="submitJob",
    request_body=_BODY,
    responses={202: schemas.Job, 200: schemas.DryRun, **openapi.problems(409, 413, 415)},
)
def submit(header: schemas.SubmitHeader, query: schemas.SubmitQuery) -> Response:
    """Submit a job

    The body is the spec, JSON or YAML. The service checks it against its data set at once; a 422 names every
    problem. The job is accepted even while no worker or broker is up. With `dry_run=true` nothing is submitted: the
    answer says what a submission would do.

    With `kind: predict` a model answers all sequences of a data set; `GET /v1/jobs/{id}/answers` is the result. An
    alias is looked up now, and every attempt asks the version that it names now.
    """
    if query.dry_run:
        return _foreseen()
    document, fingerprint = bodies.document()
    scope = f"{auth.tenant()} POST /v1/jobs"
    key = Key(scope, header.idempotency_key, fingerprint) if header.idempotency_key else None
    asked = _looked_at(document, key)
    with db.session_scope(current().engine) as session:
        job_id, replayed = _submitted(session, asked, key)
        if not replayed:
            auth.note(session, "job.submit", job_id)
        job = queries.one(session.connection(), job_id, tenant=auth.tenant())
        resource = document_of(job, queries.position(job), full=True)
    if not replayed:
        log.info("%s: submitted to the queue %s", job.id, job.queue, extra={"job_id": job.id})
        _ring(job)
    again = {"Idempotency-Replayed": "true"} if replayed else {}
    return openapi.answer(resource, 202, {"Location": resource["links"]["self"], **_freshness(job), **again})


def _looked_at(document: dict[str, Any], key: Key | None) -> Parsed | predictions.Found | SubmittedJob:
    """What a document asks for; of a job that predicts also whether its model can answer, or what was made before."""
    if not predictions.is_asked(document):
        return submission.read(document)
    with db.read_scope(current().engine) as session:
        if key is not None and (job_id := idempotency.earlier(session, key)) is not None:
            return SubmittedJob(job_id, replayed=True)
        found = predictions.found(session, document, auth.tenant())
    settings = current().settings
    limits = Limits(max_bytes=settings.max_dataset_bytes)
    warnings = predictions.check(current().storage, found, limits, wait_seconds=settings.check_wait_seconds)
    return replace(found, warnings=warnings)


def _submitted(session: Session, asked: Parsed | predictions.Found | SubmittedJob, key: Key | None) -> SubmittedJob:
    if isinstance(asked, SubmittedJob):
        return asked
    if isinstance(asked, Parsed):
        return submission.submit(session, asked, key=key, request_id=g.request_id, tenant=auth.tenant())
    return predictions.submit(session, asked, key=key, request_id=g.request_id, tenant=auth.tenant())


@api.post(
    "/dry-run",
    operation_id="dryRunJob",
    request_body=_BODY,
    responses={200: schemas.DryRun, **openapi.problems(409, 413, 415)},
)
def dry_run() -> Response:
    """Say what a submission would do

    This is `POST /v1/jobs?dry_run=true` under a path of its own. A service of an older version rejects this path with
    405, but ignores the parameter and submits the job. So programs that may meet one use this path.
    """
    return _foreseen()


def _foreseen() -> Response:
    document, _ = bodies.document()
    with db.read_scope(current().engine) as session:
        found = dry_runs.of_job(session, submission.read(document), auth.tenant())
    return openapi.answer(foreseen(found))


@api.get("", operation_id="listJobs", responses={200: schemas.JobList})
def index(query: schemas.JobsQuery) -> Response:
    """List jobs, newest first"""
    filters = query.model_dump(exclude={"tag", "dataset"})
    key, _, value = (query.tag or "").partition(":")
    tag = (key, value) if query.tag else None
    found = queries.page(current().engine, tenant=auth.tenant(), **filters, tag=tag, dataset_id=query.dataset)
    data = [document_of(row, found.positions.get(row.id), full=query.full) for row in found.rows]
    return openapi.answer({"object": "list", "data": data, "has_more": found.more})


@api.get(
    "/<job_id>", operation_id="getJob", responses={200: schemas.Job, **openapi.NOT_MODIFIED, **openapi.problems(404)}
)
def show(path: schemas.JobPath, query: schemas.JobQuery) -> Response:
    """Get a job, or wait until it changes

    With `wait` the answer comes as soon as the job differs from the `ETag` given as If-None-Match, and after this many
    seconds at the latest. Without that header it comes as soon as the job has ended. The tag covers everything except
    the place in the queue, the estimate of the end, and missing heartbeats.
    """
    identified(path.job_id)
    tenant, engine = auth.tenant(), current().engine

    def look() -> Seen:
        return _seen(*queries.revision(engine, path.job_id, tenant=tenant))

    if (same := polling.not_modified(look, query.wait)) is not None:
        return same
    row = queries.one(engine, path.job_id, tenant=tenant)
    return openapi.answer(document_of(row, queries.position(row), full=True), headers=_freshness(row))


@api.post("/<job_id>/cancel", operation_id="cancelJob", responses={202: schemas.Job, **openapi.problems(404)})
def cancel(path: schemas.JobPath) -> Response:
    """Cancel a job

    A waiting job is cancelled at once. A running job is asked to stop. A job that has ended does not change.
    """
    with db.session_scope(current().engine) as session:
        job = control.cancel(session, identified(path.job_id), tenant=auth.tenant())
        auth.note(session, "job.cancel", job.id)
        return openapi.answer(described(session, job.id), 202, _freshness(job))


@api.post("/<job_id>/pause", operation_id="pauseJob", responses={202: schemas.Job, **openapi.problems(404, 409)})
def pause(path: schemas.JobPath) -> Response:
    """Pause a job

    A waiting job is paused at once. A running job saves a checkpoint, frees its device and is `paused` within a few
    seconds. A paused job does not change. 409 if the job has ended.
    """
    with db.session_scope(current().engine) as session:
        job = control.pause(session, identified(path.job_id), tenant=auth.tenant())
        auth.note(session, "job.pause", job.id)
        return openapi.answer(described(session, job.id), 202, _freshness(job))


@api.post("/<job_id>/resume", operation_id="resumeJob", responses={202: schemas.Job, **openapi.problems(404, 409)})
def resume(path: schemas.JobPath) -> Response:
    """Resume a paused job

    The job is queued again and continues exactly where it stopped. This withdraws a pause that has not happened yet. A
    job that waits or runs does not change. 409 if the job has ended.
    """
    with db.session_scope(current().engine) as session:
        job = control.resume(session, identified(path.job_id), tenant=auth.tenant())
        auth.note(session, "job.resume", job.id)
        resource = described(session, job.id)
    if job.status == Status.QUEUED:
        _ring(job)
    return openapi.answer(resource, 202, _freshness(job))


@api.delete("/<job_id>", operation_id="deleteJob", responses={204: None, **openapi.problems(404, 409)})
def delete(path: schemas.JobPath) -> Response:
    """Delete a job that has ended, with its model, checkpoints, events and log

    A download in progress is completed. 409 if the job may still run: cancel it first.
    """
    service = current()
    with db.session_scope(service.engine) as session:
        control.delete(session, identified(path.job_id), tenant=auth.tenant())
        auth.note(session, "job.delete", path.job_id)
    transfers.remove_job(service.storage, path.job_id)
    return Response(status=204)


@api.get("/<job_id>/epochs", operation_id="listEpochs", responses={200: schemas.EpochList, **openapi.problems(404)})
def epochs(path: schemas.JobPath, query: schemas.EpochsQuery) -> Response:
    """List the epochs of a job, ascending"""
    engine = current().engine
    queries.revision(engine, identified(path.job_id), tenant=auth.tenant())
    records, more = queries.epochs(engine, path.job_id, query.after, query.limit, query.fold)
    end = b'],"has_more":%s}\n' % (b"true" if more else b"false")
    return openapi.pieces([b'{"object":"list","data":[', records, end])


@api.get("/<job_id>/steps", operation_id="getSteps", responses={200: schemas.Steps, **openapi.problems(404)})
def steps(path: schemas.JobPath, query: schemas.StepsQuery) -> Response:
    """List loss and gradient norm by step, thinned out

    `first` and `last` ask for a part: a chart that is zoomed in gets more points of it, and one that follows a run gets
    the new steps alone.
    """
    with db.read_scope(current().engine) as session:
        queries.revision(session.connection(), identified(path.job_id), tenant=auth.tenant())
        found = progress.steps(session, path.job_id, query.points, query.fold, first=query.first, last=query.last)
    numbers = {"step": found.step, "loss": found.loss, "grad_norm": found.grad_norm, "fold": found.fold}
    return openapi.answer({"object": "steps", **numbers, "total": found.total})


def foreseen(found: DryRun) -> dict[str, Any]:
    """A `schemas.DryRun`."""
    dataset, rest = found.dataset, {field.name: getattr(found, field.name) for field in fields(found)}
    return {
        **rest,
        "object": "dry_run",
        "name": found.spec.get("name"),
        "dataset": None if dataset is None else {"id": dataset.id, "name": dataset.name},
        "estimate": asdict(found.estimate),
        "chosen": [each._asdict() for each in found.chosen],
    }


def _ring(job: Any) -> None:
    faults.point("bell.due")
    current().bell.ring(job.queue)


def identified(job_id: str) -> str:
    """The id, if it could be one: nothing else reaches the database or the disk."""
    if not JOB_ID.fullmatch(job_id):
        raise JobNotFound(f"There is no job {job_id if len(job_id) <= 100 else job_id[:100] + '…'!r}.")
    return job_id


def _freshness(job: Any) -> dict[str, str]:
    return _seen(job.revision, job.status).headers


def _seen(revision: int, status: str) -> Seen:
    return Seen(str(revision), status in TERMINAL, again_seconds=1 if status == Status.RUNNING else 2)


def described(session: Session, job_id: str) -> dict[str, Any]:
    """The job as clients see it, from within the transaction that has changed it."""
    session.flush()
    row = queries.one(session.connection(), job_id, tenant=auth.tenant())
    return document_of(row, queries.position(row), full=True)


def document_of(row: Any, position: int | None, *, full: bool) -> dict[str, Any]:
    """A row of `queries` as a `schemas.Job`; as a `schemas.ListedJob` unless it is `full`."""
    spec = {"spec": openapi.stored(row.spec)} if full else {}
    now, silent = time.time(), silent_since(row, current().settings)
    return {
        "object": "job",
        "id": row.id,
        "kind": row.kind,
        "name": row.name,
        "status": row.status,
        "terminal": row.status in TERMINAL,
        "reason": row.reason,
        "message": row.message,
        "batch_id": row.batch_id,
        "search_id": row.search_id,
        "trial": row.trial,
        "waits_until": moment(row.not_before) if row.status == Status.QUEUED and row.not_before > now else None,
        "silent_since": moment_or_none(silent),
        "queue": {"name": row.queue, "position": position},
        "priority": row.priority,
        "tags": openapi.stored(row.tags),
        "dataset": None if row.dataset_name is None else {"id": row.dataset_id, "name": row.dataset_name},
        "warnings": openapi.stored(row.warnings) or [],
        "attempt": row.attempt,
        "failures": row.failures,
        "lost": row.lost,
        "progress": _progress(row, now, is_silent=silent is not None),
        "best": openapi.stored(row.best),
        "result": None if row.kind == Kind.PREDICT else result(row.result),
        "answers": openapi.stored(row.result) if row.kind == Kind.PREDICT else None,
        **spec,
        "cancel_requested": bool(row.cancel_requested),
        "pause_requested": bool(row.pause_requested),
        "created_at": moment(row.created_at),
        "started_at": moment_or_none(row.started_at),
        "finished_at": moment_or_none(row.finished_at),
        "links": _links(row.id, row.kind, has_result=row.result is not None),
    }


def silent_since(row: Any, settings: Settings) -> float | None:
    """When its worker last gave a sign of life, if that is longer ago than two renewals of its lease may take."""
    if row.status != Status.RUNNING or row.lease_until is None:
        return None
    heard_at: float = row.lease_until - settings.lease_seconds
    return heard_at if row.asked_at - heard_at > MISSED_RENEWALS * settings.renew_seconds else None


def result(text: str | None) -> dict[str, Any] | None:
    """A `schemas.Result`, with null for what the job has not, or is from before there was it."""
    return None if text is None else {**dict.fromkeys(MAY_LACK), **json.loads(text)}


def _links(job_id: str, kind: str, *, has_result: bool) -> dict[str, str | None]:
    self = f"{api.url_prefix}/{job_id}"
    trains = kind == Kind.TRAIN
    return {
        "self": self,
        "epochs": f"{self}/epochs" if trains else None,
        "steps": f"{self}/steps" if trains else None,
        "checkpoints": f"{self}/checkpoints" if trains else None,
        "events": f"{self}/events",
        "logs": f"{self}/logs",
        "model": f"{self}/model" if trains and has_result else None,
        "answers": f"{self}/answers" if not trains and has_result else None,
        "cancel": f"{self}/cancel",
        "pause": f"{self}/pause",
        "resume": f"{self}/resume",
    }


def _progress(row: Any, now: float, *, is_silent: bool) -> dict[str, Any]:
    """How far the job is, and how long it may still take. `now` is in seconds since 1970."""
    done = row.status == Status.SUCCEEDED
    fraction = 1.0 if done else row.step / row.steps if row.steps else 0.0
    made, took = _pace(row)
    left = {"fraction": min(fraction, 1.0), "eta_seconds": None if is_silent else _eta(row, now)}
    if row.kind == Kind.PREDICT:
        epochs = dict.fromkeys(("epoch", "epochs", "fold", "folds", "fold_epoch", "fold_epochs", "step", "steps"))
        speed = round(made / took, 1) if made > 0 and took > 0 else None
        return {**epochs, "answered": row.step, "sequences": row.steps, "sequences_per_second": speed, **left}
    fold = json.loads(row.fold) if row.fold else {}
    return {
        "epoch": row.epoch,
        "epochs": row.epochs,
        "fold": fold.get("number"),
        "folds": fold.get("folds"),
        "fold_epoch": max(0, row.epoch - fold["epochs_before"]) if fold else None,
        "fold_epochs": fold.get("epochs"),
        "step": row.step,
        "steps": row.steps,
        "answered": None,
        "sequences": None,
        "sequences_per_second": None,
        **left,
    }


def _pace(row: Any) -> tuple[int, float]:
    """Steps that the running attempt has made, and the seconds that they took; zeros where there are none."""
    if row.status != Status.RUNNING or row.attempt_started_at is None or row.progress_at is None:
        return 0, 0.0
    resumed = json.loads(row.trainer or "{}").get("resumed_from") or {"step": 0}
    return row.step - int(resumed["step"]), float(row.progress_at - row.attempt_started_at)


def _eta(row: Any, now: float) -> float | None:
    """Seconds to the last step at this attempt's own pace: what earlier attempts did is not its work."""
    made, took = _pace(row)
    if row.steps is None or made <= 0 or took <= 0:
        return None
    left: float = (row.steps - row.step) * took / made - max(now - row.progress_at, 0.0)
    return round(max(left, 0.0), 1)
