"""Idempotency keys: a request that is sent twice does its work once.

The key is stored in the same transaction as the new resource, with a hash of the request. Of concurrent requests with
one key the database lets one through; the others wait for its commit and replay its answer.
Protocol: draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from services.db import now, rowcount
from services.errors import IdempotencyConflict, IdempotencyInFlight
from services.orm import IdempotencyKey

KEEP_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Key:
    """A client's Idempotency-Key: the same key with the same fingerprint makes one thing."""

    scope: str
    """Whose key it is and what it is for, such as `default POST /v1/jobs`."""
    key: str
    fingerprint: str
    """SHA-256 of the request, in hex."""


def claim(session: Session, key: Key) -> str | None:
    """Take the key for this transaction (then `settle` it), or return the id of what an earlier request made with it.

    Of two requests at once the second waits here for the end of the first one's transaction.

    Raises:
        IdempotencyConflict: the key came before with another request.
        IdempotencyInFlight: the earlier request has neither made anything nor failed.
    """
    # ON CONFLICT waits for a transaction that inserted the same key: it ends in its row, or in none.
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    row = {"scope": key.scope, "key": key.key, "fingerprint": key.fingerprint, "created_at": now()}
    # Not its rowcount: psycopg answers -1 for an INSERT of an entity.
    taken = insert(IdempotencyKey).values(row).on_conflict_do_nothing().returning(IdempotencyKey.key)
    if session.scalar(taken) is not None:
        return None
    earlier = session.get(IdempotencyKey, (key.scope, key.key), populate_existing=True)
    if earlier is not None and earlier.fingerprint != key.fingerprint:
        raise IdempotencyConflict
    if earlier is None or earlier.resource_id is None:
        raise IdempotencyInFlight
    return earlier.resource_id


def earlier(session: Session, key: Key) -> str | None:
    """The id of what an earlier request made with this key, if it has; a look that takes no lock.

    Raises IdempotencyConflict: the key came before with another request.
    """
    row = session.get(IdempotencyKey, (key.scope, key.key), populate_existing=True)
    if row is not None and row.fingerprint != key.fingerprint:
        raise IdempotencyConflict
    return None if row is None else row.resource_id


def settle(session: Session, key: Key, resource_id: str) -> None:
    """Say what the request of a claimed key made."""
    mine = (IdempotencyKey.scope == key.scope, IdempotencyKey.key == key.key)
    session.execute(update(IdempotencyKey).where(*mine).values(resource_id=resource_id))


def any_old(session: Session) -> bool:
    """Whether `forget_old` would find something: a look that takes no lock."""
    return bool(session.scalar(select(select(IdempotencyKey.key).where(_old()).exists())))


def forget_old(session: Session) -> int:
    """Delete keys older than 24 hours; returns how many."""
    return rowcount(session.execute(delete(IdempotencyKey).where(_old())))


def _old() -> ColumnElement[bool]:
    return IdempotencyKey.created_at < now() - KEEP_SECONDS
