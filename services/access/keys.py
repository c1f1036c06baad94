"""API keys: shown once, stored as a hash, looked up by their id, compared in constant time.

A key is `ll_<id>_<secret>`. The secret is 32 random bytes, so one SHA-256 protects it enough. A slow hash protects
passwords that people invent, but nobody can guess 256 random bits. The id is not secret: it selects the hash to compare
with, and names the key in lists and in the audit log.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.orm import Session

from services import paging
from services.access import tenants
from services.db import now
from services.errors import BadRequest, KeyNotFound, Problem, Unauthorized
from services.orm import ApiKey, new_id
from services.text import HIDDEN_IN_WORDS, clean, is_plain

SECRET_BYTES = 32
USED_SECONDS = 60.0
"""How exact `last_used_at` is: it is written at most once in so long."""

_TEXT = re.compile(r"ll_([0-9a-hjkmnp-tv-z]{26})_([0-9a-f]{64})")
_MAX_NAME = 100
NOBODYS = hashlib.sha256(secrets.token_bytes(SECRET_BYTES)).hexdigest()
"""The hash of a secret that nobody has."""
_NOT_KNOWN = "This API key is not known here; look for a slip in copying it, or ask who runs the service for another."


class Scope(StrEnum):
    """What a key may be used for; a key has one or more, and none of them includes another, but that `submit` includes
    `predict`."""

    READ = "read"
    """Look at jobs, data sets, workers, and download."""
    PREDICT = "predict"
    """Ask models."""
    SUBMIT = "submit"
    """Submit, cancel, pause, resume and delete jobs; upload and delete data sets; register, promote, delete models; and
    ask models."""
    ADMIN = "admin"
    """Make, list and revoke keys and webhooks of the tenant; read its audit."""


@dataclass(frozen=True)
class Identity:
    """Who asks: a tenant, and what it may do."""

    tenant: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    """None where no key was needed."""
    web_session: str | None = None
    """The id of the web session through which the key is used, if it is one."""

    def may(self, scope: Scope) -> bool:
        """Whether one of the scopes is this one, or includes it."""
        return scope in self.scopes or (scope is Scope.PREDICT and Scope.SUBMIT in self.scopes)


ANYBODY = Identity(tenants.DEFAULT, frozenset(Scope))
"""Who asks where no key is needed."""


class Created(NamedTuple):
    """A key, and its text, which nobody can show again."""

    key: ApiKey
    text: str


def create(
    session: Session,
    tenant: str,
    scopes: Iterable[str],
    *,
    name: str | None = None,
    expires_seconds: float | None = None,
) -> Created:
    """A new key of the tenant; `expires_seconds` from now it ends by itself.

    Raises:
        BadRequest: a scope, the name or the time is none.
        TenantNotFound: there is no such tenant.
    """
    wanted = _scopes(scopes)
    if name is not None and not (1 <= len(name) <= _MAX_NAME and is_plain(name)):
        allowed = f"must have 1 to {_MAX_NAME} characters, and no {HIDDEN_IN_WORDS}"
        raise BadRequest("This is no name for a key.", [Problem("/name", allowed)])
    if expires_seconds is not None and expires_seconds <= 0:
        raise BadRequest("This key would have ended already.", [Problem("/expires_days", "must be greater than 0")])
    tenants.get(session, tenant)
    key_id, secret = new_id("key"), secrets.token_hex(SECRET_BYTES)
    insert = sa.insert(ApiKey).values(
        id=key_id,
        tenant=tenant,
        name=name,
        scopes=",".join(wanted),
        secret_sha256=secret_hash(secret),
        created_at=now(),
        expires_at=None if expires_seconds is None else now() + expires_seconds,
    )
    return Created(session.scalars(insert.returning(ApiKey)).one(), f"ll_{key_id.removeprefix('key_')}_{secret}")


def verify(session: Session, text: str) -> Identity:
    """The identity behind a key. Only a client with the right secret learns that a key was revoked or has expired.

    Raises:
        Unauthorized: nobody's.
    """
    key, is_over = find(session, text)
    return checked(key, is_over)


def find(session: Session, text: str) -> tuple[ApiKey, bool]:
    """The key with this text, and whether its time is over; it may be revoked.

    Raises:
        Unauthorized: there is none.
    """
    parsed = _TEXT.fullmatch(text)
    if parsed is None:
        raise Unauthorized("This is no API key: one begins with ll_ and has 94 characters; look for a slip in copying.")
    key_id, secret = parsed.groups()
    row = session.execute(select(ApiKey, is_expired()).where(ApiKey.id == f"key_{key_id}")).one_or_none()
    # An id that nobody has takes as long as a wrong secret.
    is_right = hmac.compare_digest(secret_hash(secret), row.ApiKey.secret_sha256 if row else NOBODYS)
    if row is None or not is_right:
        raise Unauthorized(_NOT_KNOWN)
    key, is_over = row
    return key, is_over


def checked(key: ApiKey, is_over: bool) -> Identity:
    """Whose key it is, and what it may do.

    Raises:
        Unauthorized: it was revoked, or its time is over.
    """
    if key.revoked_at is not None or is_over:
        how = "was revoked" if key.revoked_at is not None else "has ended"
        raise Unauthorized(f"The API key {key.id} {how}; ask who runs the service for another.")
    return Identity(key.tenant, scopes_of(key), key.id)


def is_expired() -> sa.ColumnElement[bool]:
    """Whether the time of a key is over."""
    return sa.func.coalesce(ApiKey.expires_at <= now(), sa.false())


def scopes_of(key: ApiKey) -> frozenset[Scope]:
    """What the key may be used for."""
    return frozenset(map(Scope, key.scopes.split(",")))


def note_use(session: Session, key_id: str) -> None:
    """Note that the key was used now, unless a recent use is noted already or another transaction holds the row."""
    stale = sa.or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now() - USED_SECONDS)
    free = select(ApiKey.id).where(ApiKey.id == key_id, stale).with_for_update(skip_locked=True).scalar_subquery()
    session.execute(sa.update(ApiKey).where(ApiKey.id == free).values(last_used_at=now()))


def revoke(session: Session, key_id: str, *, tenant: str | None = None) -> ApiKey:
    """End a key; one that was revoked before stays as it is.

    Raises:
        KeyNotFound: there is none, or it is another tenant's.
    """
    query = select(ApiKey).where(ApiKey.id == clean(key_id, 100), *_of(tenant)).with_for_update()
    found = session.scalar(query)
    if found is None:
        raise KeyNotFound(f"There is no API key {clean(key_id, 100)}.")
    if found.revoked_at is None:
        found.revoked_at = session.scalar(select(now()))
        session.flush()
    return found


def _scopes(given: Iterable[str]) -> Collection[Scope]:
    wanted = set(given)
    if not wanted or wanted - set(Scope):
        allowed = f"must be one or more of {', '.join(Scope)}"
        raise BadRequest("These are no scopes for a key.", [Problem("/scopes", allowed)])
    return [scope for scope in Scope if scope in wanted]


def _of(tenant: str | None) -> tuple[sa.ColumnElement[bool], ...]:
    return () if tenant is None else (ApiKey.tenant == tenant,)


def secret_hash(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def page(
    session: Session, *, tenant: str | None = None, limit: int = 20, after: str | None = None
) -> tuple[Sequence[ApiKey], bool]:
    """Keys older than `after`, newest first, and whether there are more; those that have ended too."""
    query = select(ApiKey).where(*_of(tenant))
    return paging.newest(session, query, ApiKey.id, after=after, limit=limit)
