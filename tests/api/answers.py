"""Holds every answer of the API to its schema: answers are built without their models, so this is what keeps the
OpenAPI document true. Fields that the schema does not name are wrong, too."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
from flask import Flask, Response, request

from api.app import create_app
from services.settings import Settings
from tests.ringing import FakeDoorbell


def hold(app: Flask) -> None:
    """Make the app fail where it answers with what the document does not describe."""
    app.after_request(_check)


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document, with every object closed that does not say that it is open."""
    nowhere = Settings(data_dir=Path("/nowhere"), database_url="postgresql://x@127.0.0.1:1/x")
    app = create_app(nowhere, bell=FakeDoorbell())
    found: dict[str, Any] = app.test_client().get("/v1/openapi.json").get_json()
    app.extensions["loopline"].engine.dispose()
    for schema in found["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return found


@cache
def _validator(rule: str, method: str, status: str) -> Any:
    path = re.sub(r"<([^>]+)>", r"{\1}", rule)
    described = document()["paths"][path][method.lower()]["responses"][status]["content"]
    schema = next(content["schema"] for media, content in described.items() if media.endswith("json"))
    return jsonschema_rs.validator_for({**schema, "components": document()["components"]})


def _check(response: Response) -> Response:
    if (
        response.direct_passthrough
        or not response.is_json
        or request.url_rule is None
        or not 200 <= response.status_code < 300
    ):
        return response
    asked = (request.url_rule.rule, request.method)
    if asked in _described():
        problem = next(_validator(*asked, str(response.status_code)).iter_errors(response.get_json()), None)
        assert problem is None, f"{request.method} {request.path}: {problem}"
    return response


@cache
def _described() -> frozenset[tuple[str, str]]:
    paths = document()["paths"].items()
    return frozenset((re.sub(r"{([^}]+)}", r"<\1>", path), method.upper()) for path, by in paths for method in by)
