"""A request that is sent twice does its work once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db, idempotency
from services.errors import IdempotencyConflict, IdempotencyInFlight
from services.idempotency import Key
from services.orm import IdempotencyKey, Job
from tests.rows import create_job
from tests.services.jobs.test_claims import at_once

KEY = Key("POST /v1/jobs", "k-1", "a" * 64)


@pytest.fixture
def submit(engine: Engine, make_spec: Callable[..., Any]) -> Callable[[Key], str]:
    """Submits a job with a key and returns its id."""

    def once(key: Key) -> str:
        with db.session_scope(engine) as session:
            if (earlier := idempotency.claim(session, key)) is not None:
                return earlier
            made = create_job(session, make_spec()).id
            idempotency.settle(session, key, made)
            return made

    return once


def count(engine: Engine) -> int:
    with db.read_scope(engine) as session:
        return session.scalar(sa.select(sa.func.count()).select_from(Job)) or 0


def test_the_same_request_gets_the_same_job(engine: Engine, submit: Callable[[Key], str]) -> None:
    assert submit(KEY) == submit(KEY)
    assert count(engine) == 1


def test_another_request_with_the_key_is_refused(engine: Engine, submit: Callable[[Key], str]) -> None:
    submit(KEY)
    with pytest.raises(IdempotencyConflict):
        submit(Key(KEY.scope, KEY.key, "b" * 64))
    assert count(engine) == 1


def test_keys_of_other_scopes_are_others(engine: Engine, submit: Callable[[Key], str]) -> None:
    assert submit(KEY) != submit(Key("POST /v1/other", KEY.key, KEY.fingerprint))


def test_twenty_requests_at_once_make_one_job(engine: Engine, submit: Callable[[Key], str]) -> None:
    assert len(set(at_once([lambda: submit(KEY)] * 20))) == 1
    assert count(engine) == 1


def test_a_request_that_failed_leaves_its_key_free(engine: Engine, submit: Callable[[Key], str]) -> None:
    with pytest.raises(ZeroDivisionError), db.session_scope(engine) as session:
        idempotency.settle(session, KEY, str(idempotency.claim(session, KEY) or 1 // 0))
    submit(KEY)
    assert count(engine) == 1


def test_a_key_that_was_never_settled_is_in_flight(engine: Engine) -> None:
    with db.session_scope(engine) as session:
        idempotency.claim(session, KEY)
        with pytest.raises(IdempotencyInFlight):
            idempotency.claim(session, KEY)


def test_keys_are_forgotten_after_a_day(engine: Engine, submit: Callable[[Key], str]) -> None:
    submit(KEY)
    submit(Key(KEY.scope, "k-2", KEY.fingerprint))
    with db.session_scope(engine) as session:
        assert not idempotency.any_old(session)
        assert idempotency.forget_old(session) == 0
        old = sa.update(IdempotencyKey).where(IdempotencyKey.key == "k-1")
        session.execute(old.values(created_at=db.now() - idempotency.KEEP_SECONDS - 1))
        assert idempotency.any_old(session)
        assert idempotency.forget_old(session) == 1
    submit(KEY)
    assert count(engine) == 3
