"""What is counted of jobs, and what the scheduler asks the database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db, metrics
from services.jobs import attempts, control, workers
from services.jobs.leases import Lease
from services.orm import Delivery, Job, Webhook
from services.schedules import ledger, outcomes
from services.settings import Settings
from services.upkeep.census import Census
from services.webhooks import subscriptions
from services.webhooks.posting import SendResult
from tests.ports import free_port
from tests.scraping import Scrape, scrape

MakeJob = Callable[..., Job]
Read = Callable[[], Scrape]


@pytest.fixture
def read(engine: Engine) -> Iterator[Read]:
    """This process counts as a scheduler does; reads what it shows."""
    settings = Settings(metrics_port=free_port())
    with metrics.alone(settings, Census(engine, stuck_seconds=60)):
        yield lambda: scrape(settings.metrics_port)


def claimed(engine: Engine, seconds: float = 60) -> Lease:
    with db.session_scope(engine) as session:
        job = attempts.claim(session, "default", worker="here:1", lease_seconds=seconds)
        assert job is not None
    return Lease.of(job)


def test_a_job_is_counted_from_its_birth_to_its_end(engine: Engine, make_job: MakeJob, read: Read) -> None:
    make_job()
    lease = claimed(engine)
    with db.session_scope(engine) as session:
        attempts.succeed(session, lease, {}, [])
    found = read()
    assert found.value("loopline_jobs_submitted_total", queue="default") == 1
    assert found.value("loopline_attempts_total", queue="default") == 1
    assert found.value("loopline_runs_total", queue="default", outcome="succeeded", reason="") == 1
    assert found.value("loopline_wait_seconds_count", queue="default") == 1
    assert found.value("loopline_run_seconds_count", queue="default", outcome="succeeded") == 1
    assert found.total("loopline_retries_total") == 0


def test_what_is_rolled_back_is_not_counted(engine: Engine, make_job: MakeJob, read: Read) -> None:
    make_job()
    with suppress(ZeroDivisionError), db.session_scope(engine) as session:
        assert attempts.claim(session, "default", worker="here:1", lease_seconds=60)
        raise ZeroDivisionError
    assert read().total("loopline_attempts_total") == 0
    claimed(engine)
    assert read().total("loopline_attempts_total") == 1


def test_a_wait_is_counted_from_when_the_job_could_have_run(engine: Engine, make_job: MakeJob, read: Read) -> None:
    """Queued for 100 s; then tried again after a back-off that was over 7 s ago; the 40 s it ran are no wait."""
    job = make_job(limits={"max_retries": 1})
    with db.session_scope(engine) as session:
        session.execute(sa.update(Job).values(created_at=db.now() - 100))
    lease = claimed(engine)
    with db.session_scope(engine) as session:
        session.execute(sa.update(Job).values(attempt_started_at=db.now() - 40))
        attempts.fail(session, lease, "trainer_crashed", retry=True)
    with db.session_scope(engine) as session:
        session.execute(sa.text("UPDATE events SET at = at - 50 WHERE job_id = :id"), {"id": job.id})
        session.execute(sa.update(Job).values(not_before=db.now() - 7))
    claimed(engine)
    found = read()
    assert found.value("loopline_wait_seconds_count", queue="default") == 2
    assert found.value("loopline_wait_seconds_sum", queue="default") == pytest.approx(107, abs=3)
    assert found.value("loopline_run_seconds_sum", queue="default", outcome="queued") == pytest.approx(40, abs=3)
    assert found.value("loopline_retries_total", queue="default", reason="trainer_crashed") == 1
    assert found.total("loopline_runs_total") == 0


def test_a_job_that_loses_its_workers_is_counted_at_every_loss(engine: Engine, make_job: MakeJob, read: Read) -> None:
    make_job()
    for _ in range(attempts.MAX_LOST + 1):
        claimed(engine, seconds=-1)
        with db.session_scope(engine) as session:
            attempts.expire(session)
    found = read()
    assert found.value("loopline_lease_expiries_total") == attempts.MAX_LOST + 1
    assert found.value("loopline_retries_total", queue="default", reason="worker_lost") == attempts.MAX_LOST
    assert found.value("loopline_runs_total", queue="default", outcome="failed", reason="worker_lost") == 1


def test_giving_back_and_cancelling_have_their_reasons(engine: Engine, make_job: MakeJob, read: Read) -> None:
    job = make_job()
    lease = claimed(engine)
    with db.session_scope(engine) as session:
        attempts.give_back(session, lease)
    with db.session_scope(engine) as session:
        control.cancel(session, job.id)
    found = read()
    assert found.value("loopline_retries_total", queue="default", reason="given_back") == 1
    labels = {"queue": "default", "outcome": "cancelled", "reason": "cancelled_by_user"}
    assert found.value("loopline_runs_total", **labels) == 1
    assert found.value("loopline_run_seconds_count", queue="default", outcome="queued") == 1


def test_failures_that_have_not_happened_are_zeros(read: Read) -> None:
    metrics.expect(["default"])
    found = read()
    assert found.value("loopline_runs_total", queue="default", outcome="failed", reason="diverged") == 0
    assert found.value("loopline_lease_expiries_total") == 0


def test_who_fires_schedules_shows_a_zero_for_each_outcome(read: Read) -> None:
    ledger.expect_counts()
    found = read()
    shown = {each: found.value("loopline_schedule_firings_total", outcome=each) for each in outcomes.Outcome}
    assert shown == dict.fromkeys(outcomes.Outcome, 0)


def test_the_names_of_queues_cannot_grow_without_bound(read: Read) -> None:
    for number in range(metrics.MOST_QUEUES + 50):
        metrics.SUBMITTED.inc(queue=f"queue-{number}")
    series = [key for key in read().samples if key[0] == "loopline_jobs_submitted_total"]
    assert len(series) == metrics.MOST_QUEUES + 1
    assert read().value("loopline_jobs_submitted_total", queue=metrics.OTHER) == 50


def test_nothing_is_counted_nor_imported_without_a_port() -> None:
    with metrics.alone(Settings()), metrics.shared(Settings()) as environment:
        assert environment == {}
        metrics.EXPIRIES.inc()
        assert not metrics.are_on()


def test_a_port_that_is_taken_is_told_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(metrics_port=free_port())
    with metrics.alone(settings), metrics.alone(settings):
        assert f"cannot listen on 127.0.0.1:{settings.metrics_port}" in caplog.text


# What the database knows


def test_jobs_are_shown_by_queue_and_status_with_the_age_of_the_oldest(
    engine: Engine, make_job: MakeJob, read: Read
) -> None:
    running, waiting, paused, ended = (make_job() for _ in range(4))
    make_job(queue="night")
    assert claimed(engine).job_id == running.id
    with db.session_scope(engine) as session:
        control.pause(session, paused.id)
        control.cancel(session, ended.id)
        session.execute(sa.update(Job).where(Job.id == waiting.id).values(not_before=db.now() + 500))
        session.execute(sa.update(Job).where(Job.queue == "night").values(updated_at=db.now() - 300))
    found = read()
    assert found.value("loopline_database_up") == 1
    shown = {status: found.value("loopline_jobs", queue="default", status=status) for status in ("running", "waiting")}
    assert shown == {"running": 1, "waiting": 1}
    assert found.value("loopline_jobs", queue="default", status="paused") == 1
    assert found.value("loopline_jobs", queue="default", status="runnable") == 0
    assert found.value("loopline_jobs", queue="night", status="runnable") == 1
    assert found.total("loopline_jobs") == 4
    assert found.value("loopline_queue_oldest_seconds", queue="night") == pytest.approx(300, abs=5)
    assert found.value("loopline_queue_oldest_seconds", queue="default") == 0
    assert found.value("loopline_stuck_queues") == 1


def test_a_queue_that_has_become_empty_shows_a_zero(engine: Engine, make_job: MakeJob, read: Read) -> None:
    job = make_job(queue="night")
    assert read().value("loopline_jobs", queue="night", status="runnable") == 1
    with db.session_scope(engine) as session:
        control.cancel(session, job.id)
    assert read().value("loopline_jobs", queue="night", status="runnable") == 0


def test_workers_are_shown_by_state_and_by_queue(engine: Engine, read: Read) -> None:
    with db.session_scope(engine) as session:
        for name, queues, state in (("a:1", ["default", "night"], "idle"), ("b:2", ["default"], "busy")):
            workers.beat(session, name, queues=queues, state=state, job_id=None, doorbell_seconds_ago=None)
    found = read()
    assert found.value("loopline_workers", state="idle") == found.value("loopline_workers", state="busy") == 1
    assert found.value("loopline_queue_workers", queue="default") == 2
    assert found.value("loopline_queue_workers", queue="night") == 1


def test_messages_of_webhooks_are_counted_by_what_came_of_them(engine: Engine, make_job: MakeJob, read: Read) -> None:
    metrics.expect([])
    assert read().value("loopline_deliveries_total", outcome="given_up") == 0
    with db.session_scope(engine) as session:
        subscriptions.create(session, "https://example.com/", events=["job.queued"], tenant="default")
    for outcome in (SendResult(204, None), SendResult(500, "No."), SendResult(410, "Gone.")):
        make_job()
        with db.session_scope(engine) as session:
            session.execute(sa.update(Webhook).values(quiet_until=0.0))
            message = subscriptions.claim(session)
            assert message is not None
        with db.session_scope(engine) as session:
            subscriptions.record(session, message, outcome)
    found = read()
    for name in ("delivered", "failed", "given_up"):
        assert found.value("loopline_deliveries_total", outcome=name) == 1
    assert found.value("loopline_webhooks", state="disabled") == 1
    assert found.value("loopline_webhooks", state="enabled") == 0
    assert found.value("loopline_deliveries_waiting") == found.value("loopline_deliveries_oldest_seconds") == 0
    with db.session_scope(engine) as session:
        subscriptions.create(session, "https://example.com/", events=["job.queued"], tenant="default")
    make_job()
    with db.session_scope(engine) as session:
        session.execute(sa.update(Delivery).where(Delivery.attempts == 0).values(next_at=db.now() - 300))
    found = read()
    assert found.value("loopline_deliveries_waiting") == 1
    assert found.value("loopline_deliveries_oldest_seconds") == pytest.approx(300, abs=5)


def test_a_database_that_is_away_fails_no_scrape() -> None:
    away = db.engine("postgresql://nobody@127.0.0.1:1/nothing")
    settings = Settings(metrics_port=free_port())
    with metrics.alone(settings, Census(away, stuck_seconds=60)):
        metrics.EXPIRIES.inc()
        found = scrape(settings.metrics_port)
    assert found.value("loopline_database_up") == 0
    assert found.value("loopline_lease_expiries_total") == 1
    assert found.total("loopline_jobs") == 0
    assert "loopline_jobs" not in found.families
    away.dispose()


def test_a_database_that_hangs_holds_up_no_scrape(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One scrape waits its while; another that comes meanwhile does not wait at all."""
    monkeypatch.setattr("services.upkeep.census.TIMEOUT_SECONDS", 0.3)
    engine, go_on = db.engine(sqlite_url), threading.Event()
    sa.event.listen(engine, "begin", lambda _: go_on.wait(30))
    settings = Settings(metrics_port=free_port())
    with metrics.alone(settings, Census(engine, stuck_seconds=60)):
        assert [scrape(settings.metrics_port).value("loopline_database_up") for _ in range(3)] == [0, 0, 0]
        before = {thread for thread in threading.enumerate() if thread.name == "census"}
        assert len(before) == 1
        go_on.set()
        for thread in before:
            thread.join(10)
        assert scrape(settings.metrics_port).value("loopline_database_up") == 1
    engine.dispose()
