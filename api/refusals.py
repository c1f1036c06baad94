"""Answers to what never reaches the application: no HTTP, too slow, too many connections. They are problems as well."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

from gunicorn.http import errors as wrong  # type: ignore[import-untyped]

from api import errors
from api.openapi import SECURITY_HEADERS

MOST_HEAD_BYTES = 1 << 16

_LINE = "The address of the request is too long for this server."
_HEAD = f"The request has too many headers for this server, or too long ones: {MOST_HEAD_BYTES:,} bytes are the most."
_EXPECT = "This server knows `Expect: 100-continue` and no other expectation."
_CODING = "This server knows `Transfer-Encoding: chunked` and no other coding."
_KNOWN: dict[type[Exception], tuple[int, str]] = {
    wrong.LimitRequestLine: (414, _LINE),
    wrong.LimitRequestHeaders: (431, _HEAD),
    wrong.ExpectationFailed: (417, _EXPECT),
    wrong.UnsupportedTransferCoding: (501, _CODING),
}
_PLACES: dict[type[Exception], str] = {
    wrong.InvalidRequestLine: "its first line",
    wrong.InvalidRequestMethod: "its method",
    wrong.InvalidHTTPVersion: "its version",
    wrong.InvalidHeaderName: "the name of a header",
    wrong.InvalidHeader: "a header",
    wrong.ObsoleteFolding: "a header of several lines",
}


class Refusal(NamedTuple):
    """An answer after which the connection ends."""

    status: int
    request_id: str
    content: bytes


def refusal(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Refusal:
    """The problem with this status, as bytes for the socket."""
    request_id = f"req_{uuid.uuid4().hex}"
    document = errors.document(status, errors.HTTP_CODES[status], detail, request_id=request_id)
    body = json.dumps(document).encode() + b"\n"
    fields = {
        "Content-Type": errors.MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Cache-Control": "no-store",
        "X-Request-Id": request_id,
        **SECURITY_HEADERS,
        **(headers or {}),
    }
    head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return Refusal(status, request_id, "\r\n".join([*head, "", ""]).encode() + body)


def of_error(error: Exception) -> Refusal:
    """What gunicorn's parser found wrong with a request."""
    for kind, (status, sentence) in _KNOWN.items():
        if isinstance(error, kind):
            return refusal(status, sentence)
    place = next((place for kind, place in _PLACES.items() if isinstance(error, kind)), "its framing")
    return refusal(400, f"The request is not HTTP/1.1 as RFC 9112 asks for it: {place} is wrong.")
