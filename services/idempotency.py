"""Idempotency keys: a request that is sent twice does its work once.

The key is kept in the transaction of what it made, with a hash of the request. Of many requests at once with one key
the database lets one through; the others wait for its commit and replay it.
Protocol: draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from services.db import now, rowcount
from services.errors import BadRequest, IdempotencyConflict, Problem
from services.orm import IdempotencyKey

KEEP_SECONDS = 24 * 3600.0

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Once(NamedTuple):
    """The id of what a request made, and whether an earlier request with this key made it."""

    resource_id: str
    replayed: bool


def once(session: Session, key: str, request: bytes, make: Callable[[], str], *, scope: str = "jobs") -> Once:
    """Call `make` (in this session; it returns an id) unless a request with this key did, and keep the key with it.

    Raises:
        BadRequest: the key is not 1 to 255 visible ASCII characters.
        IdempotencyConflict: the key came before with another request.
    """
    if not _KEY.fullmatch(key):
        allowed = "must be 1 to 255 visible ASCII characters, such as a UUID"
        raise BadRequest("The Idempotency-Key is not one.", [Problem("/Idempotency-Key", allowed)])
    fingerprint = hashlib.sha256(request).hexdigest()
    if _insert(session, scope, key, fingerprint):
        made = make()
        row = (IdempotencyKey.scope == scope, IdempotencyKey.key == key)
        session.execute(update(IdempotencyKey).where(*row).values(resource_id=made))
        return Once(made, replayed=False)
    earlier = session.get_one(IdempotencyKey, (scope, key), populate_existing=True)
    if earlier.fingerprint != fingerprint or earlier.resource_id is None:
        raise IdempotencyConflict
    return Once(earlier.resource_id, replayed=True)


def any_old(session: Session) -> bool:
    """Whether `forget_old` would find something: a look that takes no lock."""
    return bool(session.scalar(select(select(IdempotencyKey.key).where(_old()).exists())))


def forget_old(session: Session) -> int:
    """Delete keys older than 24 hours; returns how many."""
    return rowcount(session.execute(delete(IdempotencyKey).where(_old())))


def _old() -> ColumnElement[bool]:
    return IdempotencyKey.created_at < now() - KEEP_SECONDS


def _insert(session: Session, scope: str, key: str, fingerprint: str) -> bool:
    """Whether the key is new. On PostgreSQL this waits for a transaction that is inserting the same one."""
    is_postgresql = session.get_bind().dialect.name == "postgresql"
    insert = postgresql.insert(IdempotencyKey) if is_postgresql else sqlite.insert(IdempotencyKey)
    row = insert.values(scope=scope, key=key, fingerprint=fingerprint, created_at=now())
    return rowcount(session.execute(row.on_conflict_do_nothing())) == 1
