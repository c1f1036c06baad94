"""Why a run stops before its end: a pause, silence, a lease that cannot be renewed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy.engine import Engine

from services import db, faults
from services.errors import Unavailable
from services.jobs import control
from services.orm import Job
from services.settings import Settings
from tests.worker.attempt.test_supervisor import go, ringing
from tests.worker.watching import Watch, is_alive, wait_for_death
from worker import tasks
from worker.attempt import conversation
from worker.attempt.slot import Slot

MakeJob = Callable[..., Job]
MakeSlot = Callable[..., Slot]


@pytest.fixture
def short(make_slot: MakeSlot) -> Slot:
    """A slot with a lease of two seconds."""
    settings: Settings = make_slot().settings
    return make_slot(settings=settings.model_copy(update={"lease_seconds": 2.0}))


def trainer_of(job: Job) -> int:
    assert job.trainer is not None
    pid: int = job.trainer["pid"]
    return pid


def test_a_running_job_is_paused_at_its_place_and_goes_on_from_there(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job, slot = make_job(tags={"stub": "hold"}), make_slot()
    with ringing(slot):
        running = watch.until(job.id, lambda job: job.step == 1)
        with db.session_scope(engine) as session:
            control.pause(session, job.id)
        paused = watch.until(job.id, lambda job: job.status != "running", 3)
        assert not is_alive(trainer_of(running))
    assert (paused.status, paused.checkpoint_step, paused.failures, paused.lost) == ("paused", 1, 0, 0)
    with db.session_scope(engine) as session:
        control.resume(session, job.id)
    go(slot.storage, job)
    tasks.ring(make_slot(), "default")
    done = watch.job(job.id)
    assert done.trainer is not None
    assert (done.status, done.trainer["resumed_from"]) == ("succeeded", {"epoch": 0, "step": 1})


def test_cancel_beats_pause_when_both_come(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job = make_job(tags={"stub": "hold"})
    with ringing(make_slot()):
        watch.until(job.id, lambda job: job.step == 1)
        with db.session_scope(engine) as session:
            control.pause(session, job.id)
            control.cancel(session, job.id)
        assert watch.until(job.id, lambda job: job.status != "running", 3).status == "cancelled"


def test_cancelling_a_trainer_that_takes_long_to_pause_ends_the_job(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job = make_job(tags={"stub": "deaf"})
    with ringing(make_slot(stop_seconds=1)):
        watch.until(job.id, lambda job: job.step == 5)
        with db.session_scope(engine) as session:
            control.pause(session, job.id)
        with db.session_scope(engine) as session:
            control.cancel(session, job.id)
        assert watch.until(job.id, lambda job: job.status != "running", 4).status == "cancelled"


def test_a_stopped_trainer_is_killed_as_stalled_and_the_job_tried_again(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    """SIGSTOP of the trainer past the stall limit."""
    job = make_job(tags={"stub": "hold", "times": "1"}, limits={"max_stall_seconds": 1})
    with ringing(make_slot()):
        running = watch.until(job.id, lambda job: job.step == 1)
        os.kill(trainer_of(running), signal.SIGSTOP)
        done = watch.until(job.id, lambda job: job.status == "succeeded", 8)
    assert not is_alive(trainer_of(running))
    assert (done.attempt, done.failures) == (2, 1)
    moves = watch.transitions(job.id)
    assert [(move.to_status, move.reason) for move in moves[2:4]] == [("queued", "stalled"), ("running", None)]
    assert "said nothing for 1 s at step 1" in (moves[2].message or "")


def test_a_trainer_that_stalls_again_fails_whatever_retries_are_left(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job = make_job(tags={"stub": "deaf"}, limits={"max_stall_seconds": 1, "max_retries": 9})
    tasks.ring(make_slot(), "default")
    failed = watch.job(job.id)
    assert (failed.status, failed.reason, failed.attempt) == ("failed", "stalled", 2)


def test_a_slow_trainer_that_says_something_is_not_stalled(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job = make_job(tags={"stub": "slow"}, limits={"max_stall_seconds": 1})
    tasks.ring(make_slot(), "default")
    assert (watch.job(job.id).status, watch.job(job.id).attempt) == ("succeeded", 1)


@contextmanager
def outage(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A database that cannot be reached by the supervisor."""

    def refuse(engine: Engine) -> object:
        raise Unavailable("The database is away.")

    with monkeypatch.context() as patched:
        patched.setattr(conversation.db, "session_scope", refuse)
        patched.setattr(conversation.db, "read_scope", refuse)
        yield


def test_a_run_without_its_database_saves_its_place_and_is_given_back_when_it_returns(
    make_job: MakeJob, short: Slot, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unreachable for half the lease: the trainer is asked to stop, and what it saved is not lost."""
    job = make_job(tags={"stub": "hold"})
    with ringing(short):
        running = watch.until(job.id, lambda job: job.step == 1)
        with outage(monkeypatch):
            wait_for_death(trainer_of(running), 1.45)  # before three quarters of the lease
            short.drain.raise_flag()
        given = watch.until(job.id, lambda job: job.status != "running", 3)
    assert (given.status, given.checkpoint_step, given.lost, given.failures) == ("queued", 1, 0, 0)


def test_a_trainer_that_does_not_stop_is_killed_before_the_lease_runs_out(
    make_job: MakeJob, short: Slot, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unreachable past the lease: the trainer is stopped in time, and nothing is written afterwards."""
    job = make_job(tags={"stub": "deaf"})
    with ringing(short) as thread:
        running = watch.until(job.id, lambda job: job.step == 5)
        with outage(monkeypatch):
            wait_for_death(trainer_of(running), 1.9)
            short.drain.raise_flag()
            thread.join(10)
    assert watch.job(job.id).status == "running"


def test_an_outcome_waits_for_the_database_beyond_the_lease(
    make_job: MakeJob, short: Slot, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that took hours is not thrown away because the database was out of reach when it was done."""
    job = make_job(tags={"stub": "hold"})
    with ringing(short):
        running = watch.until(job.id, lambda job: job.step == 1)
        with outage(monkeypatch):
            go(short.storage, job)
            wait_for_death(trainer_of(running), 1)
            threading.Event().wait(2.2)  # the lease has run out, and nobody was there to see it
        done = watch.until(job.id, lambda job: job.status != "running", 3)
    assert (done.status, done.attempt) == ("succeeded", 1)


def test_a_trainer_is_gone_before_its_outcome_can_be_seen(make_job: MakeJob, make_slot: MakeSlot, watch: Watch) -> None:
    """Whoever follows has the job's folder for itself, also where the one before lingers after its last event."""
    job = make_job(tags={"stub": "linger"})
    alive: list[bool] = []
    faults.arm("supervisor.finishing", lambda: alive.append(is_alive(trainer_of(watch.job(job.id)))))
    try:
        tasks.ring(make_slot(), "default")
    finally:
        faults.disarm()
    assert (watch.job(job.id).status, alive) == ("succeeded", [False])
