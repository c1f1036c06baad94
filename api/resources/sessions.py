"""/v1/session: signing in with an API key, for web pages."""

from __future__ import annotations

import logging
from typing import Any

from flask import Response, request

from api import auth, bodies, openapi, schemas
from api.service import current
from services import db
from services.access import keys, web_sessions
from services.access.keys import Identity, Scope
from services.errors import RateLimited, Unauthorized
from services.orm import ApiKey

api = openapi.blueprint("sessions", __name__, prefix="/v1/session", about="How a web page signs in.")

_BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": schemas.SessionRequest.model_json_schema()}},
}

log = logging.getLogger(__name__)


@api.get("", operation_id="getSession", responses={200: schemas.Session})
def show() -> Response:
    """Get what a web page may do here: its scopes, and the token for changes"""
    return openapi.answer(_described(auth.identity(), request.cookies.get(auth.COOKIE, "")))


@api.post(
    "",
    operation_id="signIn",
    request_body=_BODY,
    responses={200: schemas.Session, **openapi.problems(401, 413, 415, 429)},
)
def create() -> Response:
    """Sign in

    Takes an API key, and sets the cookie of a session that may do what the key may do, until the key is revoked, for 14
    days at most. Programs need no session: they send their key with each request.
    """
    text = bodies.wanted(schemas.SessionRequest, "There is no key in the request.").key.strip()
    who, cookie = _signed_in(text)
    answer = openapi.answer(_described(who, cookie))
    answer.set_cookie(
        auth.COOKIE,
        cookie,
        max_age=int(web_sessions.SECONDS),
        secure=_is_encrypted(),
        httponly=True,
        samesite="Strict",
    )
    return answer


def _signed_in(text: str) -> tuple[Identity, str]:
    """Who has the key, and the cookie of a new session. A key that was revoked or has ended is noted in the audit of
    its tenant; with any other wrong one nobody knows whose it would be, so there is a line in the log. What is past its
    rate writes nothing.
    """
    key, is_over = _found(text)
    try:
        with auth.counted_failures():
            who = keys.checked(key, is_over)
    except Unauthorized:
        with db.session_scope(current().engine) as session:
            auth.note(session, "session.refuse", key.id, Identity(key.tenant, frozenset(), key.id))
        raise
    current().rates.count("key", key.id)
    with db.session_scope(current().engine) as session:
        made = web_sessions.create(session, key.id)
        auth.note(session, "session.create", made.id, who)
    return Identity(who.tenant, who.scopes, who.key_id, made.id), made.cookie


def _found(text: str) -> tuple[ApiKey, bool]:
    """The key with this text, and whether its time is over."""
    try:
        with auth.counted_failures(), db.read_scope(current().engine) as session:
            return keys.find(session, text)
    except (Unauthorized, RateLimited):
        log.warning("a sign-in with an unknown key from %s was refused", request.remote_addr)
        raise


def _is_encrypted() -> bool:
    """Whether the browser has asked by HTTPS. The proxy that speaks it is another process, but a browser says from what
    page it signs in, and no page can change that header."""
    return request.headers.get("Origin", "").lower().startswith("https://")


@api.delete("", operation_id="signOut", responses={204: None})
def delete() -> Response:
    """Sign out

    The session is deleted. Without one, nothing happens.
    """
    who = auth.identity()
    if who.web_session is not None:
        with db.session_scope(current().engine) as session:
            web_sessions.end(session, who.web_session)
            auth.note(session, "session.delete", who.web_session)
        current().keyring.forget()
    answer = Response(status=204)
    answer.delete_cookie(auth.COOKIE, secure=_is_encrypted(), httponly=True, samesite="Strict")
    return answer


def _described(who: Identity, cookie: str) -> schemas.Session:
    signed_in = who.web_session is not None
    return schemas.Session(
        signed_in=signed_in,
        needs_key=current().settings.needs_keys,
        tenant=who.tenant,
        key_id=who.key_id,
        scopes=[scope.value for scope in Scope if scope in who.scopes],
        csrf_token=web_sessions.csrf_token(cookie) if signed_in else None,
    )
