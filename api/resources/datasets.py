"""/v1/datasets: upload sequences, look at what there is, delete."""

from __future__ import annotations

from typing import Any

from flask import Response
from sqlalchemy.orm import Session

from api import auth, bodies, openapi, schemas
from api.service import current
from services import db
from services.blobs.storage import Readable
from services.blobs.uploads import Uploads
from services.datasets import receiving, versions
from services.datasets.checking import CheckUnfinished
from services.errors import BadRequest, DatasetInvalid, NotFound, Problem
from services.orm import Dataset
from services.settings import Settings
from services.states import DatasetStatus
from services.training.files.npz import Limits
from services.training.files.summary import DatasetSummary

api = openapi.blueprint("datasets", __name__, prefix="/v1/datasets", about="Immutable versions of uploaded sequences.")

_UNSHOWN = {"bytes", "inputs", "static", "series", "texts", "groups", "times"}
_NOT_COUNTED = dict.fromkeys(DatasetSummary.model_fields.keys() - _UNSHOWN)
_FILE: dict[str, Any] = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "description": "A CSV, Parquet, JSONL, .ts, text or .npy file, a .zip with a file for each sequence, or an .npz "
    "with `x` (samples, length, features), `y`, and optionally `lengths` and `split`.",
    "content": {
        "application/octet-stream": {"schema": _FILE},
        "application/zip": {"schema": _FILE},
        "multipart/form-data": {
            "schema": {"type": "object", "properties": {"file": _FILE}, "required": ["file"]},
        },
    },
}


@api.post(
    "",
    operation_id="uploadDataset",
    request_body=_BODY,
    responses={
        200: schemas.Dataset,
        201: schemas.Dataset,
        202: schemas.Dataset,
        **openapi.problems(404, 409, 413, 415),
    },
)
def upload(query: schemas.UploadQuery) -> Response:
    """Upload a data set

    201 for a new version, 200 if this name already has this content. A 422 says which rows are wrong. A version whose
    columns are not described has the schema of the version before it. The service never unpickles anything.

    202 if the check of the file takes longer than 10 s. The version is `validating`; ask for it at `Location` until it
    is `ready` or `rejected`.

    With `raw=true` the file is kept as it came, for jobs that predict. The version is `raw`, and is not checked.
    """
    service, tenant = current(), auth.tenant()
    versions.check_name(query.name)
    if query.raw and (given := query.schema_document()):
        said = "a raw file is read as the model's data was read: leave the columns out"
        raise BadRequest("The columns of a raw file cannot be named.", [Problem(f"/query/{next(iter(given))}", said)])
    if query.upload is None:
        return _added(query, bodies.upload(service.settings))
    uploads = Uploads(service.storage)
    sent = uploads.get(query.upload, tenant)
    if sent.dataset_id is not None:  # the answer to the first request was lost
        with db.read_scope(service.engine) as session:
            return _answer(versions.get(session, sent.dataset_id, tenant=tenant), 200)
    with uploads.whole(sent) as file:
        answer = _added(query, file)
        uploads.end(sent, answer.get_json()["id"])
    return answer


def _added(query: schemas.UploadQuery, file: Readable) -> Response:
    service, tenant = current(), auth.tenant()
    with db.read_scope(service.engine) as session:
        before = versions.columns_before(session, query.name, tenant=tenant)
    given = query.schema_document()
    with (
        receiving.received(
            service.storage,
            file,
            file_name=query.file or "",
            columns=receiving.Columns(given) if given else before,
            limits=_limits(service.settings),
            max_bytes=service.settings.max_upload_bytes,
            wait_seconds=service.settings.check_wait_seconds,
            raw=query.raw,
        ) as upload,
        db.session_scope(service.engine) as session,
    ):
        added = versions.add(session, upload, name=query.name, tenant=tenant)
        if added.created:
            auth.note(session, "dataset.upload", added.dataset.id)
    return _answer(added.dataset, 201 if added.created else 200)


def _answer(row: Dataset, status: int) -> Response:
    """The data set; with 202 instead of `status` while it is being checked."""
    status = 202 if row.status == DatasetStatus.VALIDATING else status
    return openapi.answer(described(row), status, {"Location": f"{api.url_prefix}/{row.id}"})


