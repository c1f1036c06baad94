"""Commits whose answer is lost: they took place or did not, and the worker cannot know. Nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db, faults
from services.errors import Unavailable
from services.jobs import attempts, progress
from services.orm import Job
from services.training.messages import to_json
from tests.worker.attempt.test_supervisor import go, ringing
from tests.worker.watching import Watch
from worker import tasks
from worker.attempt import conversation
from worker.attempt.record import Record
from worker.attempt.slot import Slot

MakeJob = Callable[..., Job]
MakeSlot = Callable[..., Slot]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tries again soon, and arms nothing for the next test."""
    monkeypatch.setattr(conversation, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(tasks, "PAUSES", (0.02, 0.05))
    yield
    faults.disarm()


class Reset:
    """Breaks the connection at those passages of a fault point that `which` picks, counted from 1."""

    def __init__(self, which: Callable[[int], bool]) -> None:
        self.which, self.passages, self.resets = which, 0, 0

    def __call__(self) -> None:
        self.passages += 1
        if self.which(self.passages):
            self.resets += 1
            raise Unavailable("Connection reset by peer.")


def assert_whole(engine: Engine, watch: Watch, job: Job) -> None:
    """The job has succeeded, once, and everything that its trainer told is there, once."""
    assert watch.statuses(job.id)[-1] == "succeeded"
    assert watch.statuses(job.id).count("succeeded") == 1
    with db.read_scope(engine) as session:
        assert list(progress.steps(session, job.id).step) == list(range(1, 13))
        assert [record["epoch"] for record in progress.epochs(session, job.id)] == [1, 2, 3]
        assert [row.step for row in progress.checkpoints(session, job.id)] == [4, 8, 12]
    assert [(event.data or {})["step"] for event in watch.events(job.id, "checkpoint")] == [4, 8, 12]
    assert len(watch.events(job.id, "micro_batch")) == len(watch.events(job.id, "warning")) == 1
    assert len(watch.lines(job.id)) == 6 + 5  # what the stub says and prints; the beginning, three epochs, the end


@pytest.mark.parametrize("point", ["transaction.written", "transaction.committed"])
def test_each_write_of_an_attempt_is_interrupted_once(
    engine: Engine,
    make_job: MakeJob,
    make_slot: MakeSlot,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    """Connection reset during every kind of write, the final commit among them, before or after it took place."""
    job, slot = make_job(tags={"stub": "discuss"}), make_slot()
    seen: list[Record] = []
    due = False
    write = Record.write

    def watched(batch: Record, session: Session) -> None:
        nonlocal due
        due = not any(batch is one for one in seen)
        seen.append(batch)
        write(batch, session)

    def reset() -> None:
        nonlocal due
        if due:
            due = False
            if any(getattr(event, "message", None) == "less is well" for event in seen[-1].events):
                go(slot.storage, job)  # what was told is in this batch, and the end is not
            raise Unavailable("Connection reset by peer.")

    monkeypatch.setattr(Record, "write", watched)
    faults.arm(point, reset)
    tasks.ring(slot, "default")
    faults.disarm()
    kinds = {to_json(event)["event"] for batch in seen if batch.end is None for event in batch.events}
    assert kinds >= {"started", "steps", "epoch", "checkpoint", "note", "log"}
    assert watch.job(job.id).attempt == 1
    assert_whole(engine, watch, job)


@pytest.mark.parametrize("point", ["transaction.written", "transaction.committed"])
def test_a_claim_whose_answer_was_lost_is_given_back_and_made_again(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch, point: str
) -> None:
    """Connection reset during the claim: the job does not wait for its lease to run out."""
    job = make_job(tags={"stub": "talk"})
    faults.arm(point, Reset(lambda passage: passage == 1))
    assert tasks.ring(make_slot(), "default") == 1
    assert_whole(engine, watch, job)
    done = watch.job(job.id)
    assert (done.lost, done.failures, done.attempt) == (0, 0, 2 if point == "transaction.committed" else 1)


def test_what_another_process_claimed_is_left_to_it(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job = make_job()
    with db.session_scope(engine) as session:
        attempts.claim(session, "default", worker="here:1:other", lease_seconds=60)
    faults.arm("transaction.committed", Reset(lambda passage: passage == 1))
    tasks.ring(make_slot(), "default")
    assert (watch.job(job.id).status, watch.job(job.id).attempt) == ("running", 1)


def test_a_heartbeat_whose_answer_was_lost_is_made_again(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    """Connection reset during the heartbeat: the run goes on."""
    job, slot = make_job(tags={"stub": "hold"}), make_slot()
    with ringing(slot):
        watch.until(job.id, lambda job: job.step == 1)
        reset = Reset(lambda passage: passage <= 3)
        faults.arm("transaction.committed", reset)  # a trainer that holds leaves nothing else to write
        watch.until(job.id, lambda _: reset.passages > 3, 5)
        go(slot.storage, job)
        watch.until(job.id, lambda job: job.status == "succeeded", 5)
    assert watch.statuses(job.id) == ["queued", "running", "succeeded"]


@pytest.mark.parametrize("point", ["transaction.written", "transaction.committed"])
@pytest.mark.parametrize(
    ("stub", "ends"), [("", "succeeded"), ("diverge", "failed"), ("exit", "failed"), ("talk", "succeeded")]
)
def test_an_outcome_whose_commit_was_not_answered_is_recorded_once(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch, point: str, stub: str, ends: str
) -> None:
    """Connection reset during the final commit."""
    job = make_job(tags={"stub": stub} if stub else {}, limits={"max_retries": 0})
    reset = Reset(lambda passage: passage == 1)
    faults.arm("supervisor.finishing", lambda: reset.passages or faults.arm(point, reset))  # type: ignore[func-returns-value]
    tasks.ring(make_slot(), "default")
    assert reset.resets == 1
    assert watch.statuses(job.id) == ["queued", "running", ends]
