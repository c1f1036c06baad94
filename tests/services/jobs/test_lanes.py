"""Whose turn it is: tenants by their shares, the batches of a tenant, and nobody saves up turns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.access import tenants
from services.errors import BadRequest
from services.jobs import attempts, control, lanes, queries
from services.jobs.leases import Lease
from services.orm import Job, Lane
from tests.services.jobs.test_claims import at_once

Submit = Callable[..., list[str]]
POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one writer at a time


@pytest.fixture
def submit(engine: Engine, make_spec: Callable[..., Any]) -> Submit:
    """Submits so many jobs of a tenant, each by itself or all as one batch; the tenant is made if need be."""

    def make(tenant: str, count: int = 1, batch: str | None = None, **spec: Any) -> list[str]:
        wanted = control.Wanted(make_spec(**spec), {}, None)
        with db.session_scope(engine) as session:
            if all(one.name != tenant for one in tenants.every(session)):
                tenants.create(session, tenant)
            if batch is not None:
                return [job.id for job in control.create_all(session, [wanted] * count, tenant=tenant, batch_id=batch)]
            return [control.create_all(session, [wanted], tenant=tenant)[0].id for _ in range(count)]

    return make


def claim(engine: Engine) -> Job | None:
    with db.session_scope(engine) as session:
        return attempts.claim(session, "default", worker="w", lease_seconds=60)


def run(engine: Engine) -> Job:
    """Claim a job, and end it at once."""
    job = claim(engine)
    assert job is not None
    with db.session_scope(engine) as session:
        attempts.succeed(session, Lease.of(job), {}, [])
    return job


def order(engine: Engine, count: int) -> str:
    """The first letters of the tenants of the next so many jobs."""
    return "".join(run(engine).tenant[0] for _ in range(count))


def set_tenant(engine: Engine, name: str, **limits: Any) -> None:
    with db.session_scope(engine) as session:
        tenants.change(session, name, **limits)


def open_lanes(session: Session) -> list[tuple[int, str]]:
    query = sa.select(Lane.priority, Lane.tenant).where(Lane.has_jobs).order_by(Lane.priority, Lane.tenant)
    return [(row.priority, row.tenant) for row in session.execute(query)]


def test_two_jobs_do_not_wait_for_the_sixteen_of_another_tenant(engine: Engine, submit: Submit) -> None:
    submit("acme", 16)
    submit("beta", 2)
    assert order(engine, 18) == "abab" + "a" * 14


def test_a_share_is_a_number_of_turns(engine: Engine, submit: Submit) -> None:
    submit("acme", 40)
    submit("beta", 40)
    submit("corp", 40)
    set_tenant(engine, "beta", share=3)
    set_tenant(engine, "corp", share=0.5)
    got = order(engine, 36)
    assert {tenant: got.count(tenant) for tenant in "abc"} == {"a": 8, "b": 24, "c": 4}
    for end in range(1, 37):  # and at no time does one wait for more than its part
        assert abs(got[:end].count("b") - end * 24 / 36) <= 2
    set_tenant(engine, "beta", share=None)
    assert order(engine, 20).count("b") == 8


def test_a_higher_priority_goes_before_any_turn(engine: Engine, submit: Submit) -> None:
    submit("beta", 2)
    submit("acme", 3, priority=1)
    assert order(engine, 5) == "aaabb"


def test_batches_of_a_tenant_take_turns_and_single_jobs_count_as_one(engine: Engine, submit: Submit) -> None:
    sweep, alone, night = submit("acme", 3, "sweep"), submit("acme", 3), submit("acme", 3, "night")
    assert [run(engine).id for _ in range(9)] == [
        job_id for turn in zip(sweep, alone, night, strict=True) for job_id in turn
    ]


def test_a_batch_that_comes_later_begins_at_the_turn_of_the_others(engine: Engine, submit: Submit) -> None:
    first = submit("acme", 6, "sweep")
    assert [run(engine).id for _ in range(3)] == first[:3]
    second, single = submit("acme", 2, "night"), submit("acme")
    expected = [first[3], second[0], *single, first[4], second[1], first[5]]
    assert [run(engine).id for _ in range(6)] == expected


def test_a_tenant_that_had_no_jobs_saves_up_no_turns(engine: Engine, submit: Submit) -> None:
    submit("acme", 30)
    submit("corp", 30)
    order(engine, 41)
    submit("beta", 10)
    assert order(engine, 9) == "bcabcabca"


def test_a_tenant_at_its_limit_saves_up_no_turns(engine: Engine, submit: Submit) -> None:
    for tenant in ("acme", "beta", "corp"):
        submit(tenant, 30)
    set_tenant(engine, "beta", max_running=0)
    assert "b" not in order(engine, 30)
    set_tenant(engine, "beta", max_running=None)
    assert order(engine, 12) == "babcabcabcab"


def test_a_small_share_is_no_larger_for_jobs_that_come_one_by_one(engine: Engine, submit: Submit) -> None:
    submit("acme", 30)
    submit("beta")
    set_tenant(engine, "beta", share=0.25)
    got = ""
    for _ in range(20):
        got += order(engine, 1)
        if got[-1] == "b":
            submit("beta")
    assert got.count("b") == 4


def test_a_tenant_that_is_alone_uses_up_nothing(engine: Engine, submit: Submit) -> None:
    submit("acme", 30)
    order(engine, 20)
    submit("beta", 5)
    assert order(engine, 6) == "ababab"


def test_jobs_that_come_back_go_first_within_their_tenant_only(engine: Engine, submit: Submit) -> None:
    first, *rest = submit("acme", 3, "sweep")
    submit("beta", 3)
    job = claim(engine)
    assert job is not None
    assert job.id == first
    with db.session_scope(engine) as session:
        attempts.give_back(session, Lease.of(job))
        control.pause(session, rest[1])
        later = control.resume(session, rest[1])  # now before the one that it was behind
        assert later.status == "queued"
    ids = []
    tenants_of = ""
    for _ in range(6):
        job = run(engine)
        ids += [job.id] if job.tenant == "acme" else []
        tenants_of += job.tenant[0]
    assert tenants_of == "bababa"
    assert ids == [first, *rest]
    late = submit("acme", 2, "late")
    assert [run(engine).id for _ in range(2)] == late


def test_a_job_that_is_tried_again_keeps_no_newcomer_back(engine: Engine, submit: Submit) -> None:
    sweep = submit("acme", 6, "sweep")
    failed = claim(engine)
    assert failed is not None
    with db.session_scope(engine) as session:
        attempts.fail(session, Lease.of(failed), "internal", retry=True)  # waits for seconds, at the head
    assert [run(engine).id for _ in range(3)] == sweep[1:4]
    night = submit("acme", 2, "night")
    assert [run(engine).id for _ in range(3)] == [sweep[4], night[0], sweep[5]]


def test_claims_at_once_share_fairly_too(engine: Engine, submit: Submit) -> None:
    submit("acme", 16)
    submit("beta", 16)
    got = [job.tenant for job in at_once([lambda: claim(engine)] * 12) if job]
    assert (got.count("acme"), got.count("beta")) == (6, 6)


def turn_of(engine: Engine, tenant: str) -> float:
    with db.read_scope(engine) as session:
        return session.scalars(sa.select(Lane.turn).where(Lane.tenant == tenant)).one()


@POSTGRESQL
def test_no_claim_waits_for_the_commit_of_another(engine: Engine, submit: Submit) -> None:
    submit("acme", 3)
    submit("beta", 3)
    with ExitStack() as stack:
        sessions = [stack.enter_context(db.session_scope(engine)) for _ in range(5)]
        claimed = [attempts.claim(session, "default", worker="w", lease_seconds=60) for session in sessions]
        assert "".join(job.tenant[0] for job in claimed if job) == "ababa"
    assert order(engine, 1) == "b"


@POSTGRESQL
def test_a_claim_does_not_ask_whether_the_connection_lives_that_has_just_answered(
    engine: Engine, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit("ann", 2)
    submit("bob", 2)
    assert claim(engine) is not None
    pings: list[object] = []
    monkeypatch.setattr(engine.dialect, "do_ping", pings.append)
    monkeypatch.setattr(db, "TRUSTED_SECONDS", 60.0)
    assert claim(engine) is not None
    assert pings == []


@POSTGRESQL
def test_a_lane_that_is_being_closed_is_not_waited_for(engine: Engine, submit: Submit) -> None:
    submit("acme")
    submit("beta", 4)
    set_tenant(engine, "acme", share=2)
    with db.session_scope(engine) as session:
        job = attempts.claim(session, "default", worker="w", lease_seconds=60)
        assert job is not None
        assert job.tenant == "acme"
        assert order(engine, 3) == "bbb"
        assert turn_of(engine, "acme") == 0.5


@POSTGRESQL
def test_a_turn_without_a_job_is_given_back(engine: Engine, submit: Submit) -> None:
    submit("acme", 2)
    submit("beta", 4)
    set_tenant(engine, "acme", share=2)
    with db.session_scope(engine) as one, db.session_scope(engine) as two:
        assert attempts.claim(one, "default", worker="w", lease_seconds=60) is not None
        assert order(engine, 1) == "b"
        assert attempts.claim(two, "default", worker="w", lease_seconds=60) is not None
        assert turn_of(engine, "acme") == 1.0
        assert order(engine, 2) == "bb"  # each took a turn of acme before: nobody saw that its last job was claimed
        assert turn_of(engine, "acme") == 1.0


def test_claims_of_one_transaction_take_turns_too(engine: Engine, submit: Submit) -> None:
    submit("acme", 2)
    submit("beta", 3)
    with db.session_scope(engine) as session:
        claimed = [attempts.claim(session, "default", worker="w", lease_seconds=60) for _ in range(6)]
    assert "".join(job.tenant[0] if job else "-" for job in claimed) == "ababb-"


def test_no_job_is_forgotten_while_lanes_open_and_close(engine: Engine, submit: Submit) -> None:
    """Submitting to a lane against claiming its last job, again and again."""
    submit("beta", 2)
    submit("acme")

    def submits() -> list[str]:
        return [job_id for _ in range(15) for job_id in submit("acme")]

    def claims() -> list[str]:
        return [job.id for _ in range(20) if (job := claim(engine)) is not None]

    done = at_once([submits, submits, claims, claims])
    taken = {job_id for found in done[2:] for job_id in found}
    while (job := claim(engine)) is not None:
        taken.add(job.id)
    assert len(taken) == 33
    with db.read_scope(engine) as session:
        assert session.scalar(sa.select(sa.func.count()).where(Job.status == "queued")) == 0
        assert open_lanes(session) == []
        assert lanes.waiting(session) == []


def test_batches_over_the_same_lanes_in_other_orders_do_not_block_each_other(
    engine: Engine, make_spec: Callable[..., Any]
) -> None:
    up = [control.Wanted(make_spec(priority=n), {}, None) for n in range(8)]

    def submits(wanted: list[control.Wanted]) -> Callable[[], int]:
        def act() -> int:
            with db.session_scope(engine) as session:
                return len(control.create_all(session, wanted, batch_id="b"))

        return act

    assert at_once([submits(up), submits(up[::-1])] * 4) == [8] * 8


def test_a_lane_is_open_while_it_has_queued_jobs(engine: Engine, submit: Submit) -> None:
    first, second = submit("acme", 2)
    submit("beta", priority=2)
    with db.session_scope(engine) as session:
        assert open_lanes(session) == [(0, "acme"), (2, "beta")]
        control.cancel(session, first)
        assert open_lanes(session) == [(0, "acme"), (2, "beta")]
        control.pause(session, second)
        assert open_lanes(session) == [(2, "beta")]
        control.resume(session, second)
        assert open_lanes(session) == [(0, "acme"), (2, "beta")]
    run(engine)
    with db.session_scope(engine) as session:
        assert open_lanes(session) == [(0, "acme")]
        session.execute(sa.update(Job).where(Job.id == second).values(priority=7))  # by hand, whatever for
        lanes.close_empty(session)
        assert open_lanes(session) == [(7, "acme")]
    assert run(engine).id == second


def test_lanes_are_forgotten_when_they_would_begin_anew_anyway(engine: Engine, submit: Submit) -> None:
    def left() -> list[str]:
        with db.session_scope(engine) as session:
            lanes.forget(session)
            return [*session.scalars(sa.select(Lane.tenant).order_by(Lane.tenant))]

    for tenant, count in {"acme": 1, "beta": 1, "corp": 9, "dora": 9}.items():
        submit(tenant, count)
    set_tenant(engine, "acme", share=0.5)
    assert order(engine, 6) == "abcdcd"
    assert left() == ["acme", "corp", "dora"]  # acme goes on at 2, and the others have come to 1
    order(engine, 14)
    assert left() == []


@pytest.mark.parametrize("share", [0, -1, 0.001, 101, float("nan"), float("inf")])
def test_a_share_that_is_none_is_refused(session: Session, share: float) -> None:
    with pytest.raises(BadRequest) as refused:
        tenants.create(session, "acme", share=share)
    assert [problem.pointer for problem in refused.value.problems] == ["/share"]


def test_the_position_counts_the_jobs_of_the_own_tenant(
    engine: Engine, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit("beta", 5)
    first, second = submit("acme", 2)
    (urgent,) = submit("acme", priority=1)
    submit("acme", priority=-1)

    def places() -> list[int | None]:
        with db.read_scope(engine) as session:
            return [queries.position(queries.one(session.connection(), job_id)) for job_id in (urgent, first, second)]

    assert places() == [0, 1, 2]
    monkeypatch.setattr(queries, "MAX_POSITION", 1)
    assert places() == [0, 1, 1]
