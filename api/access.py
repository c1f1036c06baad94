"""One log line and one count for every request, when its answer has gone out; and the id that all its lines carry.

gunicorn calls `answered` with what really was sent, downloads and broken connections among it. What Flask knows better
(the route, the id) comes to it in the request's environ.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from flask import Flask, g, request

from services import logs, metrics

REQUEST_ID, ROUTE = "loopline.request_id", "loopline.route"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUIET = "/v1/health/"
"""Probes that are answered well are logged at debug level only."""
MAX_PATH = 300

log = logging.getLogger(__name__)


def register(app: Flask) -> None:
    """Lets all that a request logs carry its id; for after the request was given one."""
    app.before_request(_begin)
    app.teardown_request(_end)


def _begin() -> None:
    logs.bind(request_id=g.request_id)
    request.environ[REQUEST_ID] = g.request_id
    request.environ[ROUTE] = request.url_rule.rule if request.url_rule else None


def _end(_: BaseException | None) -> None:
    logs.unbind()


def answered(environ: Mapping[str, Any], status: int, seconds: float, sent_bytes: int) -> None:
    """Tell of a request: the path without its query, which may hold anything, and the route, of which there are few."""
    method, route = environ.get("REQUEST_METHOD", ""), environ.get(ROUTE) or "(none)"
    path = str(environ.get("RAW_URI", "")).partition("?")[0][:MAX_PATH]
    known = method if method in METHODS else "(other)"
    metrics.REQUESTS.inc(method=known, route=route, status=str(status))
    metrics.REQUEST_SECONDS.observe(seconds, method=known, route=route)
    level = logging.DEBUG if route.startswith(QUIET) and status < 400 else logging.INFO
    fields = {
        "method": method,
        "route": route,
        "path": path,
        "status": status,
        "milliseconds": round(seconds * 1000, 1),
        "bytes": sent_bytes,
        "request_id": environ.get(REQUEST_ID),
    }
    log.log(level, "%s %s %d", method, path, status, extra=fields)
