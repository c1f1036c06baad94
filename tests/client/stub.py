"""A server that says what it likes: each answer has the form that the API's own document promises, and in the places of
texts and other leaves whatever a test puts there."""

from __future__ import annotations

import io
import json
import re
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from api.app import create_app
from services.settings import Settings
from tests.ringing import FakeDoorbell

MOMENT = "2026-01-02T03:04:05+00:00"
FIXED = {"has_more": False, "terminal": True}
Leaf = Callable[[dict[str, Any]], Any]


@cache
def document() -> dict[str, Any]:
    """The API's own description of its answers. The app it is asked of touches nothing."""
    nowhere = Settings(data_dir=Path("/nowhere"), database_url="postgresql://x@127.0.0.1:1/x")
    app = create_app(nowhere, bell=FakeDoorbell())
    found: dict[str, Any] = app.test_client().get("/v1/openapi.json").get_json()
    app.extensions["loopline"].engine.dispose()
    return found


def plausible(schema: dict[str, Any]) -> Any:
    """A leaf that a right server could say."""
    if "const" in schema or "enum" in schema:
        return schema.get("const") or schema["enum"][0]
    if schema.get("format") == "date-time":
        return MOMENT
    return {"string": "word", "integer": 1, "number": 0.5, "boolean": False}.get(schema.get("type", "string"))


def made_up(schema: dict[str, Any], leaf: Leaf, named: Mapping[str, Any] = FIXED, key: str = "") -> Any:
    """A value of the schema, every optional part there and one item in every list."""
    if "$ref" in schema:
        return made_up(document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]], leaf, named, key)
    if kinds := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return made_up(next((kind for kind in kinds if kind.get("type") != "null"), kinds[0]), leaf, named, key)
    if schema.get("type") == "array":
        return [made_up(schema.get("items", {}), leaf, named)]
    if schema.get("type") == "object" or "properties" in schema:
        known = {name: made_up(below, leaf, named, name) for name, below in schema.get("properties", {}).items()}
        more = schema.get("additionalProperties")
        if not known:
            more = more if isinstance(more, dict) else {"type": "string"}
            known[leaf({"type": "string"})] = made_up(more, leaf, named)
        return known
    return named[key] if key in FIXED or (key in named and schema.get("type") == "string") else leaf(schema)


@dataclass
class Stub:
    """What it answers; a test changes it as it likes."""

    leaf: Leaf = plausible
    status: int | None = None
    """None: the one that the document has for a request that is right."""
    change: Callable[[Any], Any] = lambda answer: answer
    headers: dict[str, str] = field(default_factory=dict)
    file_name: str = "model.json"
    named: Mapping[str, Any] = field(default_factory=lambda: FIXED)
    """Leaves by the name of their field."""
    url: str = ""

    def answer(self, method: str, path: str) -> tuple[int, str, bytes]:
        if self.status is not None and self.status >= 400:
            said = {"title": "", "detail": "", "code": "", "request_id": "", "errors": [{"pointer": "", "detail": ""}]}
            schema = {"type": "object", "properties": {key: {"type": "string"} for key in said}}
            problem = made_up(schema, self.leaf) | {"errors": [made_up(schema, self.leaf)]}
            return self.status, "application/problem+json", json.dumps(self.change(problem)).encode()
        for pattern, operations in document()["paths"].items():
            if method.lower() in operations and re.fullmatch(re.sub(r"{\w+}", "[^/]+", pattern), path):
                code, told = next(
                    (int(code), told)
                    for code, told in operations[method.lower()]["responses"].items()
                    if code.startswith("2")
                )
                content = told.get("content") or {}
                if "application/zip" in content:
                    return code, "application/zip", self._zipped()
                if "application/json" not in content:
                    return code, "text/plain", b""
                made = made_up(content["application/json"]["schema"], self.leaf, self.named)
                return self.status or code, "application/json", json.dumps(self.change(made)).encode()
        raise AssertionError(f"the API has no {method} {path}")

    def _zipped(self) -> bytes:
        with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
            archive.writestr(self.file_name, "{}")
        return buffer.getvalue()


@contextmanager
def stubbed() -> Iterator[Stub]:
    """A stub that listens on a port of this machine."""
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, kind, body = stub.answer(self.command, self.path.partition("?")[0])
            self.send_response(code)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **stub.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _any

        def log_message(self, *_: Any) -> None:
            """Says nothing: the tests look at what the client says."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        stub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield stub
        server.shutdown()
        thread.join()
