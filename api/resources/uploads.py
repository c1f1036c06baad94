"""/v1/uploads: send a large file in several requests."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from flask import Response

from api import auth, bodies, openapi, schemas
from api.service import current
from services.blobs.uploads import Upload, Uploads
from services.datasets import receiving
from services.datasets.checking import CheckUnfinished
from services.datasets.receiving import Columns, Source
from services.errors import DatasetInvalid, Problem
from services.training.files.npz import Limits

api = openapi.blueprint("uploads", __name__, prefix="/v1/uploads", about="Large files, sent in several requests.")

_BODY = {
    "required": True,
    "description": "The bytes of the file from `offset` on, or some of them.",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


@api.post("", operation_id="beginUpload", responses={201: schemas.Upload, **openapi.problems(409, 413)})
def begin(query: schemas.BeginUploadQuery) -> Response:
    """Begin an upload

    Send the bytes with PUT, then make a data set of them with `POST /v1/datasets?name=NAME&upload=ID`. If a request
    breaks, continue from the `offset` that GET answers with. After a day without a request the upload is deleted.
    """
    most = current().settings.max_upload_bytes
    made = _uploads().begin(auth.tenant(), query.bytes, most_bytes=most)
    return openapi.answer(_described(made), 201, {"Location": f"{api.url_prefix}/{made.id}"})


@api.get("/<upload_id>", operation_id="getUpload", responses={200: schemas.Upload, **openapi.problems(404)})
def show(path: schemas.UploadPath) -> Response:
    """Get an upload

    `offset` says how many bytes have arrived.
    """
    return openapi.answer(_described(_uploads().get(path.upload_id, auth.tenant())))


@api.put(
    "/<upload_id>",
    operation_id="continueUpload",
    request_body=_BODY,
    responses={200: schemas.Upload, **openapi.problems(404, 409, 413, 415)},
)
def add(path: schemas.UploadPath, query: schemas.ContinueUploadQuery) -> Response:
    """Send bytes of an upload

    409 if the upload does not have `offset` bytes, or another request is sending bytes of it.
    """
    uploads = _uploads()
    upload = uploads.get(path.upload_id, auth.tenant())
    return openapi.answer(_described(uploads.append(upload, query.offset, bodies.upload(current().settings))))


@api.post(
    "/<upload_id>/check",
    operation_id="checkUpload",
    responses={200: schemas.UploadCheck, **openapi.problems(404, 409)},
)
def check(path: schemas.UploadPath, query: schemas.ColumnsQuery) -> Response:
    """Say how an upload would be read

    The answer has its schema, what may be wrong with it, and every problem that it would be refused for. Nothing is
    made of it. So the columns can be named before `POST /v1/datasets` makes a data set of the same upload.
    """
    service = current()
    uploads = _uploads()
    sent = uploads.get(path.upload_id, auth.tenant())
    with bodies.one_look(), ExitStack() as held:
        with uploads.whole(sent) as file:  # and no longer: whoever corrects the columns asks again meanwhile
            incoming = held.enter_context(service.storage.incoming(file, service.settings.max_upload_bytes))
        work = held.enter_context(service.storage.work())
        source = Source(incoming, query.file or "", Columns(query.schema_document()))
        limits = Limits(max_bytes=service.settings.max_dataset_bytes)
        try:
            found = receiving.foreseen(
                service.storage, source, work, limits, wait_seconds=service.settings.check_wait_seconds
            )
        except DatasetInvalid as error:
            return openapi.answer(_unread(error.message, error.problems))
        except CheckUnfinished:
            return openapi.answer(_unread("The check of this file takes a while.", [], unfinished=True))
    return openapi.answer(
        schemas.UploadCheck(
            unfinished=False,
            message=None,
            problems=[],
            format=found.format,
            schema_=found.schema,
            report=found.report,
            warnings=[suspicion.message for suspicion in found.suspected],
            samples=found.content.samples,
            target=found.content.target,
        )
    )


def _unread(message: str, problems: Sequence[Problem], *, unfinished: bool = False) -> schemas.UploadCheck:
    return schemas.UploadCheck(
        unfinished=unfinished,
        message=message,
        problems=[schemas.FieldProblem(detail=each.detail, pointer=each.pointer) for each in problems],
        format=None,
        schema_=None,
        report=None,
        warnings=[],
        samples=None,
        target=None,
    )


@api.delete("/<upload_id>", operation_id="deleteUpload", responses={204: None, **openapi.problems(404)})
def delete(path: schemas.UploadPath) -> Response:
    """Delete an upload"""
    uploads = _uploads()
    uploads.delete(uploads.get(path.upload_id, auth.tenant()))
    return Response(status=204)


def _uploads() -> Uploads:
    return Uploads(current().storage)


def _described(upload: Upload) -> schemas.Upload:
    return schemas.Upload(
        id=upload.id,
        bytes=upload.bytes,
        offset=upload.bytes if upload.dataset_id else upload.offset,
        dataset_id=upload.dataset_id,
        created_at=schemas.moment(upload.began_at),
    )
