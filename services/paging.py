"""One page of a list. A query asks for one row more than a page holds; that row says whether there are more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

T = TypeVar("T")


def newest(
    session: Session, query: Select[T], by: InstrumentedAttribute[Any], *, after: Any, limit: int
) -> tuple[Sequence[T], bool]:
    """The page that begins below `after` of the column `by`, which counts up, and whether there are more rows."""
    if after is not None:
        query = query.where(by < after)
    return first(session, query.order_by(by.desc()), limit)


def first(session: Session, query: Select[T], limit: int) -> tuple[Sequence[T], bool]:
    """The first `limit` rows of the query, and whether there are more."""
    return cut(session.scalars(query.limit(asked(limit))).all(), limit)


def asked(limit: int) -> int:
    """How many rows a query asks for, to know whether there are more than `limit`."""
    return limit + 1


def cut(rows: Sequence[T], limit: int) -> tuple[Sequence[T], bool]:
    """At most `limit` of the rows that a query for `asked(limit)` found, and whether it found more."""
    return rows[:limit], len(rows) > limit
