"""The life of a job: who may do what when."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.errors import CheckpointNotFound, DatasetNotFound, IllegalMove, JobNotEnded, JobNotFound, LeaseLost
from services.jobs import attempts, control, events, lanes, moves, progress, queries
from services.jobs.attempts import MAX_LOST
from services.jobs.leases import Lease
from services.orm import STATUSES, Checkpoint, Epoch, Event, IdempotencyKey, Job, LogLine, StepChunk
from services.states import ALLOWED, TERMINAL, Reason, Status
from tests.rows import create_job, transitions
from tests.services.conftest import claimed, let_expire, make_runnable

Scope = Callable[[], AbstractContextManager[Session]]
FILES = [{"name": "checkpoint-000000004.json", "bytes": 2, "sha256": "0" * 64}]


def job_of(engine: Engine, job_id: str) -> Job:
    with db.read_scope(engine) as session:
        return control.get(session, job_id)


def history(engine: Engine, job_id: str) -> list[tuple[str | None, str]]:
    with db.read_scope(engine) as session:
        return [(row.from_status, row.to_status) for row in transitions(session, job_id)]


# The table of moves


def test_the_table_names_every_status_and_three_are_the_end() -> None:
    assert set(ALLOWED) == set(Status) == set(STATUSES)
    assert {"succeeded", "failed", "cancelled"} == TERMINAL


def test_every_reason_says_what_to_do() -> None:
    assert [reason for reason in Reason if len(reason.sentence) < 40 or not reason.sentence.endswith(".")] == []
    assert Reason("diverged") is Reason.DIVERGED


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_an_ended_job_never_moves_again(engine: Engine, queued_job: Job, scope: Scope, status: str) -> None:
    with scope() as session:
        lease = Lease.of(attempts.claim(session, "default", worker="w", lease_seconds=60) or queued_job)
        moves.end(session, control.get(session, lease.job_id), Status(status))
        ended = control.get(session, queued_job.id)
        for to in Status:
            with pytest.raises(IllegalMove):
                moves.move(session, ended, to)


# Creating and finding


def test_a_new_job_is_queued_and_keeps_its_spec_resolved_and_as_sent(
    session: Session, make_job: Callable[..., Job]
) -> None:
    made = make_job(name="a", tags={"team": "speech"}, priority=3, queue="night", limits={"max_retries": 5})
    job = control.get(session, made.id)
    assert (job.status, job.attempt, job.revision, job.epochs) == ("queued", 0, 1, 3)
    assert (job.name, job.tags, job.priority, job.queue, job.max_retries) == ("a", {"team": "speech"}, 3, "night", 5)
    assert job.spec["training"]["batch_size"] == 64
    assert job.requested["limits"] == {"max_retries": 5}
    assert job.created_at == pytest.approx(session.scalar(sa.select(db.now())), abs=30)


def test_a_new_job_can_be_read_when_its_session_is_gone(queued_job: Job) -> None:
    assert queued_job.created_at == pytest.approx(queued_job.updated_at, abs=1)
    assert (queued_job.queue_deadline, queued_job.not_before) == (None, 0.0)


def test_ids_sort_by_age(session: Session, make_job: Callable[..., Job]) -> None:
    made = [make_job().id for _ in range(5)]
    assert made == sorted(made)
    assert all(len(job_id) == 30 for job_id in made)


def test_a_job_on_a_data_set_that_is_gone_is_refused(session: Session, make_spec: Callable[..., Any]) -> None:
    with pytest.raises(DatasetNotFound):
        create_job(session, make_spec(), requested={}, dataset_id="ds_gone")


@pytest.mark.parametrize(
    "verb", [control.get, control.cancel, control.pause, control.resume, control.delete, control.revision]
)
def test_an_unknown_job_is_not_found(session: Session, verb: Callable[[Session, str], object]) -> None:
    with pytest.raises(JobNotFound, match="job_unknown"):
        verb(session, "job_unknown")


def test_the_list_is_newest_first_in_pages(session: Session, make_job: Callable[..., Job]) -> None:
    made = [make_job().id for _ in range(5)][::-1]
    first = queries.page(session.connection(), tenant="default", limit=2)
    assert ([job.id for job in first.rows], first.more) == (made[:2], True)
    rest = queries.page(session.connection(), tenant="default", limit=3, after=made[1])
    assert ([job.id for job in rest.rows], rest.more) == (made[2:], False)


def test_the_list_is_filtered(session: Session, make_job: Callable[..., Job]) -> None:
    plain = make_job()
    odd = make_job(name="x", queue="night", tags={"team": "speech", '"it\'s"': "$.a"})
    control.cancel(session, plain.id)

    def found(**filters: Any) -> list[str]:
        page = queries.page(session.connection(), tenant="default", limit=20, **filters)
        return [job.id for job in page.rows]

    assert found(status="cancelled") == [plain.id]
    assert found(queue="night") == found(name="x") == [odd.id]
    assert found(tag=("team", "speech")) == found(tag=('"it\'s"', "$.a")) == [odd.id]
    assert found(tag=("team", "vision")) == found(tag=("speech", "team")) == []


def test_every_visible_write_raises_the_revision(engine: Engine, lease: Lease, scope: Scope) -> None:
    def revision() -> int:
        with db.read_scope(engine) as session:
            return control.revision(session, lease.job_id)[0]

    seen = [revision()]
    verbs: list[Callable[[Session], object]] = [
        lambda s: progress.started(s, lease, epochs=3, steps_per_epoch=2, info={}),
        lambda s: progress.record(s, lease, {"epoch": 1, "train_loss": 1.0}),
        lambda s: progress.record_steps(s, lease, 1, [1.0], [1.0]),
        lambda s: progress.checkpoint(s, lease, epoch=1, step=4, best=True, files=FILES),
        lambda s: progress.drop_checkpoint(s, lease, 4),
        lambda s: control.cancel(s, lease.job_id),
        lambda s: attempts.cancelled(s, lease),
    ]
    for verb in verbs:
        with scope() as session:
            verb(session)
        seen.append(revision())
    assert seen == sorted(set(seen))


def test_renewing_is_no_news(engine: Engine, lease: Lease, scope: Scope) -> None:
    before = job_of(engine, lease.job_id)
    with scope() as session:
        attempts.renew(session, lease, 500)
    after = job_of(engine, lease.job_id)
    assert after.revision == before.revision
    assert after.lease_until
    assert before.lease_until
    assert after.lease_until > before.lease_until + 400


# Claiming


def test_a_claim_takes_the_highest_priority_then_the_oldest(engine: Engine, make_job: Callable[..., Job]) -> None:
    low, first, second, high = make_job(priority=-1), make_job(), make_job(), make_job(priority=1)
    make_job(queue="other", priority=9)
    assert [claimed(engine).job_id for _ in range(4)] == [high.id, first.id, second.id, low.id]


def test_a_claim_raises_the_attempt_and_sets_a_lease_by_database_time(session: Session, queued_job: Job) -> None:
    job = attempts.claim(session, "default", worker="host:7", lease_seconds=60)
    assert job is not None
    now = session.scalar(sa.select(db.now()))
    assert (job.id, job.status, job.attempt, job.worker) == (queued_job.id, "running", 1, "host:7")
    assert job.lease_until == pytest.approx(now + 60, abs=5)
    assert job.started_at == pytest.approx(now, abs=5)


def test_nothing_to_claim_is_none(session: Session, queued_job: Job) -> None:
    assert attempts.claim(session, "other", worker="w", lease_seconds=60) is None
    assert attempts.claim(session, "default", worker="w", lease_seconds=60) is not None
    assert attempts.claim(session, "default", worker="w", lease_seconds=60) is None


def test_the_position_is_the_number_of_runnable_jobs_ahead(
    engine: Engine, session: Session, make_job: Callable[..., Job]
) -> None:
    first, later, urgent, elsewhere = make_job(), make_job(), make_job(priority=1), make_job(queue="other")
    places = [queries.position(queries.one(session.connection(), job.id)) for job in (urgent, first, later, elsewhere)]
    assert places == [0, 1, 2, 0]
    running = attempts.claim(session, "default", worker="w", lease_seconds=60)
    assert running is not None
    assert queries.position(queries.one(session.connection(), running.id)) is None


# Fencing


def writes(lease: Lease) -> dict[str, Callable[[Session], object]]:
    return {
        "renew": lambda s: attempts.renew(s, lease, 60),
        "started": lambda s: progress.started(s, lease, epochs=3, steps_per_epoch=2, info={}),
        "record": lambda s: progress.record(s, lease, {"epoch": 1, "train_loss": 1.0}),
        "record_steps": lambda s: progress.record_steps(s, lease, 1, [1.0], [1.0]),
        "checkpoint": lambda s: progress.checkpoint(s, lease, epoch=1, step=4, best=True, files=FILES),
        "drop_checkpoint": lambda s: progress.drop_checkpoint(s, lease, 4),
        "succeed": lambda s: attempts.succeed(s, lease, {}, []),
        "fail": lambda s: attempts.fail(s, lease, "internal", retry=True),
        "give_back": lambda s: attempts.give_back(s, lease),
        "cancelled": lambda s: attempts.cancelled(s, lease),
        "paused": lambda s: attempts.paused(s, lease),
        "rolled_back": lambda s: progress.rolled_back(s, lease, epoch=0, step=0, message="Back."),
        "note": lambda s: events.note(s, lease, "warning", "Look."),
        "log": lambda s: events.log(s, lease, [events.Line("info", "a line")]),
    }


def everything(engine: Engine) -> list[Any]:
    with db.read_scope(engine) as session:
        tables = (Job, Epoch, StepChunk, Checkpoint, Event, LogLine)
        return [[tuple(row) for row in session.execute(sa.select(table.__table__))] for table in tables]


@pytest.mark.parametrize("write", sorted(writes(Lease("", 0))))
def test_a_zombie_changes_nothing(engine: Engine, lost_lease: Lease, scope: Scope, write: str) -> None:
    before = everything(engine)
    with pytest.raises(LeaseLost), scope() as session:
        writes(lost_lease)[write](session)
    assert everything(engine) == before


@pytest.mark.parametrize("write", sorted(writes(Lease("", 0))))
def test_an_ended_job_takes_no_writes(engine: Engine, lease: Lease, scope: Scope, write: str) -> None:
    with scope() as session:
        attempts.succeed(session, lease, {"epochs": 3}, [])
    before = everything(engine)
    with pytest.raises(LeaseLost), scope() as session:
        writes(lease)[write](session)
    assert everything(engine) == before


def test_a_late_renewal_is_good_while_nobody_took_over(engine: Engine, lease: Lease, scope: Scope) -> None:
    let_expire(engine, lease.job_id)
    with scope() as session:
        attempts.renew(session, lease, 60)
    with scope() as session:
        assert attempts.expire(session) == []


# Ends of an attempt


def test_success_keeps_the_result_and_its_files(engine: Engine, lease: Lease, scope: Scope) -> None:
    with scope() as session:
        attempts.succeed(session, lease, {"epochs": 3, "metrics": {}}, FILES)
    job = job_of(engine, lease.job_id)
    assert (job.status, job.reason, job.message, job.lease_until) == ("succeeded", None, None, None)
    assert (job.result, job.files) == ({"epochs": 3, "metrics": {}}, FILES)
    assert job.finished_at is not None
    assert history(engine, lease.job_id) == [(None, "queued"), ("queued", "running"), ("running", "succeeded")]


def test_a_failure_is_tried_again_as_often_as_the_spec_says(
    engine: Engine, make_job: Callable[..., Job], scope: Scope
) -> None:
    job_id = make_job(limits={"max_retries": 2}).id
    for attempt in (1, 2, 3):
        make_runnable(engine, job_id)
        lease = claimed(engine)
        assert lease == Lease(job_id, attempt)
        with scope() as session:
            attempts.fail(session, lease, "trainer_crashed", "Signal 11.", retry=True)
    job = job_of(engine, job_id)
    assert (job.status, job.reason, job.attempt, job.failures, job.lost) == ("failed", "trainer_crashed", 3, 2, 0)
    assert job.message == f"Signal 11. {Reason.TRAINER_CRASHED.sentence}"


def test_a_retry_waits_longer_each_time_and_tells_why(
    engine: Engine, make_job: Callable[..., Job], scope: Scope
) -> None:
    job_id = make_job(limits={"max_retries": 9}).id
    for longest in (10.0, 20.0, 40.0):
        lease = claimed(engine)
        with scope() as session:
            job = attempts.fail(session, lease, "storage_full", "No room.", retry=True, retry_seconds=10)
            wait = job.not_before - session.scalar(sa.select(db.now()))
            assert longest / 2 - 1 < wait <= longest
            assert (job.status, job.reason, job.finished_at) == ("queued", "storage_full", None)
            assert "is tried again: No room." in str(job.message)
            assert attempts.claim(session, "default", worker="w", lease_seconds=60) is None
            assert lanes.waiting(session) == []
        make_runnable(engine, job_id)


@pytest.mark.parametrize("reason", ["diverged", "dataset_invalid", "out_of_memory_gpu", "too_large"])
def test_a_permanent_failure_is_never_tried_again(engine: Engine, lease: Lease, scope: Scope, reason: str) -> None:
    with scope() as session:
        job = attempts.fail(session, lease, reason, "At step 7: lower the learning rate.", retry=True)
        assert (job.status, job.reason, job.message) == ("failed", reason, "At step 7: lower the learning rate.")


def test_a_message_that_no_database_takes_is_cleaned(engine: Engine, lease: Lease, scope: Scope) -> None:
    with scope() as session:
        job = attempts.fail(session, lease, "dataset_invalid", "\x00bad \ud800" + "x" * 10_000, retry=False)
        assert str(job.message).startswith("bad ?xxx")
        assert len(str(job.message)) < 5000


def test_giving_back_counts_as_nothing(engine: Engine, lease: Lease, scope: Scope) -> None:
    with scope() as session:
        job = attempts.give_back(session, lease)
        assert (job.status, job.lost, job.failures, job.attempt) == ("queued", 0, 0, 1)
    assert claimed(engine).attempt == 2


# Cancelling


def test_a_queued_job_is_cancelled_at_once(engine: Engine, queued_job: Job, scope: Scope) -> None:
    with scope() as session:
        job = control.cancel(session, queued_job.id)
        assert (job.status, job.reason, job.message) == ("cancelled", "cancelled_by_user", job.message)
        assert attempts.claim(session, "default", worker="w", lease_seconds=60) is None
        assert control.cancel(session, queued_job.id).revision == job.revision


def test_a_running_job_is_asked_to_stop_and_its_worker_hears_it(engine: Engine, lease: Lease, scope: Scope) -> None:
    with scope() as session:
        assert not attempts.renew(session, lease, 60).cancel
        assert control.cancel(session, lease.job_id).status == "running"
        assert attempts.renew(session, lease, 60).cancel
        assert attempts.cancelled(session, lease).status == "cancelled"


def test_success_wins_over_a_late_cancel(lease: Lease, scope: Scope) -> None:
    with scope() as session:
        control.cancel(session, lease.job_id)
        assert attempts.succeed(session, lease, {}, []).status == "succeeded"
        assert control.cancel(session, lease.job_id).status == "succeeded"


@pytest.mark.parametrize(
    "end",
    [
        lambda s, lease: attempts.give_back(s, lease),
        lambda s, lease: attempts.fail(s, lease, "trainer_crashed", retry=True),
        lambda s, lease: attempts.expire(s, grace_seconds=-1000),
    ],
    ids=["given back", "failed", "lost"],
)
def test_a_job_that_was_to_be_cancelled_is_not_queued_again(
    engine: Engine, lease: Lease, scope: Scope, end: Callable[[Session, Lease], object]
) -> None:
    with scope() as session:
        control.cancel(session, lease.job_id)
        end(session, lease)
    job = job_of(engine, lease.job_id)
    assert (job.status, job.reason) == ("cancelled", "cancelled_by_user")


# Losing workers


def test_a_lost_job_is_queued_again_three_times_without_progress(engine: Engine, queued_job: Job, scope: Scope) -> None:
    for attempt in range(1, MAX_LOST + 2):
        assert claimed(engine) == Lease(queued_job.id, attempt)
        let_expire(engine, queued_job.id)
        with scope() as session:
            assert attempts.expire(session) == [queued_job.id]
    job = job_of(engine, queued_job.id)
    assert (job.status, job.reason, job.lost, job.failures) == ("failed", "worker_lost", MAX_LOST, 0)


def test_a_new_checkpoint_is_progress_and_an_old_one_is_not(engine: Engine, lease: Lease, scope: Scope) -> None:
    def lose_after_checkpoint(step: int, lease: Lease) -> int:
        with scope() as session:
            progress.checkpoint(session, lease, epoch=1, step=step, best=False, files=FILES)
        let_expire(engine, lease.job_id)
        with scope() as session:
            attempts.expire(session)
            return control.get(session, lease.job_id).lost

    assert lose_after_checkpoint(4, lease) == 1
    assert lose_after_checkpoint(4, claimed(engine)) == 2
    assert lose_after_checkpoint(8, claimed(engine)) == 1


def test_a_lease_is_given_grace(engine: Engine, lease: Lease, scope: Scope) -> None:
    let_expire(engine, lease.job_id)
    with scope() as session:
        assert not attempts.any_expired(session, grace_seconds=15)
        assert attempts.expire(session, grace_seconds=15) == []
        assert attempts.any_expired(session)
        assert attempts.expire(session) == [lease.job_id]


def test_a_job_that_waited_too_long_fails_and_is_not_claimed(
    engine: Engine, make_job: Callable[..., Job], scope: Scope
) -> None:
    job_id = make_job(limits={"max_queue_seconds": 60}).id
    with scope() as session:
        assert not attempts.any_expired(session)
        session.execute(sa.update(Job).values(queue_deadline=db.now() - 1))
        assert attempts.claim(session, "default", worker="w", lease_seconds=60) is None
        assert attempts.any_expired(session)
        assert attempts.expire(session) == [job_id]
        job = control.get(session, job_id)
        assert (job.status, job.reason) == ("failed", "time_limit")
        assert job.message == (
            "No worker was free within limits.max_queue_seconds (60 s): raise it, or run more workers."
        )


def test_running_time_is_counted_over_all_attempts(engine: Engine, make_job: Callable[..., Job], scope: Scope) -> None:
    job_id = make_job(limits={"max_runtime_seconds": 100}).id

    def ran(lease: Lease, seconds: float) -> float:
        with scope() as session:
            session.execute(sa.update(Job).values(attempt_started_at=db.now() - seconds))
            left = attempts.renew(session, lease, 60).seconds_left
            assert left is not None
            return left

    first = claimed(engine)
    assert ran(first, 30) == pytest.approx(70, abs=5)
    with scope() as session:
        attempts.give_back(session, first)
    assert ran(claimed(engine), 20) == pytest.approx(50, abs=5)
    assert ran(Lease(job_id, 2), 900) == 0.0


def test_without_a_limit_there_is_no_time_left_to_tell(
    engine: Engine, make_job: Callable[..., Job], scope: Scope
) -> None:
    make_job(limits={"max_runtime_seconds": None})
    lease = claimed(engine)
    with scope() as session:
        assert attempts.renew(session, lease, 60) == attempts.Flags()


# Checkpoints


def test_checkpoints_are_listed_and_only_one_is_best(lease: Lease, session: Session) -> None:
    progress.checkpoint(session, lease, epoch=1, step=4, best=True, files=FILES)
    progress.checkpoint(session, lease, epoch=2, step=8, best=True, files=FILES)
    progress.checkpoint(session, lease, epoch=3, step=12, best=False, files=FILES)
    progress.checkpoint(session, lease, epoch=3, step=12, best=False, files=FILES)
    session.expire_all()
    assert [(row.step, row.best) for row in progress.checkpoints(session, lease.job_id)] == [
        (4, False),
        (8, True),
        (12, False),
    ]
    progress.drop_checkpoint(session, lease, 4)
    assert [row.step for row in progress.checkpoints(session, lease.job_id)] == [8, 12]
    assert progress.get_checkpoint(session, lease.job_id, 8).files == FILES
    with pytest.raises(CheckpointNotFound):
        progress.get_checkpoint(session, lease.job_id, 4)


# Pausing and resuming


def test_a_waiting_job_is_paused_at_once_and_goes_back_into_the_queue(
    engine: Engine, queued_job: Job, scope: Scope
) -> None:
    with scope() as session:
        paused = control.pause(session, queued_job.id)
        assert (paused.status, paused.reason, paused.message) == ("paused", None, moves.PAUSED)
        assert attempts.claim(session, "default", worker="w", lease_seconds=60) is None
        assert lanes.waiting(session) == []
    with scope() as session:
        assert control.pause(session, queued_job.id).revision == paused.revision  # a second time changes nothing
        assert control.resume(session, queued_job.id).status == "queued"
    assert claimed(engine).attempt == 1


def test_a_running_job_is_asked_to_pause_and_keeps_its_place(engine: Engine, lease: Lease, scope: Scope) -> None:
    with scope() as session:
        assert control.pause(session, lease.job_id).status == "running"
        assert attempts.renew(session, lease, 60).pause
    with scope() as session:
        progress.checkpoint(session, lease, epoch=1, step=4, best=True, files=FILES)
        paused = attempts.paused(session, lease)
        assert (paused.status, paused.pause_requested, paused.lease_until) == ("paused", False, None)
    with scope() as session:
        resumed = control.resume(session, lease.job_id)
        assert (resumed.status, resumed.failures, resumed.lost, resumed.attempt) == ("queued", 0, 0, 1)
        assert [row.step for row in progress.checkpoints(session, lease.job_id)] == [4]
    assert claimed(engine).attempt == 2


def test_a_pause_that_was_taken_back_pauses_nothing(engine: Engine, lease: Lease, scope: Scope) -> None:
    with scope() as session:
        control.pause(session, lease.job_id)
        control.resume(session, lease.job_id)
        assert not attempts.renew(session, lease, 60).pause
        assert attempts.paused(session, lease).status == "queued"  # its trainer had stopped already


@pytest.mark.parametrize("end", ["lose", "fail", "give_back"])
def test_a_pause_holds_however_the_attempt_ends(engine: Engine, lease: Lease, scope: Scope, end: str) -> None:
    with scope() as session:
        control.pause(session, lease.job_id)
    let_expire(engine, lease.job_id)
    ends: dict[str, Callable[[Session], object]] = {
        "lose": attempts.expire,
        "fail": lambda s: attempts.fail(s, lease, "internal", retry=True),
        "give_back": lambda s: attempts.give_back(s, lease),
    }
    with scope() as session:
        ends[end](session)
    assert job_of(engine, lease.job_id).status == "paused"
    with scope() as session:
        assert control.cancel(session, lease.job_id).status == "cancelled"


def test_cancelling_beats_pausing(engine: Engine, lease: Lease, scope: Scope) -> None:
    with scope() as session:
        control.pause(session, lease.job_id)
        control.cancel(session, lease.job_id)
        assert attempts.paused(session, lease).status == "cancelled"


@pytest.mark.parametrize("verb", [control.pause, control.resume])
def test_an_ended_job_is_neither_paused_nor_resumed(
    engine: Engine, lease: Lease, scope: Scope, verb: Callable[[Session, str], object]
) -> None:
    with scope() as session:
        attempts.succeed(session, lease, {}, [])
        with pytest.raises(IllegalMove, match="has ended"):
            verb(session, lease.job_id)


def test_time_spent_paused_does_not_count_as_waiting(
    engine: Engine, make_job: Callable[..., Job], scope: Scope
) -> None:
    job = make_job(limits={"max_queue_seconds": 100})
    with scope() as session:
        control.pause(session, job.id)
        session.execute(sa.update(Job).values(queue_deadline=db.now() - 1))
        assert attempts.expire(session) == []
        resumed = control.resume(session, job.id)
        assert resumed.queue_deadline == pytest.approx(resumed.updated_at + 100, abs=1)


# Stalling, going back, orphans, deleting


def test_a_job_that_stalls_is_tried_once_more_and_no_more(
    engine: Engine, make_job: Callable[..., Job], scope: Scope
) -> None:
    job = make_job(limits={"max_retries": 9})
    for status in ("queued", "failed"):
        lease = claimed(engine)
        with scope() as session:
            assert attempts.fail(session, lease, "stalled", "Silent.", retry=True, retry_seconds=0).status == status
    assert job_of(engine, job.id).reason == "stalled"


def test_what_was_recorded_beyond_the_place_that_a_run_goes_back_to_is_forgotten(
    engine: Engine, lease: Lease, scope: Scope
) -> None:
    with scope() as session:
        for epoch in (1, 2, 3):
            progress.record_steps(session, lease, 2 * epoch - 1, [1.0, 2.0], [1.0, 1.0])
            best = {"epoch": 1, "metric": "train_loss", "value": 1.0}
            progress.record(session, lease, {"epoch": epoch, "train_loss": float(epoch)}, best=best)
            progress.checkpoint(session, lease, epoch=epoch, step=2 * epoch, best=False, files=FILES)
        told = "Diverged; back to epoch 1."
        job = progress.rolled_back(session, lease, epoch=1, step=2, message=told, data={"lr": 0.1}, best=best)
        assert (job.epoch, job.step, job.best) == (1, 2, best)
        assert job.checkpoint_step == 2
        assert [row.step for row in progress.checkpoints(session, lease.job_id)] == [2]
        assert progress.steps(session, lease.job_id).total == 2
        (told,) = events.page(session, lease.job_id, type="rolled_back")[0]
        assert (told.level, told.data) == ("warning", {"lr": 0.1, "epoch": 1, "step": 2})


def test_checkpoints_whose_files_are_gone_are_forgotten_when_an_attempt_begins(
    engine: Engine, lease: Lease, scope: Scope
) -> None:
    with scope() as session:
        for step in (2, 4, 6):
            progress.checkpoint(session, lease, epoch=1, step=step, best=False, files=FILES)
        info = {"resumed_from": {"epoch": 2, "step": 6}, "checkpoints": [2, 6]}
        progress.started(session, lease, epochs=3, steps_per_epoch=3, info=info)
        assert [row.step for row in progress.checkpoints(session, lease.job_id)] == [2, 6]


def test_a_claim_whose_answer_was_lost_is_found_by_its_worker(engine: Engine, lease: Lease, scope: Scope) -> None:
    with scope() as session:
        assert attempts.orphans(session, "host:1") == [lease]
        assert attempts.orphans(session, "host:2") == []
        attempts.give_back(session, lease)
        assert attempts.orphans(session, "host:1") == []


def test_an_ended_job_is_deleted_with_all_that_hangs_on_it(engine: Engine, lease: Lease, scope: Scope) -> None:
    with scope() as session:
        with pytest.raises(JobNotEnded, match="is running"):
            control.delete(session, lease.job_id)
        progress.record(session, lease, {"epoch": 1, "train_loss": 1.0})
        events.log(session, lease, [events.Line("info", "a line")])
        session.add(IdempotencyKey(scope="POST", key="k", fingerprint="f", resource_id=lease.job_id, created_at=0.0))
        attempts.succeed(session, lease, {}, [])
    with scope() as session:
        control.delete(session, lease.job_id)
    assert not any(everything(engine))
    with scope() as session:
        assert session.get(IdempotencyKey, ("POST", "k")) is None
