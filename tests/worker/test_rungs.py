"""Trials that are stopped early, by real trainers: what the trainer waits for, and what its supervisor answers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.engine import Engine

from services import db, faults
from services.blobs.storage import Storage
from services.jobs import events, progress
from services.orm import Job
from services.searches import control, queries
from services.training.messages import (
    End,
    EpochEnded,
    Event,
    Finished,
    Log,
    Order,
    RungAnswer,
    Stop,
    Stopped,
    StopReason,
)
from services.training.spec import parse
from tests.ringing import FakeDoorbell
from tests.worker.conftest import TRAINER
from tests.worker.watching import Process, wait_until
from worker import tasks
from worker.attempt.child import Template
from worker.attempt.slot import Slot
from worker.attempt.spare import Spares, Trainer
from worker.scheduler import searches

SPEC: dict[str, Any] = {
    "architecture": {"cell": "gru", "hidden_size": 4},
    "training": {"epochs": 6, "batch_size": 4},
    "data": {"synthetic": {"samples": 80, "length": 5, "features": 2, "classes": 2}},
}


@pytest.fixture
def trainer(template: Template) -> Iterator[Trainer]:
    """A real trainer, which has no order yet."""
    spares = Spares(TRAINER, count=0, template=template)
    taken = spares.take()
    yield taken
    taken.end()


def send_order(trainer: Trainer, folder: Path, rungs: tuple[int, ...]) -> None:
    trainer.send(Order(parse(SPEC).document(), None, str(folder), device="cpu", rungs=rungs))


def until(trainer: Trainer, kind: type[Event] | Any, epoch: int | None = None) -> Sequence[Event]:
    """What the trainer says until it says that."""
    told: list[Event] = []
    while not any(isinstance(each, kind) and epoch in (None, getattr(each, "epoch", None)) for each in told):
        told += trainer.wait(60)
        assert not (trainer.has_exited() and not told), "the trainer has ended without a word"
    return told


def warnings_of(told: Sequence[Event]) -> list[str]:
    return [each.message for each in told if isinstance(each, Log) and each.level == "warning"]


def test_a_trainer_waits_at_a_rung_and_ends_if_it_is_told_so(trainer: Trainer, tmp_path: Path) -> None:
    send_order(trainer, tmp_path, (1, 3))
    until(trainer, EpochEnded, 1)
    trainer.send(RungAnswer(1, goes_on=True))
    until(trainer, EpochEnded, 3)
    trainer.send(RungAnswer(1, goes_on=False))  # of a rung that is behind it
    trainer.send(RungAnswer(3, goes_on=False))
    told = until(trainer, End)
    assert isinstance(told[-1], Stopped)
    assert told[-1].reason == StopReason.PRUNED
    assert [each.epoch for each in told if isinstance(each, EpochEnded)] == []
    assert warnings_of(told) == []


def test_a_trainer_goes_on_if_its_supervisor_never_answers(trainer: Trainer, tmp_path: Path) -> None:
    send_order(trainer, tmp_path, (1,))
    told = until(trainer, End)
    assert isinstance(told[-1], Finished)
    assert [each.epoch for each in told if isinstance(each, EpochEnded)] == [1, 2, 3, 4, 5, 6]
    assert warnings_of(told) == ["The supervisor did not answer in time after epoch 1, so the trial goes on."]


def test_a_trainer_that_waits_at_a_rung_obeys_a_request_to_stop(trainer: Trainer, tmp_path: Path) -> None:
    send_order(trainer, tmp_path, (1,))
    until(trainer, EpochEnded, 1)
    trainer.send(Stop(StopReason.PAUSE))
    told = until(trainer, End)
    assert isinstance(told[-1], Stopped)
    assert (told[-1].reason, told[-1].files) == (StopReason.PAUSE, None)
    assert warnings_of(told) == []


# With a supervisor


class Noting(Spares):
    """Spares that remember the process that was handed out last."""

    pid = 0

    def take(self) -> Trainer:
        trainer = super().take()
        self.pid = trainer.pid
        return trainer


@pytest.fixture
def slot(make_slot: Callable[..., Slot], template: Template) -> Slot:
    """A worker with real trainers."""
    return make_slot(spares=Noting(TRAINER, count=1, template=template))


def submit(engine: Engine, space: dict[str, Any], *, epochs: int = 6, **more: Any) -> str:
    document = {
        **SPEC,
        "training": {**SPEC["training"], "epochs": epochs},
        "search": {"space": space, "stop_early": "asha", "final": False, **more},
    }
    with db.session_scope(engine) as session:
        return control.submit(session, document).search.id


def work(engine: Engine, slot: Slot) -> None:
    """What one scheduler and one worker do, until there is nothing left to do."""
    bell = FakeDoorbell()
    searches.look(engine, bell)
    while bell.rung:
        tasks.ring(slot, bell.rung.pop())
        searches.look(engine, bell)


def told(engine: Engine, search_id: str) -> list[Any]:
    """All that a search has come to, without ids and times."""
    found = []
    with db.read_scope(engine) as session:
        for job in session.scalars(select(Job).where(Job.search_id == search_id).order_by(Job.trial)):
            records = [
                {name: value for name, value in record.items() if name not in ("seconds", "samples_per_second")}
                for record in progress.epochs(session, job.id)
            ]
            rungs = [(event.message, event.data) for event in events.page(session, job.id, type="rung")[0]]
            found.append((job.trial, job.choices, job.status, job.reason, job.message, records, rungs, job.attempt))
    return found


LR = "training.optimizer.lr"
TWO_ARE_BAD = {"space": {LR: [0.001, 0.02, 1e-7, 2e-7]}, "algorithm": "grid"}


def test_a_bad_trial_is_stopped_at_its_first_rung_and_the_next_one_follows(
    engine: Engine, slot: Slot, storage: Storage
) -> None:
    search_id = submit(engine, **TWO_ARE_BAD)
    work(engine, slot)
    trials = told(engine, search_id)
    assert [trial[2:4] for trial in trials] == [("succeeded", None)] * 2 + [("cancelled", "pruned")] * 2
    assert [len(trial[5]) for trial in trials] == [6, 6, 1, 1]
    assert [[data["epoch"] for _, data in trial[6]] for trial in trials] == [[1, 3], [1, 3], [], []]
    assert trials[2][4].endswith("It is number 3 of the 3 trials that have got there, and the best one goes on.")
    with db.read_scope(engine) as session:
        found = queries.detail(session, queries.get(session, search_id))
        [pruned] = session.scalars(select(Job).where(Job.search_id == search_id, Job.trial == 3))
    assert (found.counts["succeeded"], found.counts["pruned"], found.counts["cancelled"]) == (2, 2, 0)
    assert found.best is not None
    assert found.best.trial == 2
    assert (pruned.result or {})["incomplete_because"] == "pruned"
    for file in pruned.files or ():
        assert storage.job_file(pruned.id, file["name"]).stat().st_size == file["bytes"]
    assert "model.safetensors" in [file["name"] for file in pruned.files or ()]


def test_the_same_search_gives_the_same_trials_bit_for_bit_whatever_dies_at_a_rung(engine: Engine, slot: Slot) -> None:
    """The second time each trainer is killed while it waits at its first rung, after the answer is in the database."""
    space = {LR: {"low": 1e-4, "high": 1e-1, "log": True}}
    first = submit(engine, space, trials=4, seed=3)
    work(engine, slot)
    killed: set[str] = set()

    def kill() -> None:
        with db.read_scope(engine) as session:
            [job] = session.scalars(select(Job).where(Job.status == "running"))
        if job.id not in killed:
            killed.add(job.id)
            assert isinstance(slot.spares, Noting)
            os.kill(slot.spares.pid, signal.SIGKILL)

    faults.arm("rung.answered", kill)
    try:
        again = submit(engine, space, trials=4, seed=3)
        work(engine, slot)
    finally:
        faults.disarm()
    undisturbed, disturbed = told(engine, first), told(engine, again)
    assert [trial[:-1] for trial in disturbed] == [trial[:-1] for trial in undisturbed]
    assert [trial[-1] for trial in undisturbed] == [1] * 4
    assert [trial[-1] for trial in disturbed] == [2] * 4
    assert {trial[3] for trial in undisturbed} == {None, "pruned"}


def test_a_worker_that_is_killed_while_a_trial_waits_is_followed_by_one_that_ends_it_alike(
    start_worker: Callable[..., Process], start: Callable[..., Process], engine: Engine, data_dir: Path
) -> None:
    """With a stub for a trainer, whose validation loss is that of its seed."""
    short: dict[str, Any] = {"lease_seconds": 2.0, "renew_seconds": 0.2}
    start_worker(deaths="rung.answered", **short)
    start("worker.scheduler", **short)
    search_id = submit(engine, {"training.seed": [1, 0, 2]}, algorithm="grid")
    wait_until(lambda: _has_ended(engine, search_id), 60)
    assert (data_dir / "died-at-rung.answered").exists()
    trials = told(engine, search_id)
    assert [trial[2:4] for trial in trials] == [("succeeded", None), ("succeeded", None), ("cancelled", "pruned")]
    assert [trial[-1] for trial in trials] == [2, 1, 1]
    assert [[data["epoch"] for _, data in trial[6]] for trial in trials] == [[1, 3], [1, 3], []]


def _has_ended(engine: Engine, search_id: str) -> bool:
    with db.read_scope(engine) as session:
        return queries.get(session, search_id).ended_at is not None
