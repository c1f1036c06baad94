"""A page of a list, and whether there are more rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from services import paging
from services.orm import Job


@pytest.mark.parametrize(("limit", "more"), [(1, True), (2, True), (3, False), (4, False)])
def test_a_page_says_whether_there_are_more_rows(
    session: Session, make_job: Callable[..., Job], limit: int, more: bool
) -> None:
    made = [make_job().id for _ in range(3)]
    assert paging.first(session, select(Job.id).order_by(Job.id), limit) == (made[:limit], more)
    assert paging.newest(session, select(Job.id), Job.id, after=None, limit=limit) == (made[::-1][:limit], more)


def test_the_next_page_begins_below_the_last_row(session: Session, make_job: Callable[..., Job]) -> None:
    made = [make_job().id for _ in range(3)]
    assert paging.newest(session, select(Job.id), Job.id, after=made[2], limit=1) == ([made[1]], True)
    assert paging.newest(session, select(Job.id), Job.id, after=made[1], limit=1) == ([made[0]], False)
    assert paging.newest(session, select(Job.id), Job.id, after=made[0], limit=1) == ([], False)


def test_rows_that_were_asked_for_are_cut_to_the_page() -> None:
    assert paging.cut(range(paging.asked(3)), 3) == (range(3), True)
    assert paging.cut([1, 2, 3], 3) == ([1, 2, 3], False)
