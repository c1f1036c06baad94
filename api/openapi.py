"""What stands between Flask and us: flask-openapi set straight, request ids, bodies, and answers in JSON.

flask-openapi 5 documents routes from their type hints. Five things it does are put right here: the version (3.2 by
default), the 422 that it adds in a form we do not send, docstrings joined with `<br/>`, schemas that lose the
keywords it does not know, and a user interface that needs inline scripts.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from flask import Flask, Response, g, request
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.info import Info
from flask_openapi.models.tag import Tag
from flask_openapi.openapi import OpenAPI
from flask_openapi.types import ResponseDict as Documented
from pydantic import BaseModel

from api import access, errors
from api.schemas import ProblemDocument
from services.errors import Invalid, Problem
from services.training.spec import Spec
from services.training.spec.predict import Predict

MOST_PROBLEMS = 20
SCHEMAS = "#/components/schemas/"
REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")
ALSO_TEXT = {"listLogLines"}
"""Operations that answer in plain text those who ask for it."""
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of every answer that has none of its own: it is data, and no page."""


class Api(OpenAPI):
    """A Flask app that describes itself in OpenAPI 3.1."""

    def __init__(self, import_name: str, *, version: str) -> None:
        info = Info(
            title="Loopline",
            version=version,
            summary="Trains recurrent networks as a service",
            description="Post a job, poll it, fetch the model. Errors are problem documents (RFC 9457) with a `code`.",
        )
        super().__init__(
            import_name,
            info=info,
            doc_ui=False,
            static_folder=None,
            validation_error_status=422,
            validation_error_model=ProblemDocument,
            validation_error_callback=errors.parameters_invalid,
        )
        self.openapi_version = "3.1.0"
        self.json.sort_keys = False  # type: ignore[attr-defined]
        self.on_document: list[Callable[[dict[str, Any]], None]] = []
        """Adds to the document what others know."""

    def generate_spec_json(self) -> None:
        super().generate_spec_json()  # type: ignore[no-untyped-call]
        schemas = self.spec_json["components"]["schemas"]
        schemas |= _spec_schemas()
        for name in ("Job", "ListedJob"):  # a plain dict in the answer's model: it was validated when it came
            properties = schemas[name]["properties"]
            either = [{"$ref": SCHEMAS + "Spec"}, {"$ref": SCHEMAS + "Predict"}]
            properties["spec"] = {"anyOf": either, "description": properties["spec"]["description"]}
        for path in self.spec_json["paths"].values():
            for operation in path.values():
                operation["description"] = operation.get("description", "").replace("<br/>", "\n").strip()
                if operation["operationId"] in ALSO_TEXT:
                    operation["responses"]["200"]["content"]["text/plain"] = {"schema": {"type": "string"}}
        for add in self.on_document:
            add(self.spec_json)


def _spec_schemas() -> dict[str, Any]:
    """The schemas of a spec, by name, as pydantic wrote them."""
    schema = Spec.model_json_schema(ref_template=SCHEMAS + "{model}")
    inner: dict[str, Any] = schema.pop("$defs")
    asked = Predict.model_json_schema(ref_template=SCHEMAS + "{model}")
    return {**asked.pop("$defs"), **inner, "Spec": schema, "Predict": asked}


def blueprint(name: str, import_name: str, *, prefix: str, about: str) -> APIBlueprint:
    """A blueprint whose every operation documents the problems that any route may answer with."""
    return APIBlueprint(
        name,
        import_name,
        url_prefix=prefix,
        abp_tags=[Tag(name=name, description=about)],
        abp_responses=problems(400, 422, 500, 503),
    )


_WHEN = {
    400: "The request cannot be read, or a parameter is not right.",
    401: "There is no API key, or none that is valid.",
    403: "The API key lacks the scope, or a web page of another origin sent the request, or the token of a session is "
    "missing; `detail` says which.",
    404: "There is nothing with this id.",
    409: "The request does not fit the present state.",
    413: "The body is larger than this service takes.",
    415: "The body is of a type that this route does not read.",
    416: "The file has no such range.",
    422: "The request is readable and wrong; `errors` names every problem with a JSON pointer.",
    429: "There were too many requests; `Retry-After` says when to go on.",
    500: "An error nobody foresaw; the log has it under the `request_id`.",
    503: "The service cannot answer now; `Retry-After` says when to try again.",
}


NOT_MODIFIED: Documented = {"304": {"description": "Nothing has changed since the `ETag` that came as If-None-Match."}}


def problems(*statuses: int) -> Documented:
    """Documented problem answers, by status."""
    content = {errors.MEDIA_TYPE: {"schema": {"$ref": SCHEMAS + ProblemDocument.__name__}}}
    return {str(status): {"description": _WHEN[status], "content": content} for status in statuses}


def files(description: str, *media_types: str) -> dict[str, Any]:
    """A documented answer that is a file."""
    return {"description": description, "content": {media: {"schema": {}} for media in media_types}}


Answered = BaseModel | Mapping[str, Any]
"""A resource: as its model, or as the dictionary that its model describes. Nothing is validated on the way out, but in
the tests (tests/api/conftest.py), for every answer that they get."""


def answer(body: Answered, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The resource as JSON; numbers that are not finite become null, as JSON has no word for them."""
    return _json([dumps(body) + b"\n"], status, headers)


def pieces(parts: Sequence[bytes]) -> Response:
    """The parts of one JSON document as they are, without a copy of them all."""
    return _json(parts, 200, None)


def dumps(body: Answered) -> bytes:
    """The resource as JSON, its keys in the order in which they stand."""
    if isinstance(body, BaseModel):
        return body.model_dump_json().encode()
    return orjson.dumps(body, option=orjson.OPT_UTC_Z | orjson.OPT_SERIALIZE_NUMPY)


def stored(text: str | None) -> orjson.Fragment | None:
    """JSON as the database holds it: it goes into an answer as it is."""
    return None if text is None else orjson.Fragment(text)


def _json(parts: Sequence[bytes], status: int, headers: Mapping[str, str] | None) -> Response:
    response = Response(parts, status=status, content_type="application/json")
    response.content_length = sum(map(len, parts))
    response.headers.update(headers or {})
    return response


def register(app: Flask) -> None:
    """Gives every request an id, and every answer that id and the headers that keep browsers careful."""
    app.before_request(_name_request)
    access.register(app)
    app.after_request(_finish)


def expect_single_parameters(app: Flask) -> None:
    """Refuses a query parameter that stands twice, where only one of the two would count; after everything else that is
    looked at before a request."""
    app.before_request(_refuse_repeated)


def _refuse_repeated() -> None:
    repeated = [(name, len(values)) for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        problems = [Problem(f"/query/{name[:100]}", f"stands {count} times; send it once") for name, count in repeated]
        raise Invalid("A query parameter stands more than once.", problems[:MOST_PROBLEMS])


def _name_request() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


def _finish(response: Response) -> Response:
    headers = response.headers
    given = {name.lower() for name, _ in headers}  # to ask werkzeug for one that is missing costs an exception
    for name, value in SECURITY_HEADERS.items():
        if name.lower() not in given:
            headers.add(name, value)
    if "cache-control" not in given:
        headers.add("Cache-Control", "no-cache" if "etag" in given else "no-store")
    headers["X-Request-Id"] = g.get("request_id") or f"req_{uuid.uuid4().hex}"
    return response
