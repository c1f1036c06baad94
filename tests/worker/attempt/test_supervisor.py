"""One attempt from claim to end, with a real trainer process (a stub) and no broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db
from services.blobs.storage import Storage
from services.jobs import attempts, control, events, progress
from services.orm import Job
from tests.worker.watching import Watch, wait_for_death
from worker import tasks
from worker.attempt import conversation, supervisor
from worker.attempt.supervisor import Slot

MakeJob = Callable[..., Job]
MakeSlot = Callable[..., Slot]


@contextmanager
def ringing(slot: Slot) -> Iterator[threading.Thread]:
    """A worker in a thread, for tests that do something meanwhile; it is told to shut down at the end."""
    thread = threading.Thread(target=tasks.ring, args=(slot, "default"))
    thread.start()
    try:
        yield thread
    finally:
        slot.drain.raise_flag()
        thread.join(20)
        assert not thread.is_alive()


def go(storage: Storage, job: Job) -> None:
    """Lets a stub that holds go on."""
    (storage.job_dir(job.id) / "go").touch()


def test_an_attempt_is_written_down_from_start_to_result(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job = make_job()
    assert tasks.ring(make_slot(), "default") == 1
    done = watch.job(job.id)
    assert (done.status, done.attempt, done.reason, done.worker) == ("succeeded", 1, None, "here:1")
    assert (done.epoch, done.epochs, done.step, done.steps) == (3, 3, 12, 12)
    assert done.result is not None
    assert done.result["best_epoch"] == 3
    with db.read_scope(engine) as session:
        assert [record["epoch"] for record in progress.epochs(session, job.id)] == [1, 2, 3]
        assert progress.steps(session, job.id).loss[:2] == [1.0, 0.5]
        assert [row.step for row in progress.checkpoints(session, job.id)] == [4, 8, 12]
    assert watch.statuses(job.id) == ["queued", "running", "succeeded"]


def test_short_epochs_are_written_together_and_none_is_lost(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job, slot, commits = make_job(tags={"stub": "brief"}, training={"epochs": 200}), make_slot(), []
    sa.event.listen(slot.engine, "commit", lambda connection: commits.append(connection))
    tasks.ring(slot, "default")
    done = watch.job(job.id)
    assert (done.status, done.epoch, done.step) == ("succeeded", 200, 800)
    assert done.best == {"epoch": 200, "metric": "validation_loss", "value": 2.0 / 800}
    with db.read_scope(engine) as session:
        assert [record["epoch"] for record in progress.epochs(session, job.id)] == [*range(1, 201)]
        assert [row.step for row in progress.checkpoints(session, job.id)] == [*range(4, 801, 4)]
        assert progress.steps(session, job.id, points=800).loss == pytest.approx([1.0 / n for n in range(1, 801)])
        told = events.page(session, job.id, limit=1000, type=events.Type.CHECKPOINT)[0]
        assert [event.data and event.data["epoch"] for event in told] == [*range(1, 201)]
    assert len(commits) < 100


def test_the_first_step_and_the_first_epoch_are_seen_at_once(
    engine: Engine,
    make_job: MakeJob,
    make_slot: MakeSlot,
    storage: Storage,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversation, "WRITE_SECONDS", 3600.0)  # nothing but the first of each, and the end
    job = make_job(tags={"stub": "deaf"})
    with ringing(make_slot()):
        seen = watch.until(job.id, lambda job: job.epoch == 1)
        assert seen.step in (4, 5)
        go(storage, job)
        done = watch.until(job.id, lambda job: job.status == "succeeded")
    assert (done.epoch, done.step) == (3, 12)


def test_one_ring_works_off_everything_that_waits_best_first(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    low, high = make_job(priority=-5), make_job(priority=5)
    assert tasks.ring(make_slot(), "default") == 2
    finished = [watch.job(job.id).finished_at or 0 for job in (high, low)]
    assert finished == sorted(finished)
    assert tasks.ring(make_slot(), "default") == 0


@pytest.mark.parametrize("garbage", [None, 5, "night", "default\x00", ["default"], {"a": 1}, "x" * 10_000])
def test_a_doorbell_for_no_queue_of_this_worker_is_ignored(
    make_slot: MakeSlot, make_job: MakeJob, watch: Watch, garbage: object
) -> None:
    job = make_job()
    assert tasks.ring(make_slot(), garbage) == 0
    assert watch.job(job.id).status == "queued"


@pytest.mark.parametrize(
    ("stub", "reason", "words"),
    [
        ("exit", "trainer_crashed", "exit status 7"),
        ("segfault", "trainer_crashed", "SIGSEGV"),
        ("kill", "trainer_crashed", "The trainer was killed by signal 9 (SIGKILL)"),
        ("silent", "trainer_crashed", "ended without a result"),
        ("garbage", "trainer_crashed", "no JSON"),
        ("half", "trainer_crashed", "not whole"),
        ("headless", "trainer_crashed", "not whole"),
        ("diverge", "diverged", "diverged at step 5"),
    ],
)
def test_a_run_without_a_whole_result_fails_and_says_why(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch, stub: str, reason: str, words: str
) -> None:
    job = make_job(tags={"stub": stub}, limits={"max_retries": 0})
    tasks.ring(make_slot(), "default")
    failed = watch.job(job.id)
    assert (failed.status, failed.reason, failed.attempt) == ("failed", reason, 1)
    assert words in (failed.message or "")


def test_the_last_words_of_a_trainer_are_told(make_job: MakeJob, make_slot: MakeSlot, watch: Watch) -> None:
    job = make_job(tags={"stub": "exit"}, limits={"max_retries": 0})
    tasks.ring(make_slot(), "default")
    assert "Traceback: the stub gives up" in (watch.job(job.id).message or "")


def test_a_trainer_that_crashes_every_time_is_tried_exactly_as_often_as_allowed(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job, behind = make_job(tags={"stub": "segfault"}, limits={"max_retries": 2}), make_job()
    assert tasks.ring(make_slot(), "default") == 4
    assert (watch.job(job.id).status, watch.job(job.id).attempt) == ("failed", 3)
    assert watch.job(behind.id).status == "succeeded"


@pytest.mark.parametrize(("stub", "reason"), [("diverge", "diverged"), ("unbuilt", "cannot_train")])
def test_what_would_fail_the_same_way_is_not_tried_again(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch, stub: str, reason: str
) -> None:
    job = make_job(tags={"stub": stub}, limits={"max_retries": 5})
    tasks.ring(make_slot(), "default")
    failed = watch.job(job.id)
    assert (failed.status, failed.reason, failed.attempt) == ("failed", reason, 1)


def test_a_crashed_run_goes_on_from_its_newest_checkpoint(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job = make_job(tags={"stub": "kill", "times": "1"})
    assert tasks.ring(make_slot(), "default") == 2
    done = watch.job(job.id)
    assert (done.status, done.attempt, done.failures) == ("succeeded", 2, 1)
    assert done.trainer is not None
    assert done.trainer["resumed_from"] == {"epoch": 1, "step": 4}
    with db.read_scope(engine) as session:
        steps = progress.steps(session, job.id)
        assert list(steps.step) == list(range(1, 13))
        assert [record["epoch"] for record in progress.epochs(session, job.id)] == [1, 2, 3]


def test_a_checkpoint_that_the_database_never_heard_of_is_not_gone_on_from(
    make_job: MakeJob, make_slot: MakeSlot, storage: Storage, watch: Watch
) -> None:
    job = make_job(tags={"stub": "kill", "times": "1"})
    stray = storage.checkpoint_files(job.id, 11)[0]
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_text('{"step": 11}')
    tasks.ring(make_slot(), "default")
    done = watch.job(job.id)
    assert done.trainer is not None
    assert (done.status, done.trainer["resumed_from"]) == ("succeeded", {"epoch": 1, "step": 4})


def test_a_flood_of_output_is_capped(make_job: MakeJob, make_slot: MakeSlot, watch: Watch) -> None:
    job = make_job(tags={"stub": "flood"}, limits={"max_retries": 0})
    tasks.ring(make_slot(), "default")
    failed = watch.job(job.id)
    assert failed.message is not None
    assert "the last line" in failed.message
    assert len(failed.message) < 2000


def test_what_a_trainer_leaves_behind_is_killed(
    make_job: MakeJob, make_slot: MakeSlot, storage: Storage, watch: Watch
) -> None:
    job = make_job(tags={"stub": "orphan"}, limits={"max_retries": 0})
    tasks.ring(make_slot(), "default")
    wait_for_death(int((storage.job_dir(job.id) / "child").read_text()), 1)


def test_a_running_job_is_cancelled_within_two_seconds(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job = make_job(tags={"stub": "hold"})
    with ringing(make_slot()):
        watch.until(job.id, lambda job: job.step == 1)
        with db.session_scope(engine) as session:
            control.cancel(session, job.id)
        done = watch.until(job.id, lambda job: job.status != "running", 2)
    assert (done.status, done.reason) == ("cancelled", "cancelled_by_user")


def test_a_trainer_that_is_deaf_to_cancelling_is_killed(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job = make_job(tags={"stub": "deaf"})
    with ringing(make_slot(stop_seconds=0.3)):
        running = watch.until(job.id, lambda job: job.step == 5)
        with db.session_scope(engine) as session:
            control.cancel(session, job.id)
        assert watch.until(job.id, lambda job: job.status != "running", 3).status == "cancelled"
        assert running.trainer is not None
        wait_for_death(running.trainer["pid"], 1)


def test_a_job_is_given_back_when_the_worker_shuts_down(make_job: MakeJob, make_slot: MakeSlot, watch: Watch) -> None:
    job, slot = make_job(tags={"stub": "hold"}), make_slot()
    with ringing(slot):
        watch.until(job.id, lambda job: job.step == 1)
        slot.drain.raise_flag()
        given = watch.until(job.id, lambda job: job.status != "running", 2)
    assert (given.status, given.failures, given.lost, given.attempt) == ("queued", 0, 0, 1)
    go(slot.storage, job)
    assert tasks.ring(make_slot(), "default") == 1
    done = watch.job(job.id)
    assert done.trainer is not None
    assert (done.status, done.trainer["resumed_from"]) == ("succeeded", {"epoch": 0, "step": 1})


def test_a_run_past_its_time_limit_keeps_its_checkpoint_and_fails(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job = make_job(tags={"stub": "hold"}, limits={"max_runtime_seconds": 1, "max_retries": 2})
    tasks.ring(make_slot(), "default")
    failed = watch.job(job.id)
    assert (failed.status, failed.reason, failed.attempt) == ("failed", "time_limit", 1)
    with db.read_scope(engine) as session:
        assert [row.step for row in progress.checkpoints(session, job.id)] == [1]


def test_a_supervisor_that_lost_its_lease_kills_its_trainer_and_changes_nothing(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job, slot = make_job(tags={"stub": "hold"}), make_slot()
    with ringing(slot):
        running = watch.until(job.id, lambda job: job.step == 1)
        with db.session_scope(engine) as session:
            session.execute(Job.__table__.update().values(lease_until=db.now() - 1))
            attempts.expire(session)
            assert attempts.claim(session, "default", worker="there:2", lease_seconds=60) is not None
        assert running.trainer is not None
        wait_for_death(running.trainer["pid"], 2)
    after = watch.job(job.id)
    assert (after.status, after.attempt, after.worker) == ("running", 2, "there:2")


def test_a_database_that_is_locked_for_a_while_ends_no_run(
    engine: Engine,
    make_job: MakeJob,
    make_slot: MakeSlot,
    storage: Storage,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = make_job(tags={"stub": "hold"})
    with ringing(make_slot()):
        running = watch.until(job.id, lambda job: job.step == 1)
        refuse = threading.Event()
        refuse.set()
        real = db.session_scope

        def sometimes(engine: Engine) -> object:
            if refuse.is_set():
                raise supervisor.Unavailable("The database is away.")
            return real(engine)

        monkeypatch.setattr(supervisor.db, "session_scope", sometimes)
        go(storage, job)
        wait_for_death(running.trainer["pid"], 5)
        refuse.clear()
        assert watch.until(job.id, lambda job: job.status != "running", 5).status == "succeeded"


def test_a_bell_for_one_queue_lets_no_other_wait_for_a_bell_that_was_lost(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    made = make_slot()
    slot = make_slot(settings=made.settings.model_copy(update={"queues": "day,night,noon"}))
    day, night, noon = ([make_job(queue=queue) for _ in range(2)] for queue in ("day", "night", "noon"))
    assert tasks.ring(slot, "night") == 4
    assert [watch.job(job.id).status for job in night] == ["succeeded"] * 2
    for other in (day, noon):
        assert [watch.job(job.id).status for job in other] == ["succeeded", "queued"]
    ended = [watch.job(job.id).finished_at or 0 for job in (*night, day[0], noon[0])]
    assert ended == sorted(ended)


def test_a_history_is_whole_after_twenty_kills_at_random_steps(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    """kill -9 the trainer at a random step, 20 times: resumed, and equal to the unbroken run."""
    epochs = {"epochs": 100}  # a trainer that dies at one step in ten does not live to see their end 20 times over
    unbroken = make_job(training=epochs)
    tasks.ring(make_slot(), "default")
    broken = make_job(training=epochs, tags={"stub": "mortal", "times": "20"}, limits={"max_retries": 20})
    assert tasks.ring(make_slot(), "default") == 21
    done = watch.job(broken.id)
    assert (done.status, done.attempt, done.failures) == ("succeeded", 21, 20)
    with db.read_scope(engine) as session:
        told = [progress.epochs(session, job.id) for job in (unbroken, broken)]
        steps = [progress.steps(session, job.id, 1000) for job in (unbroken, broken)]
    assert told[0] == told[1]
    assert steps[0] == steps[1]
    assert len(steps[0].step) == 400
