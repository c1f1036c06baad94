"""/v1/keys: the API keys of the tenant."""

from __future__ import annotations

from typing import Any

from flask import Response

from api import auth, bodies, openapi, schemas
from api.service import current
from services import db
from services.access import keys
from services.orm import ApiKey

api = openapi.blueprint("keys", __name__, prefix="/v1/keys", about="What clients show to be let in.")

DAY = 24 * 3600.0
_BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": schemas.KeyRequest.model_json_schema()}},
}


@api.post(
    "",
    operation_id="createKey",
    request_body=_BODY,
    responses={201: schemas.NewKey, **openapi.problems(413, 415)},
)
def create() -> Response:
    """Create an API key of your tenant

    Only this answer contains the key itself.
    """
    wanted = bodies.wanted(schemas.KeyRequest, "There can be no such key.")
    seconds = None if wanted.expires_days is None else wanted.expires_days * DAY
    with db.session_scope(current().engine) as session:
        made = keys.create(session, auth.tenant(), wanted.scopes, name=wanted.name, expires_seconds=seconds)
        auth.note(session, "key.create", made.key.id)
    return openapi.answer(schemas.NewKey(**described(made.key).model_dump(), key=made.text), 201)


@api.get("", operation_id="listKeys", responses={200: schemas.KeyList})
def index(query: schemas.PageQuery) -> Response:
    """List the API keys of your tenant, newest first"""
    with db.read_scope(current().engine) as session:
        rows, more = keys.page(session, tenant=auth.tenant(), **query.model_dump())
    return openapi.answer(schemas.KeyList(data=[described(row) for row in rows], has_more=more))


@api.delete("/<key_id>", operation_id="revokeKey", responses={200: schemas.Key, **openapi.problems(404)})
def revoke(path: schemas.KeyPath) -> Response:
    """Revoke an API key of your tenant

    The key stops working within a few seconds and stays in the list. A revoked key does not change.
    """
    with db.session_scope(current().engine) as session:
        gone = keys.revoke(session, path.key_id, tenant=auth.tenant())
        auth.note(session, "key.revoke", gone.id)
    current().keyring.forget()
    return openapi.answer(described(gone))


def described(row: ApiKey) -> schemas.Key:
    """The key as its tenant sees it."""
    return schemas.Key.model_validate(
        {
            "id": row.id,
            "name": row.name,
            "tenant": row.tenant,
            "scopes": row.scopes.split(","),
            "created_at": schemas.moment(row.created_at),
            "expires_at": schemas.moment_or_none(row.expires_at),
            "last_used_at": schemas.moment_or_none(row.last_used_at),
            "revoked_at": schemas.moment_or_none(row.revoked_at),
        }
    )
