"""Reads the bodies of requests: the text of a spec, the bytes of an upload."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from threading import BoundedSemaphore
from typing import IO, Any, TypeVar

from flask import Request, g, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import UnsupportedMediaType

from api.service import current
from services.blobs.storage import Readable
from services.errors import BadRequest, Busy, Invalid, Problem, SpecInvalid
from services.settings import Settings
from services.training.spec import loads, reading
from services.wording import problems_of

T = TypeVar("T", bound=BaseModel)

JSON_TYPES = frozenset({"application/json"})
YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml"})
BINARY_TYPES = frozenset({"application/octet-stream", "application/zip", "application/x-npz"})
CSV = "text/csv"
MULTIPART = "multipart/form-data"
FORM_BYTES = 1 << 16  # what a form adds around its file
HEAVY_JSON_BYTES, HEAVY_YAML_BYTES = 1 << 16, 1 << 13
"""Below these a document is read in a few hundredths of a second."""
HEAVY_SECONDS = 5.0
SPOOL = "loopline.spool"


class SpooledRequest(Request):
    """A request whose uploaded files go to a folder of ours and never into memory or the system's /tmp."""

    def _get_file_stream(self, *_: object, **__: object) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self.environ[SPOOL])


def document() -> tuple[dict[str, Any], str]:
    """The body as one JSON or YAML mapping, and the SHA-256 of its bytes.

    Raises BadRequest with the place where reading stopped, UnsupportedMediaType for other types.
    """
    _expect(JSON_TYPES | YAML_TYPES, "Content-Type: application/json or application/yaml")
    body = request.get_data(cache=False)
    yaml = request.mimetype in YAML_TYPES
    try:
        with one_of_few() if len(body) > (HEAVY_YAML_BYTES if yaml else HEAVY_JSON_BYTES) else nullcontext():
            found = loads(body, yaml=yaml)
    except SpecInvalid as unreadable:
        raise BadRequest("The body cannot be read.", unreadable.problems) from None
    if yaml:
        g.yaml = body
    return found, hashlib.sha256(body).hexdigest()


def lines(problems: Sequence[Problem]) -> Sequence[int | None]:
    """The lines of a YAML body that problems are about. None where there is no line, and for every problem of a JSON
    body, or of one that takes long to read."""
    body = g.get("yaml")
    if not problems or body is None or len(body) > HEAVY_YAML_BYTES:
        return [None] * len(problems)
    return reading.lines(body, [each.pointer for each in problems])


@contextmanager
def one_of_few() -> Iterator[None]:
    """For work on a document that takes a while, such as many specs in one request.

    Raises Busy when others do not make room in time.
    """
    with _place(current().heavy, "Other large documents are being read; try again in a few seconds."):
        yield


@contextmanager
def one_look() -> Iterator[None]:
    """For a look into a file that was sent.

    Raises Busy when others do not make room in time.
    """
    with _place(current().looking, "Other files are being looked into; try again in a few seconds."):
        yield


@contextmanager
def _place(places: BoundedSemaphore, said: str) -> Iterator[None]:
    if not places.acquire(timeout=HEAVY_SECONDS):
        raise Busy(said)
    try:
        yield
    finally:
        places.release()


def question(most_bytes: int) -> tuple[bytes, bool]:
    """The body of a request to predict, and whether it is CSV. Raises UnsupportedMediaType for other types than that
    and JSON; RequestEntityTooLarge."""
    _expect(JSON_TYPES | {CSV}, "Content-Type: application/json or text/csv")
    request.max_content_length = most_bytes
    return request.get_data(cache=False), request.mimetype == CSV


def wanted(kind: type[T], message: str, *, optional: bool = False) -> T:
    """The body as a `kind`; one that is `optional` may be left out.

    Raises Invalid, which says `message`, with every problem, and what `document` raises.
    """
    absent = optional and not request.content_length and "Transfer-Encoding" not in request.headers
    given = {} if absent else document()[0]
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise Invalid(message, problems_of(error, kind, given)) from None


def upload(settings: Settings) -> Readable:
    """The uploaded file, raw or as multipart, as a stream that ends with TooLarge's status past the service's limit."""
    _expect(
        BINARY_TYPES | {MULTIPART}, "Content-Type: application/octet-stream, application/zip or multipart/form-data"
    )
    request.max_content_length = settings.max_upload_bytes + FORM_BYTES
    if request.mimetype != MULTIPART:
        return request.stream
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    request.environ[SPOOL] = settings.data_dir
    part = request.files.get("file")
    if part is None:
        raise BadRequest("The form has no file.", [Problem("/file", "send the .npz as the form's field `file`")])
    return part.stream


def _expect(types: frozenset[str], sentence: str) -> None:
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("Bodies are taken uncompressed only: leave Content-Encoding out.")
    if request.mimetype not in types:
        sent = f"`{request.mimetype[:80]}`" if request.mimetype else "no Content-Type"
        raise UnsupportedMediaType(f"This route reads other bodies. Send {sentence}; this request has {sent}.")
