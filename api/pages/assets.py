"""What pages are made of: scripts, the style sheet, the icon, and what others wrote (`static/vendor`).

All of it is under one address that contains a hash of the whole folder. So browsers keep it for good, and a script
imports another one by its plain name.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from flask import Response, request

from services.errors import NotFound

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
FOR_GOOD = "public, max-age=31536000, immutable"
LEAST_PACKED_BYTES = 1000
"""What is smaller is sent as it is."""


class Asset(NamedTuple):
    content: bytes
    packed: bytes
    """The same, compressed with gzip."""
    media_type: str


@cache
def assets() -> dict[str, Asset]:
    """By the path within the folder; read once."""
    found = {}
    for path in sorted(STATIC.rglob("*")):
        if path.suffix in MEDIA_TYPES:
            content = path.read_bytes()
            packed = gzip.compress(content, 9, mtime=0)
            found[path.relative_to(STATIC).as_posix()] = Asset(content, packed, MEDIA_TYPES[path.suffix])
    return found


@cache
def digest() -> str:
    """Of the names and contents of all assets, 16 hexadecimal digits."""
    whole = hashlib.sha256()
    for name, asset in assets().items():
        whole.update(f"{name}\0{len(asset.content)}\0".encode() + asset.content)
    return whole.hexdigest()[:16]


def address(name: str) -> str:
    """Where a page finds an asset.

    Raises:
        KeyError: there is none of this name.
    """
    assets()[name]
    return f"/assets/{digest()}/{name}"


def sent(version: str, name: str) -> Response:
    """An asset. A page of another version of the service gets the present one, which no browser keeps."""
    asset = assets().get(name)
    if asset is None:
        raise NotFound("There is no such file.")
    return packed(
        Response(asset.content, content_type=asset.media_type),
        asset.packed,
        {"Cache-Control": FOR_GOOD if version == digest() else "no-store"},
    )


def packed(response: Response, content: bytes | None = None, headers: dict[str, str] | None = None) -> Response:
    """The response, compressed for those who take that. `content` is what was compressed before."""
    response.headers.update(headers or {})
    response.headers["Vary"] = "Accept-Encoding"
    body = response.get_data()
    if request.accept_encodings.quality("gzip") > 0 and len(body) >= LEAST_PACKED_BYTES:
        response.set_data(gzip.compress(body, 6, mtime=0) if content is None else content)
        response.headers["Content-Encoding"] = "gzip"
    return response
