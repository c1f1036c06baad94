"""The one table from error to HTTP status, and every answer that is a problem (RFC 9457)."""

from __future__ import annotations

import errno
import inspect
import json
import logging
import typing
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, cast

from flask import Flask, Response, current_app, g, request
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from api import bodies
from services import errors, wording

MEDIA_TYPE = "application/problem+json"

# The nearest class in an error's family decides: LooplineError itself is the last resort.
STATUS: dict[type[errors.LooplineError], HTTPStatus] = {
    errors.LooplineError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.BadRequest: HTTPStatus.BAD_REQUEST,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.IdempotencyConflict: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.Unauthorized: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.CrossOrigin: HTTPStatus.FORBIDDEN,
    errors.CsrfTokenWrong: HTTPStatus.FORBIDDEN,
    errors.RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.LeaseLost: HTTPStatus.CONFLICT,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}

# Codes of the problems that gunicorn, Flask and werkzeug find, before any code of ours runs.
HTTP_CODES: dict[int, str] = {
    400: "bad_request",
    404: "no_such_route",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    417: "expectation_failed",
    431: "head_too_large",
    500: "internal",
    501: "not_implemented",
    503: "unavailable",
}

_DETAILS: dict[int, str] = {
    404: "There is nothing at this address; /docs lists what there is.",
    405: "This address does not take this method; Allow says which it takes.",
}

RETRY_AFTER_SECONDS: dict[type[errors.LooplineError], int] = {errors.Unavailable: 5, errors.IdempotencyInFlight: 1}

_REALM = 'Bearer realm="loopline"'

log = logging.getLogger(__name__)


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    title: str | None = None,
    problems: Iterable[errors.Problem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """One problem document; `problems` become its `errors`, each with a JSON pointer into the request."""
    listed = list(problems)
    content = document(status, code, detail, title=title, problems=listed, request_id=g.get("request_id"))
    for shown, line in zip(content["errors"], bodies.lines(listed), strict=True):
        if line is not None:
            shown["line"] = line
    response = Response(json.dumps(content) + "\n", status=status, content_type=MEDIA_TYPE)
    response.headers.update(headers or {})
    response.headers["Cache-Control"] = "no-store"
    return response


def document(
    status: int,
    code: str,
    detail: str,
    *,
    title: str | None = None,
    problems: Iterable[errors.Problem] = (),
    request_id: str | None,
) -> dict[str, Any]:
    """What a problem document holds."""
    return {
        "type": f"urn:loopline:problem:{code}",
        "title": title or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
        "errors": [{"detail": found.detail, "pointer": found.pointer} for found in problems],
    }


def status_of(error: type[errors.LooplineError]) -> HTTPStatus:
    """The status of the nearest class in the error's family that the table names."""
    return next(STATUS[family] for family in error.__mro__ if family in STATUS)


def answered() -> set[type[errors.LooplineError]]:
    """The errors of ours that an answer may carry: those of training and leases never leave a worker."""
    found, family = set(), [errors.LooplineError]
    while family:
        error = family.pop()
        if not issubclass(error, errors.TrainingError | errors.LeaseLost):
            found.add(error)
            family.extend(error.__subclasses__())
    return found


def known_codes() -> set[str]:
    """Every code that a problem of this API can carry."""
    return {*HTTP_CODES.values(), *(error.code for error in answered())}


def register(app: Flask) -> None:
    """Sends every error of a request through this module."""
    app.register_error_handler(errors.LooplineError, _ours)
    app.register_error_handler(HTTPException, of_http)
    for kind in (OperationalError, InterfaceError, PoolTimeout):
        app.register_error_handler(kind, _database)
    app.register_error_handler(OSError, _system)
    app.register_error_handler(Exception, _unforeseen)


def _ours(error: errors.LooplineError) -> Response:
    status = status_of(type(error))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _record(error.code, error)
    return problem(
        status,
        error.code,
        error.message,
        title=(type(error).__doc__ or "").strip().split("\n")[0],
        problems=error.problems if isinstance(error, errors.Invalid) else (),
        headers=_headers(error),
    )


def _headers(error: errors.LooplineError) -> dict[str, str]:
    """What belongs to an error besides its document: when to come back, or how to show a key (RFC 6750)."""
    match error:
        case errors.Unauthorized():
            return {"WWW-Authenticate": f'{_REALM}, error="invalid_token"' if error.shown else _REALM}
        case errors.Forbidden():
            return {"WWW-Authenticate": f'{_REALM}, error="insufficient_scope", scope="{error.scope}"'}
        case errors.RateLimited():
            return {"Retry-After": str(error.retry_after_seconds)}
    retry = next((RETRY_AFTER_SECONDS[kind] for kind in type(error).__mro__ if kind in RETRY_AFTER_SECONDS), None)
    return {} if retry is None else {"Retry-After": str(retry)}


def of_http(error: HTTPException) -> Response:
    """A werkzeug error, with the headers that belong to it (`Allow`, `Content-Range`, `WWW-Authenticate`)."""
    ready = error.get_response()
    if error.code is None or error.code < HTTPStatus.BAD_REQUEST:
        return _as_response(ready)
    headers = {name: value for name, value in error.get_headers() if name not in ("Content-Type", "Content-Length")}
    detail = _too_large() if error.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else _DETAILS.get(error.code)
    detail = detail or error.description or error.name
    return problem(error.code, HTTP_CODES.get(error.code, "http_error"), detail, headers=headers)


def _too_large() -> str:
    most, size = request.max_content_length, request.content_length
    if most is None or (size is not None and size <= most):  # something else of the request is too large
        return "The body is larger than this service takes."
    has = "" if size is None else f"it has {size:,} bytes, and "
    return f"The body is larger than this service takes: {has}{most:,} bytes are the most."


def _as_response(ready: AnyResponse) -> Response:
    """A redirect, or a response given to abort(), goes out as it is."""
    return cast(Response, Response.force_type(ready, request.environ))


def _database(error: DBAPIError | PoolTimeout) -> Response:
    """The database is locked, full or unreachable: the answer says when to retry, the log says why."""
    _record("database error", error)
    return _ours(errors.Unavailable("The database cannot answer now; try again in a few seconds."))


def _system(error: OSError) -> Response:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return _unforeseen(error)
    _record("no room on the disk", error)
    return _ours(errors.Unavailable("There is no room left on the service's disk; try again when some was made."))


def _unforeseen(error: Exception) -> Response:
    """The last edge: an error nobody foresaw is recorded with its traceback and named by the request's id."""
    if type(error).__module__ == "gunicorn.http.errors":  # a body whose chunks are not chunks
        return problem(HTTPStatus.BAD_REQUEST, "bad_request", "The body breaks off or is not framed as HTTP asks.")
    _record("unforeseen error", error)
    detail = "Something went wrong inside the service. Its log holds the reason under this request_id."
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail)


def _record(what: str, error: Exception) -> None:
    fields = {"request_id": g.get("request_id")}
    log.error("%s on %s %s", what, request.method, request.path, exc_info=error, extra=fields)


def parameters_invalid(error: ValidationError) -> Response:
    """A query, path or header that its pydantic model refuses."""
    problems = wording.parameter_problems(error, _parameters())
    return _ours(errors.BadRequest("The request's parameters are not right.", problems))


def _parameters() -> list[str]:
    """The query parameters of the route of this request."""
    view = inspect.unwrap(current_app.view_functions[request.endpoint or ""])
    model = typing.get_type_hints(view).get("query")
    return sorted(field.alias or name for name, field in model.model_fields.items()) if model else []
