"""Retrainings by the real trainer: night after night, over deaths, and on hosts that share an object store alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from services import db
from services.blobs.objects import S3
from services.blobs.storage import Storage
from services.jobs import events
from services.models import registry
from services.orm import Job
from tests.worker.conftest import TRAINER
from tests.worker.test_trainer import Noting, has_two_checkpoints, kill_when
from tests.worker.watching import Watch
from worker import tasks
from worker.attempt.child import Template
from worker.attempt.slot import Slot
from worker.attempt.spare import Spares

MakeJob = Callable[..., Job]
MakeSlot = Callable[..., Slot]

SPEC: dict[str, Any] = {
    "architecture": {"cell": "gru", "dropout": 0.3, "num_layers": 2},
    "training": {"epochs": 15, "batch_size": 16, "loss": "cross_entropy"},
    "data": {
        "synthetic": {"samples": 120, "length": 6, "features": 2, "classes": 2},
        "split": {"test": 0.3, "method": "content"},
    },
    "retrain": {"model": "drawn", "warm_start": "production"},
    "checkpoints": {"every_steps": 3},
}


@pytest.fixture
def spares(template: Template) -> Noting:
    """Real trainers, one of them warm."""
    made = Noting(TRAINER, count=1, template=template)
    made.prepare()
    return made


def retrain(made: Job | None) -> dict[str, Any]:
    assert made is not None
    assert made.result is not None
    found: dict[str, Any] = made.result["retrain"]
    return found


def event_types(engine: Engine, job_id: str) -> Sequence[str]:
    with db.read_scope(engine) as session:
        return [
            row.type for row in events.page(session, job_id)[0] if row.type not in ("status", "checkpoint", "engine")
        ]


def test_the_first_is_promoted_and_the_next_begins_with_it_and_is_compared_with_it(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, spares: Noting, watch: Watch
) -> None:
    slot = make_slot(spares=spares)
    first, second = make_job(**SPEC), make_job(**SPEC)
    tasks.ring(slot, "default")
    done = watch.job(first.id)
    assert (done.status, retrain(done)["decision"], retrain(done)["warm_start"]) == ("succeeded", "promoted", None)
    assert event_types(engine, first.id) == ["retraining", "warm_start", "gate", "registered", "promoted"]
    done = watch.job(second.id)
    assert (done.status, retrain(done)["warm_start"]) == ("succeeded", "drawn@1")
    assert retrain(done)["gate"]["against"] == "drawn@1"
    verdict = "promoted" if retrain(done)["gate"]["passed"] else "held_back"
    assert event_types(engine, second.id) == ["retraining", "warm_start", "drift", "gate", "registered", verdict]
    with db.read_scope(engine) as session:
        assert [row.version for row in registry.versions(session, "drawn")[0]] == [2, 1]


def test_a_retraining_whose_trainer_is_killed_concludes_as_one_that_was_not(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, spares: Noting, storage: Storage, watch: Watch
) -> None:
    slot = make_slot(spares=spares)
    make_job(**SPEC)
    unbroken = make_job(**SPEC, name="unbroken")
    tasks.ring(slot, "default")
    broken = make_job(**{**SPEC, "retrain": {**SPEC["retrain"], "warm_start": "1", "gate": {"against": "1"}}})
    killer = threading.Thread(target=kill_when, args=(has_two_checkpoints, storage.job_dir(broken.id), spares))
    killer.start()
    tasks.ring(slot, "default")
    killer.join()
    done = watch.job(broken.id)
    assert (done.status, done.attempt) == ("succeeded", 2)
    gates = [retrain(watch.job(one.id))["gate"] for one in (unbroken, broken)]
    assert gates[0]["comparison"] == gates[1]["comparison"]
    models = [storage.job_file(one.id, "model.safetensors").read_bytes() for one in (unbroken, broken)]
    assert models[0] == models[1]
    assert event_types(engine, broken.id).count("registered") == 1


def test_a_host_fetches_the_model_to_beat_from_the_store(
    make_job: MakeJob, make_slot: MakeSlot, store: S3, tmp_path: Path, watch: Watch, template: Template
) -> None:
    def host(name: str) -> Slot:
        trainers = Spares(TRAINER, count=0, template=template)
        return make_slot(spares=trainers, storage=Storage(tmp_path / name, store), worker=f"{name}:1")

    first = make_job(**SPEC)
    tasks.ring(host("a"), "default")
    assert watch.job(first.id).status == "succeeded"
    second = make_job(**SPEC)
    tasks.ring(host("b"), "default")
    done = watch.job(second.id)
    assert (done.status, retrain(done)["warm_start"]) == ("succeeded", "drawn@1")
    assert retrain(done)["gate"]["comparison"] is not None

    assert watch.job(first.id).files is not None
    for file in watch.job(first.id).files or ():
        store.delete([file["object"]])
    third = make_job(**{**SPEC, "retrain": {**SPEC["retrain"], "warm_start": "1", "gate": {"against": "1"}}})
    tasks.ring(host("c"), "default")
    done = watch.job(third.id)
    assert (done.status, retrain(done)["gate"]["reason"]) == ("succeeded", "not_comparable")
    assert "drawn@1 is not there any more" in (done.message or "")
    assert any("is missing in the object store" in (row.message or "") for row in watch.events(third.id, "warning"))
