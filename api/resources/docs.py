"""The OpenAPI document and a page to read it with, all of it served from here: it works without the internet."""

from __future__ import annotations

from pathlib import Path

import flask_openapi_swagger  # type: ignore[import-untyped]
from flask import Blueprint, Response, current_app, jsonify, send_from_directory

pages = Blueprint("docs", __name__)

SWAGGER = Path(flask_openapi_swagger.__file__).parent / "templates" / "swagger"
ASSETS = {
    "swagger-ui.css": SWAGGER / "css",
    "swagger-ui-bundle.js": SWAGGER / "js",
    "docs.js": Path(__file__).parent.parent / "static",
}
PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Loopline: HTTP API</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
  <noscript>This page needs JavaScript. The document is at <a href="/v1/openapi.json">/v1/openapi.json</a>.</noscript>
  <main id="swagger-ui"></main>
  <script src="/docs/swagger-ui-bundle.js"></script>
  <script src="/docs/docs.js"></script>
</body>
</html>
"""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@pages.get("/v1/openapi.json")
def document() -> Response:
    return jsonify(current_app.api_doc)  # type: ignore[attr-defined]


@pages.get("/docs")
def page() -> Response:
    return Response(PAGE, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": POLICY})


@pages.get("/docs/<any({}):name>".format(", ".join(f'"{name}"' for name in ASSETS)))
def asset(name: str) -> Response:
    return send_from_directory(ASSETS[name], name, max_age=3600)
