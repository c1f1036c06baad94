"""Downloads: single files with ranges, several as a zip that is streamed and never whole in memory or on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from flask import Response, request, send_file

from services.blobs import transfers
from services.blobs.objects import S3, Reading
from services.blobs.storage import Readable, Storage
from services.errors import NotFound

CHUNK_BYTES = 1 << 18
DATED = (1980, 1, 1, 0, 0, 0)  # equal files make equal zips
ZIP64_FROM = 1 << 31

File = Mapping[str, Any]

MEDIA_TYPES = {
    ".json": "application/json",
    ".safetensors": "application/octet-stream",
    ".onnx": "application/octet-stream",
    ".md": "text/markdown",
    ".svg": "image/svg+xml",
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
}


class _Sink:
    """What a ZipFile writes to; take() hands over what has come in since. It cannot seek, so sizes follow the data."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """ZipFile asks for it."""

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def zipped(sources: Sequence[tuple[str, Readable, int]]) -> Iterator[bytes]:
    """The bytes of a zip of (name, open file, size in bytes), stored: weights do not compress."""
    sink = _Sink()
    with ZipFile(sink, "w", ZIP_STORED) as archive:  # type: ignore[call-overload]
        for name, source, size in sources:
            info = ZipInfo(name, DATED)
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=size >= ZIP64_FROM) as target:
                while chunk := source.read(CHUNK_BYTES):
                    target.write(chunk)
                    yield sink.take()
    yield sink.take()


def zip_response(filename: str, storage: Storage, job_id: str, files: Sequence[File]) -> Response:
    """A zip of a job's recorded files (`{"name", "bytes", "sha256"}`); 304 where the client has it.

    All are opened before the first byte leaves, so a download ends whole even when its job is deleted meanwhile: always
    from a folder, and from an object store as long as no connection to it breaks.
    """
    response = Response(mimetype="application/zip")
    response.headers.set("Content-Disposition", "attachment", filename=filename)
    response.set_etag(hashlib.sha256("".join(str(file["sha256"]) for file in files).encode()).hexdigest())
    response.make_conditional(request)
    del response.content_length  # of the empty body so far
    if response.status_code == HTTPStatus.OK and request.method != "HEAD":  # or nobody would close the files
        with ExitStack() as stack:
            sources = []
            for file in files:
                opened = stack.enter_context(closing(_opened(storage, job_id, file)))
                sources.append((str(file["name"]), opened, int(file["bytes"])))
            response.response = zipped(sources)
            response.call_on_close(stack.pop_all().close)
    return response


def file_response(filename: str, storage: Storage, job_id: str, file: File) -> Response:
    """One recorded file of a job, in whole or by range; 304 where the client has it."""
    if storage.objects is not None and "object" in file:
        return _object_response(filename, storage.objects, file)
    path = storage.job_file(job_id, file["name"])
    with _present(path.name):
        response = send_file(
            path,
            mimetype=MEDIA_TYPES[path.suffix],
            as_attachment=True,
            download_name=filename,
            etag=str(file["sha256"]),
            conditional=True,
        )
    if response.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT) or request.method == "HEAD":
        response.close()  # nobody reads the file, so nobody would close it
    return response


def _object_response(filename: str, store: S3, file: File) -> Response:
    response = Response(mimetype=MEDIA_TYPES[Path(file["name"]).suffix])
    response.headers.set("Content-Disposition", "attachment", filename=filename)
    response.set_etag(str(file["sha256"]))
    response.content_length = int(file["bytes"])
    response.make_conditional(request, accept_ranges=True, complete_length=int(file["bytes"]))
    wanted = response.content_range
    if response.status_code in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        with _present(file["name"]):
            if request.method == "HEAD":
                store.open(file["object"]).close()
            else:
                reading = store.open(file["object"], wanted.start or 0, wanted.stop)
                response.response = _blocks(reading)
                response.call_on_close(reading.close)
    return response


def _blocks(reading: Reading) -> Iterator[bytes]:
    while block := reading.read(CHUNK_BYTES):
        yield block


def _opened(storage: Storage, job_id: str, file: File) -> Reading | IO[bytes]:
    with _present(file["name"]):
        return transfers.opened(storage, job_id, file)


@contextmanager
def _present(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"The file {name} is recorded and no longer in the storage.") from error
