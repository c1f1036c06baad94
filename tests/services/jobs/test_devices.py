"""A job that no worker of its queue has memory for is refused when it is submitted, however it is submitted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.errors import ScheduleInvalid, SpecInvalid
from services.jobs import attempts, batches, control, devices, submission, workers
from services.orm import Firing, Schedule, Worker
from services.schedules import definitions, firings
from services.schedules.definitions import Definition
from services.training.spec.room import Device

Scope = Callable[[], AbstractContextManager[Session]]
GIB = 1 << 30
WIDE: dict[str, Any] = {
    "architecture": {"cell": "lstm", "hidden_size": 8192, "num_layers": 16},
    "training": {"epochs": 3},
    "data": {"synthetic": {"samples": 20, "length": 5, "features": 2, "classes": 2}},
}
SLIM = {**WIDE, "architecture": {"cell": "gru", "hidden_size": 4}}


def beat(
    session: Session, name: str, memory: int | None, queues: tuple[str, ...] = ("default",), device: str | None = "cpu"
) -> None:
    what = {"state": "idle", "job_id": None, "doorbell_seconds_ago": None}
    told = {"device": device if memory else None, "memory_bytes": memory}
    workers.beat(session, name, queues=queues, **what, **told)


def submit(session: Session, document: dict[str, Any]) -> str:
    return submission.submit(session, submission.read(document)).job_id


def test_the_devices_of_a_queue_are_known_when_all_its_workers_have_told_theirs(session: Session) -> None:
    assert devices.of_queue(session, "default") == []
    beat(session, "a", 8 * GIB)
    beat(session, "b", 140 * GIB, ("default", "night"), "NVIDIA H200")
    beat(session, "c", None, ("new",))
    gpu = Device("NVIDIA H200", 140 * GIB)
    assert devices.of_queue(session, "default") == [Device("cpu", 8 * GIB), gpu]
    assert devices.of_queue(session, "night") == [gpu]
    assert devices.of_queue(session, "new") == devices.of_queue(session, "nobody") == []
    beat(session, "c", None)
    assert devices.of_queue(session, "default") == []


def test_a_worker_that_fell_silent_counts_for_an_hour(session: Session) -> None:
    beat(session, "a", 8 * GIB)
    session.execute(sa.update(Worker).values(seen_at=db.now() - workers.SEEN_SECONDS - 60))
    assert devices.of_queue(session, "default") == [Device("cpu", 8 * GIB)]
    session.execute(sa.update(Worker).values(seen_at=db.now() - workers.KEEP_SECONDS - 1))
    assert devices.of_queue(session, "default") == []


def test_of_a_processor_and_a_gpu_the_one_that_comes_closest_is_named(scope: Scope) -> None:
    """A processor holds the activations of the whole batch, so it may lack more than a GPU that has less memory."""
    with scope() as session:
        beat(session, "a", 40 * GIB)
        beat(session, "b", 3 * GIB, device="NVIDIA T4")
    batch = {"epochs": 3, "batch_size": 50_000}
    drawn = {"samples": 100_000, "length": 100, "features": 2, "classes": 2}
    wide = {"architecture": {"cell": "lstm", "hidden_size": 8192}, "training": batch, "data": {"synthetic": drawn}}
    with pytest.raises(SpecInvalid) as refused, scope() as session:
        submit(session, wide)
    [problem] = refused.value.problems
    assert "the one that comes closest has 3 GiB (NVIDIA T4), and the job needs" in problem.detail


def test_a_job_is_refused_until_a_worker_with_enough_memory_is_there(scope: Scope) -> None:
    with scope() as session:
        beat(session, "a", 64 * GIB)
        assert submit(session, SLIM)
    with pytest.raises(SpecInvalid) as refused, scope() as session:
        submit(session, WIDE)
    [problem] = refused.value.problems
    assert problem.pointer == "/architecture/hidden_size"
    assert problem.detail == (
        "no worker of the queue default has enough memory: the one that comes closest has 64 GiB (cpu), and the job "
        "needs 155 GiB of memory or more (155 GiB for the network of 8,322,629,634 parameters with gradients and "
        "optimizer, 200 MiB for the activations of a batch of 16, 800 bytes for the data) there; lower "
        "architecture.hidden_size or num_layers, or start a worker with enough memory, which lets the job pass; if "
        "several workers share that CPU, LOOPLINE_CPU_WORKERS=1 gives one job all its memory"
    )
    with scope() as session:
        assert submit(session, {**WIDE, "queue": "other"})  # nobody is known there
        beat(session, "b", 256 * GIB)
        assert submit(session, WIDE)


def test_a_job_that_was_accepted_stays_queued_when_the_large_worker_is_gone(scope: Scope) -> None:
    with scope() as session:
        beat(session, "a", 256 * GIB)
        job_id = submit(session, WIDE)
        beat(session, "b", 8 * GIB)
        workers.remove(session, "a")
    with scope() as session:
        assert control.get(session, job_id).status == "queued"
        claimed = attempts.claim(session, "default", worker="b", lease_seconds=60)
        assert claimed is not None
        assert claimed.id == job_id


def test_every_job_of_a_batch_or_matrix_that_has_no_room_is_named(engine: Engine, scope: Scope) -> None:
    with scope() as session:
        beat(session, "a", 64 * GIB)
    with pytest.raises(SpecInvalid) as refused, scope() as session:
        batches.submit(session, {"jobs": [SLIM, WIDE, WIDE]})
    assert [each.pointer for each in refused.value.problems] == [
        "/jobs/1/architecture/hidden_size",
        "/jobs/2/architecture/hidden_size",
    ]
    with pytest.raises(SpecInvalid) as refused, scope() as session:
        batches.submit(session, {**WIDE, "matrix": {"architecture.hidden_size": [4, 8192]}})
    [problem] = refused.value.problems
    assert "no worker of the queue default has enough memory" in problem.detail


def test_a_retraining_that_has_no_room_is_refused(scope: Scope) -> None:
    with scope() as session:
        beat(session, "a", 64 * GIB)
    retrain = {"model": "wide", "promote": None, "gate": None}
    with pytest.raises(SpecInvalid, match="no worker of the queue default has enough memory"), scope() as session:
        submit(session, {**WIDE, "retrain": retrain})


def test_a_schedule_is_refused_and_so_is_what_it_submits_later(scope: Scope) -> None:
    wanted = Definition("30 2 * * *", WIDE)
    with scope() as session:
        beat(session, "a", 64 * GIB)
    with pytest.raises(ScheduleInvalid) as refused, scope() as session:
        definitions.create(session, "nightly", wanted)
    [problem] = refused.value.problems
    assert problem.pointer == "/submit/architecture/hidden_size"
    with scope() as session:
        beat(session, "b", 256 * GIB)
        definitions.create(session, "nightly", wanted)
    with scope() as session:
        workers.remove(session, "b")
    with pytest.raises(ScheduleInvalid), scope() as session:
        firings.run(session, "nightly")
    with scope() as session:
        session.execute(sa.update(Schedule).values(due_at=db.now() - 1))
    with scope() as session:
        [due] = firings.due(session)
        firings.fire(session, due)
    with scope() as session:
        [firing] = session.scalars(sa.select(Firing)).all()
        assert session.scalars(sa.select(Schedule)).one()
        assert (firing.outcome, firing.reason) == ("refused", "spec_invalid")
        assert "155 GiB for the network" in (firing.message or "")
