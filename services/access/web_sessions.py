"""Web sessions: a browser that is signed in with an API key, which it does not keep.

Its cookie is `<id>_<secret>`, made as an API key is, and kept as a hash too. What the browser may do is what the key
may do at that time: a session ends when its key is revoked or its time is over.

A browser sends a cookie by itself, whoever made the request. So each change needs a token besides, which only a page of
ours can read (`csrf_token`). It is made from the cookie's secret, so nothing of it is stored.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.access import keys
from services.access.keys import Identity
from services.db import now
from services.errors import Unauthorized
from services.orm import ApiKey, WebSession, new_id

SECONDS = 14 * 24 * 3600.0
"""A session lasts so long."""
MOST_OF_A_KEY = 100
"""Sessions of one key; a further one ends the oldest."""

_COOKIE = re.compile(r"([0-9a-hjkmnp-tv-z]{26})_([0-9a-f]{64})")
_NOT_SIGNED_IN = "You are not signed in here, or no longer: sign in again."


class Created(NamedTuple):
    """A session, and the value of its cookie, which nobody can show again."""

    id: str
    cookie: str


def create(session: Session, key_id: str) -> Created:
    """A new session of a key that was checked; sessions whose time is over are deleted."""
    web_id, secret = new_id("web"), secrets.token_hex(keys.SECRET_BYTES)
    session.execute(sa.delete(WebSession).where(WebSession.expires_at <= now()))
    newest = select(WebSession.id).where(WebSession.key_id == key_id).order_by(WebSession.id.desc())
    beyond = newest.offset(MOST_OF_A_KEY - 1).limit(MOST_OF_A_KEY)
    session.execute(sa.delete(WebSession).where(WebSession.id.in_(beyond)))
    row = {"id": web_id, "key_id": key_id, "secret_sha256": keys.secret_hash(secret)}
    session.execute(sa.insert(WebSession).values(**row, created_at=now(), expires_at=now() + SECONDS))
    return Created(web_id, f"{web_id.removeprefix('web_')}_{secret}")


def verify(session: Session, cookie: str) -> Identity:
    """Whose session this is, and what its key may do.

    Raises:
        Unauthorized: nobody's, or no longer.
    """
    parsed = _COOKIE.fullmatch(cookie)
    if parsed is None:
        raise Unauthorized(_NOT_SIGNED_IN)
    web_id, secret = f"web_{parsed[1]}", parsed[2]
    is_over = (WebSession.expires_at <= now()).label("is_over")
    columns = (WebSession.secret_sha256, is_over, ApiKey, keys.is_expired().label("key_is_over"))
    query = select(*columns).join(ApiKey, ApiKey.id == WebSession.key_id).where(WebSession.id == web_id)
    row = session.execute(query).one_or_none()
    is_right = hmac.compare_digest(keys.secret_hash(secret), row.secret_sha256 if row else keys.NOBODYS)
    if row is None or not is_right or row.is_over:
        raise Unauthorized(_NOT_SIGNED_IN)
    who = keys.checked(row.ApiKey, row.key_is_over)
    return Identity(who.tenant, who.scopes, who.key_id, web_id)


def end(session: Session, web_id: str) -> None:
    """Sign a browser out."""
    session.execute(sa.delete(WebSession).where(WebSession.id == web_id))


def csrf_token(cookie: str) -> str:
    """What a change must bring besides the cookie: 64 hexadecimal digits."""
    return hmac.new(cookie.encode(), b"csrf", hashlib.sha256).hexdigest()