@api.get("", operation_id="listDatasets", responses={200: schemas.DatasetList})
def index(query: schemas.DatasetsQuery) -> Response:
    """List data sets, newest first"""
    with db.read_scope(current().engine) as session:
        rows, more = versions.page(session, tenant=auth.tenant(), **query.model_dump())
    return openapi.answer(schemas.DatasetList(data=[described(row, whole=False) for row in rows], has_more=more))


@api.get("/<dataset>", operation_id="getDataset", responses={200: schemas.Dataset, **openapi.problems(404)})
def show(path: schemas.DatasetPath) -> Response:
    """Get a data set"""
    with db.read_scope(current().engine) as session:
        return openapi.answer(described(versions.get(session, path.dataset, tenant=auth.tenant())))


@api.get(
    "/<dataset>/preview",
    operation_id="previewDataset",
    responses={200: schemas.DatasetPreview, **openapi.problems(404)},
)
def preview(path: schemas.DatasetPath) -> Response:
    """Look into a data set

    A part of it is read, by the process that reads uploads: a histogram of each column, and a few sequences. 404 if
    there is nothing to look into: it is not ready, or it is too large for that.
    """
    with db.read_scope(current().engine) as session:
        found = versions.get(session, path.dataset, tenant=auth.tenant())
    try:
        with bodies.one_look():
            looked = receiving.preview(current().storage, found, limits=_limits(current().settings))
    except (DatasetInvalid, FileNotFoundError, CheckUnfinished) as error:
        raise NotFound(f"There is no preview of {found.name}@{found.version}.") from error
    headers = {"Cache-Control": "private, max-age=86400"} if path.dataset == found.id else {}
    return openapi.answer(schemas.DatasetPreview(dataset_id=found.id, **looked), headers=headers)


@api.delete("/<dataset>", operation_id="deleteDataset", responses={204: None, **openapi.problems(404, 409)})
def delete(path: schemas.DatasetPath) -> Response:
    """Delete one version of a data set

    409 while an unfinished job uses it. 400 if the name has several versions and the request names none of them, so
    that a repeated request cannot delete two.
    """
    with db.session_scope(current().engine) as session:
        gone = versions.delete(session, _one_version(session, path.dataset).id, tenant=auth.tenant())
        auth.note(session, "dataset.delete", gone.id)
    return Response(status=204)


def _one_version(session: Session, asked: str) -> Dataset:
    """The data set that is meant, if no other version could be."""
    found = versions.get(session, asked, tenant=auth.tenant())
    if asked != found.id and asked.partition("@")[0] != found.name:
        said = f"this upload had the content of {found.name}@{found.version}; name that version to delete it"
        raise BadRequest("It is not clear which version to delete.", [Problem("/path/dataset", said)])
    newest, _ = versions.page(session, name=found.name, limit=2, tenant=auth.tenant())
    if len(newest) > 1 and asked in (found.name, f"{found.name}@latest"):
        said = f"`{found.name}` has several versions; say which, such as {found.name}@{found.version}"
        raise BadRequest("It is not clear which version to delete.", [Problem("/path/dataset", said)])
    return found


def described(row: Dataset, *, whole: bool = True) -> schemas.Dataset:
    """The data set as clients see it: its row, what its summary counts, and its report if it is to be `whole`."""
    is_ready = row.status == DatasetStatus.READY
    counted = versions.summary(row).model_dump(exclude=_UNSHOWN) if is_ready else _NOT_COUNTED
    return schemas.Dataset(
        id=row.id,
        name=row.name,
        version=row.version,
        sha256=row.sha256,
        bytes=row.bytes,
        status=row.status,
        message=row.message,
        problems=None if row.problems is None else [schemas.FieldProblem(**problem) for problem in row.problems],
        format=row.format or None,
        source_sha256=row.source_sha256,
        source_bytes=row.source_bytes,
        schema_=row.schema,
        report=row.report if whole else None,
        warnings=[*versions.warnings(row)] if is_ready else [],
        created_at=schemas.moment(row.created_at),
        **counted,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(max_bytes=settings.max_dataset_bytes)
