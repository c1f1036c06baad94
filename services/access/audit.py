"""The audit: an entry for each requested change, written in the same transaction as the change.

Refused requests are not recorded: they changed nothing, and anybody could fill the database with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.orm import Session

from services import paging
from services.db import Statement, now
from services.orm import AuditEntry
from services.text import clean


@dataclass(frozen=True)
class Actor:
    """Somebody who changes something of a tenant. Who has neither key nor request sits at the service's own host."""

    tenant: str
    key_id: str | None = None
    request_id: str | None = None
    remote_address: str | None = None


def record(session: Session, actor: Actor, action: str, resource_id: str | None = None) -> None:
    """Write down that `actor` did `action`, a noun and a verb such as `job.cancel`, to a resource."""
    resource = None if resource_id is None else clean(resource_id, 200)
    _insert().execute(session.connection(), **vars(actor), action=action, resource_id=resource)


@cache
def _insert() -> Statement:
    names = ("tenant", "key_id", "request_id", "remote_address", "action", "resource_id")
    table: Any = AuditEntry.__table__  # the class would do the same more slowly
    values = {name: sa.bindparam(name, type_=table.c[name].type) for name in names}
    return Statement(sa.insert(table).values(at=now(), **values))


def page(
    session: Session, *, tenant: str | None = None, limit: int = 100, after: int | None = None
) -> tuple[Sequence[AuditEntry], bool]:
    """Entries older than `after`, newest first, and whether there are more."""
    query = select(AuditEntry)
    if tenant is not None:
        query = query.where(AuditEntry.tenant == tenant)
    return paging.newest(session, query, AuditEntry.id, after=after, limit=limit)
