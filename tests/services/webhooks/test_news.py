"""What is told of batches and models, once whoever notices it, and whom it is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db
from services.access import tenants
from services.errors import BatchNotFound, Conflict, Invalid, JobNotFound, QuotaExceeded
from services.jobs import attempts, batches, control
from services.jobs.leases import Lease
from services.models import registry
from services.orm import Batch, Delivery, Job, Webhook, new_id
from services.settings import Settings
from services.upkeep import reconciler
from services.webhooks import news, subscriptions
from services.webhooks.posting import SendResult
from tests.ringing import FakeDoorbell

MakeBatch = Callable[..., tuple[str, Sequence[str]]]


@pytest.fixture
def make_batch(engine: Engine) -> MakeBatch:
    """A factory of batches with a job for each of the tags given; the ids of both."""

    def make(*tags: dict[str, str], tenant: str = "default") -> tuple[str, Sequence[str]]:
        spec = {
            "architecture": {"cell": "gru", "hidden_size": 4},
            "training": {"epochs": 3, "loss": "cross_entropy"},
            "data": {"synthetic": {"samples": 20, "length": 5, "features": 2, "classes": 2}},
        }
        document = {"name": "nightly", "jobs": [spec | {"tags": each} for each in tags]}
        with db.session_scope(engine) as session:
            batch = batches.submit(session, document, tenant=tenant).batch
            return batch.id, [job.id for job in batches.members(session, batch.id)]

    return make


def hook(engine: Engine, *events: str, **given: Any) -> Webhook:
    with db.session_scope(engine) as session:
        url, tenant = "https://example.com/", given.pop("tenant", "default")
        return subscriptions.create(session, url, events=events or None, tenant=tenant, **given)


def messages(engine: Engine, *hooks: Webhook) -> list[tuple[str, dict[str, Any]]]:
    """What was written for these webhooks, or for all, oldest first: events and their data."""
    query = sa.select(Delivery).order_by(Delivery.id)
    if hooks:
        query = query.where(Delivery.webhook_id.in_([one.id for one in hooks]))
    with db.read_scope(engine) as session:
        return [(row.event, json.loads(row.payload)["data"]) for row in session.scalars(query)]


def cancel(engine: Engine, *job_ids: str) -> None:
    for job_id in job_ids:
        with db.session_scope(engine) as session:
            control.cancel(session, job_id)


def end(engine: Engine, batch_id: str) -> bool:
    with db.session_scope(engine) as session:
        return batches.end(session, batch_id)


def over(engine: Engine) -> Sequence[str]:
    with db.read_scope(engine) as session:
        return batches.ended(session)


def test_a_batch_ends_with_the_last_of_its_jobs_and_is_told_with_what_came_of_each(
    engine: Engine, make_batch: MakeBatch
) -> None:
    webhook = hook(engine, "batch.ended")
    batch_id, (first, second, third) = make_batch({}, {}, {})
    with db.session_scope(engine) as session:
        attempts.succeed(session, _lease(session), {"metrics": {"test_loss": 0.5}}, [])
        attempts.fail(session, _lease(session), "trainer_crashed", "It fell. " * 100, retry=False)
    assert (over(engine), end(engine, batch_id), messages(engine)) == ([], False, [])
    cancel(engine, third)
    assert over(engine) == [batch_id]
    with db.read_scope(engine) as session:
        before = batches.summaries(session, [batch_id])[batch_id]
    assert (before.terminal, before.ended_at) == (True, None)
    assert end(engine, batch_id)
    assert (over(engine), end(engine, batch_id)) == ([], False)
    [(event, data)] = messages(engine, webhook)
    assert (event, data["id"], data["name"], data["status"], data["total"]) == (
        "batch.ended",
        batch_id,
        "nightly",
        "failed",
        3,
    )
    assert data["counts"] == {"succeeded": 1, "failed": 1, "cancelled": 1}
    assert [(one["id"], one["status"], one["metrics"]) for one in data["jobs"]] == [
        (second, "failed", {}),
        (first, "succeeded", {"test_loss": 0.5}),
        (third, "cancelled", {}),
    ]
    assert (data["jobs"][0]["reason"], len(data["jobs"][0]["message"])) == ("trainer_crashed", batches.MAX_MESSAGE + 1)
    assert data["links"] == {"self": f"/v1/batches/{batch_id}"}
    with db.read_scope(engine) as session:
        after = batches.summaries(session, [batch_id])[batch_id]
        assert after.ended_at == control.get(session, third).finished_at
        assert data["ended_at"] == news.moment(after.ended_at)
    assert after.revision != before.revision  # who has an ETag hears of it


def _lease(session: Any) -> Lease:
    job = attempts.claim(session, "default", worker="host:1", lease_seconds=60)
    assert job is not None
    return Lease.of(job)


def test_a_batch_of_many_jobs_names_some_and_counts_all(
    engine: Engine, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_TOLD", 2)
    hook(engine, "batch.ended")
    batch_id, ids = make_batch({}, {}, {})
    cancel(engine, *ids[:2])
    with db.session_scope(engine) as session:
        attempts.fail(session, _lease(session), "diverged", retry=False)
    assert end(engine, batch_id)
    [(_, data)] = messages(engine)
    assert ([one["id"] for one in data["jobs"]], data["total"]) == ([ids[2], ids[0]], 3)  # failures first


def test_a_batch_whose_jobs_were_deleted_has_ended(engine: Engine, make_batch: MakeBatch) -> None:
    hook(engine, "batch.ended")
    batch_id, ids = make_batch({}, {})
    cancel(engine, *ids)
    for job_id in ids:
        with db.session_scope(engine) as session:
            control.delete(session, job_id)
    assert end(engine, batch_id)
    [(_, data)] = messages(engine)
    assert (data["total"], data["jobs"]) == (0, [])
    assert data["ended_at"] >= data["created_at"]


def test_of_many_schedulers_at_once_one_tells_the_end_of_a_batch(
    engine: Engine, make_batch: MakeBatch, data_dir: Path
) -> None:
    webhook = hook(engine, "batch.ended")
    settings = Settings(data_dir=data_dir)
    known = []
    for _ in range(5):
        batch_id, ids = make_batch({}, {})
        known.append(batch_id)
        with ThreadPoolExecutor(6) as pool:  # the two last jobs end at once, while four schedulers look
            ends = [pool.submit(cancel, engine, job_id) for job_id in ids]
            passes = [pool.submit(reconciler.reconcile, engine, FakeDoorbell(), settings) for _ in range(4)]
        assert [done.exception() for done in ends] == [None, None]
        seen = [found for done in passes for found in done.result().ended]
        with ThreadPoolExecutor(4) as pool:
            seen += [batch_id for ended in pool.map(lambda one: end(engine, one), [batch_id] * 4) if ended]
        assert seen == [batch_id]
    assert [data["id"] for _, data in messages(engine, webhook)] == known


def test_an_end_that_is_rolled_back_is_told_by_the_next(engine: Engine, make_batch: MakeBatch) -> None:
    hook(engine, "batch.ended")
    batch_id, ids = make_batch({})
    cancel(engine, *ids)
    with suppress(ZeroDivisionError), db.session_scope(engine) as session:
        assert batches.end(session, batch_id)
        raise ZeroDivisionError
    assert (messages(engine), over(engine)) == ([], [batch_id])
    assert end(engine, batch_id)
    assert len(messages(engine)) == 1


def test_the_end_of_a_batch_is_for_those_who_want_it(engine: Engine, make_batch: MakeBatch) -> None:
    with db.session_scope(engine) as session:
        tenants.create(session, "acme")
    others = hook(engine, "batch.ended", tenant="acme")
    speech = hook(engine, "batch.ended", tags={"team": "speech"})
    both = hook(engine, "batch.ended", tags={"team": "speech", "night": "yes"})
    ends_of_jobs = hook(engine)
    batch_id, ids = make_batch({"team": "speech"}, {"night": "yes"})
    cancel(engine, *ids)
    assert end(engine, batch_id)
    assert [event for event, _ in messages(engine, speech)] == ["batch.ended"]
    assert messages(engine, others) == messages(engine, both) == []  # no job has both tags
    assert [event for event, _ in messages(engine, ends_of_jobs)] == ["job.cancelled", "job.cancelled"]


def test_moves_of_an_alias_are_told_with_the_job_behind_the_version(
    engine: Engine, make_job: Callable[..., Job]
) -> None:
    everyone, speech = hook(engine, "model.promoted"), hook(engine, "model.promoted", tags={"team": "speech"})
    made = []
    for tags in ({"team": "speech"}, {}):
        made.append(make_job(tags=tags).id)
        with db.session_scope(engine) as session:
            attempts.succeed(session, _lease(session), {}, [])
            registry.register(session, "vowels", made[-1])
    with suppress(ZeroDivisionError), db.session_scope(engine) as session:
        registry.promote(session, "vowels", "1")
        raise ZeroDivisionError
    with db.session_scope(engine) as session:
        registry.promote(session, "vowels", "1")
        registry.promote(session, "vowels", "1")  # it is there already
        registry.promote(session, "vowels", "2", reason="better")
        registry.rollback(session, "vowels")
        registry.demote(session, "vowels", "production")
    moved = [
        [data[key] for key in ("action", "from_version", "to_version", "job_id")]
        for _, data in messages(engine, everyone)
    ]
    assert moved == [
        ["promote", None, 1, made[0]],
        ["promote", 1, 2, made[1]],
        ["rollback", 2, 1, made[0]],
        ["demote", 1, None, made[0]],
    ]
    event, second = messages(engine, everyone)[1]
    assert (event, second["model"], second["alias"], second["reason"]) == (
        "model.promoted",
        "vowels",
        "production",
        "better",
    )
    assert [data["action"] for _, data in messages(engine, speech)] == ["promote", "rollback", "demote"]


def test_a_webhook_for_one_job_or_batch_hears_of_nothing_else(engine: Engine, make_batch: MakeBatch) -> None:
    (one, ids), (other, others) = make_batch({}, {}), make_batch({})
    of_job, of_batch = hook(engine, only=ids[0]), hook(engine, only=one)
    all_of_batch = hook(engine, "job.cancelled", "batch.ended", only=one)
    assert (of_job.events, of_batch.events) == (["job.succeeded", "job.failed", "job.cancelled"], ["batch.ended"])
    cancel(engine, *ids, *others)
    assert end(engine, one)
    assert end(engine, other)
    assert [(event, data["id"]) for event, data in messages(engine, of_job)] == [("job.cancelled", ids[0])]
    assert [(event, data["id"]) for event, data in messages(engine, of_batch)] == [("batch.ended", one)]
    assert [(event, data["id"]) for event, data in messages(engine, all_of_batch)] == [
        ("job.cancelled", ids[0]),
        ("job.cancelled", ids[1]),
        ("batch.ended", one),
    ]


def test_what_a_webhook_cannot_be_for_is_said(engine: Engine, make_batch: MakeBatch) -> None:
    with db.session_scope(engine) as session:
        tenants.create(session, "acme")
    foreign, foreign_jobs = make_batch({}, tenant="acme")
    batch_id, [job_id] = make_batch({})
    for only, error in ((foreign, BatchNotFound), (foreign_jobs[0], JobNotFound), ("batch_1", BatchNotFound)):
        with pytest.raises(error):
            hook(engine, only=only)
    for only in ("ds_1", "", "vowels"):
        with pytest.raises(Invalid) as caught:
            hook(engine, only=only)
        assert caught.value.problems[0].pointer == "/only"
    for only, events, pointer in (
        (job_id, ["job.failed", "batch.ended"], "/events/1"),
        (batch_id, ["model.promoted"], "/events/0"),
    ):
        with pytest.raises(Invalid, match="cannot happen") as caught:
            hook(engine, *events, only=only)
        assert [problem.pointer for problem in caught.value.problems] == [pointer]
    cancel(engine, job_id)
    with pytest.raises(Conflict, match=r"has ended \(cancelled\)"):
        hook(engine, only=job_id)
    hook(engine, only=batch_id)  # its end is not told yet
    assert end(engine, batch_id)
    with pytest.raises(Conflict, match="has ended, so there is nothing more"):
        hook(engine, only=batch_id)


def test_a_webhook_made_while_its_job_ends_is_refused_or_hears_of_it(
    engine: Engine, make_job: Callable[..., Job]
) -> None:
    def make(job_id: str) -> bool:
        with suppress(Conflict):
            return bool(hook(engine, only=job_id))
        return False

    for _ in range(10):
        job = make_job()
        with ThreadPoolExecutor(2) as pool:
            made, ended = pool.submit(make, job.id), pool.submit(cancel, engine, job.id)
            ended.result()
        about_job = [data["id"] for _, data in messages(engine) if data["id"] == job.id]
        assert len(about_job) == made.result()


def test_those_for_one_job_or_batch_count_apart(
    engine: Engine, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "MOST_ONLY", 1)
    hook(engine, only=make_job().id)
    hook(engine)
    with pytest.raises(QuotaExceeded, match="has 1 webhooks for one job, batch, search or schedule and may have 1"):
        hook(engine, only=make_job().id)


def test_a_webhook_is_forgotten_a_week_after_what_it_was_for(engine: Engine, make_batch: MakeBatch) -> None:
    (ended, ids), (going_on, others) = make_batch({}, {}), make_batch({})
    for_all = hook(engine)
    kept = [hook(engine, only=going_on), hook(engine, only=others[0])]
    of_job, of_batch, of_deleted = hook(engine, only=ids[0]), hook(engine, only=ended), hook(engine, only=ids[1])
    cancel(engine, *ids)
    assert end(engine, ended)

    def forget() -> list[str]:
        with db.session_scope(engine) as session:
            before = set(session.scalars(sa.select(Webhook.id)))
            gone = subscriptions.forget_spent(session)
            after = set(session.scalars(sa.select(Webhook.id)))
            assert gone == len(before - after)
            return sorted(before - after)

    assert forget() == []
    with db.session_scope(engine) as session:  # a week later
        control.delete(session, ids[1])
        session.execute(sa.update(Webhook).values(created_at=db.now() - subscriptions.SPENT_SECONDS - 1))
        session.execute(sa.update(Delivery).values(next_at=None))
    assert forget() == []  # for what was told is not a week old
    with db.session_scope(engine) as session:
        session.execute(sa.update(Delivery).values(created_at=db.now() - subscriptions.SPENT_SECONDS - 1))
        session.execute(sa.update(Delivery).where(Delivery.webhook_id == of_batch.id).values(next_at=db.now()))
    assert forget() == sorted([of_job.id, of_deleted.id])
    assert messages(engine, of_job, of_deleted) == []
    with db.session_scope(engine) as session:
        session.execute(sa.update(Delivery).values(next_at=None))
    assert forget() == [of_batch.id]
    with db.read_scope(engine) as session:
        assert set(session.scalars(sa.select(Webhook.id))) == {for_all.id, *(one.id for one in kept)}


def test_an_old_secret_signs_for_a_day_and_is_forgotten(engine: Engine, make_job: Callable[..., Job]) -> None:
    webhook = hook(engine, "job.queued")

    def secrets() -> Sequence[str]:
        with db.session_scope(engine) as session:
            return subscriptions.begin_test(session, webhook.id, tenant="default").secrets

    def rotate() -> str:
        with db.session_scope(engine) as session:
            return subscriptions.rotate(session, webhook.id, tenant="default").secret

    def later(seconds: float) -> None:
        with db.session_scope(engine) as session:
            row = subscriptions.get(session, webhook.id, tenant="default")
            row.old_secrets = [{**one, "until": one["until"] - seconds} for one in row.old_secrets or ()]

    assert secrets() == [webhook.secret]
    second = rotate()
    make_job()
    with db.session_scope(engine) as session:
        claimed_message = subscriptions.claim(session)
        assert claimed_message is not None
    assert claimed_message.secrets == secrets() == [second, webhook.secret]
    assert second not in repr(claimed_message)
    later(3600)
    third = rotate()  # as by a request that was sent again
    assert secrets() == [third, second, webhook.secret]
    later(subscriptions.ROTATION_SECONDS - 1800)
    assert secrets() == [third, second]
    later(1800)
    assert secrets() == [third]
    with db.session_scope(engine) as session:
        assert subscriptions.forget_spent(session) == 0
        assert subscriptions.get(session, webhook.id, tenant="default").old_secrets is None
    newest = [rotate() for _ in range(5)]
    assert secrets() == newest[: -2 - subscriptions.MOST_OLD_SECRETS : -1]


def test_whether_batches_have_ended_is_asked_of_those_that_go_on(engine: Engine, make_batch: MakeBatch) -> None:
    """However many jobs have ended, the look does not read them."""
    _, (going_on,) = make_batch({})
    with db.session_scope(engine) as session:
        job = session.get_one(Job, going_on)
        columns = {column.name: getattr(job, column.name) for column in Job.__table__.columns}
        rows = [columns | {"id": new_id("job")} for _ in range(2_000)]
        session.execute(sa.insert(Job), rows)
        session.execute(sa.update(Job).where(Job.id != going_on).values(status="cancelled"))
    asked: list[tuple[str, Any]] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: asked.append((args[2], args[3])))
    assert over(engine) == []
    [(statement, parameters)] = [one for one in asked if one[0].startswith("SELECT batches.id")]
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("ANALYZE jobs")  # which counts the rows, for its choice of an index
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # of a table of one batch
        explain = "EXPLAIN" if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        plan = str(connection.exec_driver_sql(f"{explain} {statement}", parameters).all())
    assert "ix_batches_going_on" in plan
    assert "ix_jobs_batch_going_on" in plan


def test_nobody_listening_costs_one_look(engine: Engine, make_batch: MakeBatch) -> None:
    batch_id, ids = make_batch({})
    cancel(engine, *ids)
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert end(engine, batch_id)
    looks = [text for text in statements if text.startswith(("SELECT", "UPDATE", "INSERT"))]
    assert [text.split()[0] for text in looks] == ["UPDATE", "SELECT"]
    with db.read_scope(engine) as session:
        assert session.get_one(Batch, batch_id).ended_at is not None


def test_deliveries_are_counted_and_what_waits_is_known(engine: Engine, make_job: Callable[..., Job]) -> None:
    def backlog() -> subscriptions.Backlog:
        with db.read_scope(engine) as session:
            return subscriptions.backlog(session)

    assert backlog() == subscriptions.Backlog(0, 0, 0, 0.0)
    first, second = hook(engine, "job.queued"), hook(engine, "job.queued")
    make_job()
    with db.session_scope(engine) as session:
        session.execute(sa.update(Delivery).where(Delivery.webhook_id == first.id).values(next_at=db.now() - 500))
    found = backlog()
    assert (found.enabled, found.disabled, found.waiting) == (2, 0, 2)
    assert 500 <= found.oldest_seconds < 520
    with db.session_scope(engine) as session:  # one that is left alone is not late
        session.execute(sa.update(Webhook).where(Webhook.id == first.id).values(quiet_until=db.now() - 50))
    assert 50 <= backlog().oldest_seconds < 70
    with db.session_scope(engine) as session:
        message = subscriptions.claim(session, without=[second.id])
        assert message is not None
    with db.session_scope(engine) as session:
        subscriptions.record(session, message, SendResult(410, "The receiver answered 410."))
    found = backlog()
    assert (found.enabled, found.disabled, found.waiting) == (1, 1, 1)
    assert found.oldest_seconds < 20
