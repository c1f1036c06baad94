"""A job that was cancelled or met its time limit offers the best weights it had; nothing registers them by itself."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from sqlalchemy.engine import Engine

from services import db
from services.blobs.storage import Storage
from services.errors import JobNotSucceeded, LeaseLost, ModelNotFound
from services.jobs import attempts, control, progress
from services.jobs.leases import Lease
from services.models import registry
from services.orm import Job
from tests.worker.attempt.test_supervisor import ringing
from tests.worker.conftest import TRAINER
from tests.worker.watching import Watch
from worker import tasks
from worker.attempt.child import Template
from worker.attempt.slot import Slot
from worker.attempt.spare import Spares

MakeJob = Callable[..., Job]
MakeSlot = Callable[..., Slot]
FILES = ["model.safetensors", "model.json", "history.json"]
MORE = ["model.onnx", "README.md", "loss.svg", "gradients.svg"]


def cancelled(engine: Engine, job: Job, watch: Watch, step: int) -> Job:
    """The job as it is after it was cancelled at a step."""
    watch.until(job.id, lambda job: job.step >= step, 60)
    with db.session_scope(engine) as session:
        control.cancel(session, job.id)
    return watch.until(job.id, lambda job: job.status != "running", 20)


def test_a_run_that_is_cut_short_offers_its_best_weights(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, storage: Storage, watch: Watch, template: Template
) -> None:
    """By a real trainer, within the time that it has to stop."""
    job = make_job(training={"epochs": 100_000}, retrain={"model": "night", "gate": None})
    with ringing(make_slot(spares=Spares(TRAINER, count=1, template=template))):
        watch.until(job.id, lambda job: job.epoch >= 2, 60)
        ended = cancelled(engine, job, watch, 1)
    assert (ended.status, ended.reason) == ("cancelled", "cancelled_by_user")
    assert [file["name"] for file in ended.files or ()] == [*FILES, *MORE]
    assert ended.result is not None
    assert (ended.result["complete"], ended.result["incomplete_because"]) == (False, "cancelled")
    card = json.loads(storage.job_file(job.id, "model.json").read_text())
    assert (card["complete"], card["best_epoch"]) == (False, ended.result["best_epoch"])
    with db.read_scope(engine) as session:
        assert json.loads(storage.job_file(job.id, "history.json").read_text())["epochs"] == progress.epochs(
            session, job.id, limit=100_000
        )
        with pytest.raises(ModelNotFound):  # a retraining that was cut short has registered nothing
            registry.get(session, "night")
    with db.session_scope(engine) as session, pytest.raises(JobNotSucceeded, match="cut short"):
        registry.register(session, "night", job.id)


def test_a_job_past_its_time_limit_offers_its_best_weights(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job = make_job(tags={"stub": "offer"}, limits={"max_runtime_seconds": 2, "max_retries": 2})
    tasks.ring(make_slot(), "default")
    failed = watch.job(job.id)
    assert (failed.status, failed.reason, failed.attempt) == ("failed", "time_limit", 1)
    assert [file["name"] for file in failed.files or ()] == FILES
    assert (failed.result or {})["complete"] is False


def test_files_that_are_not_what_was_told_are_not_offered(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, storage: Storage, watch: Watch
) -> None:
    job = make_job(tags={"stub": "offer", "damage": "yes"})
    with ringing(make_slot()):
        ended = cancelled(engine, job, watch, 5)
    assert (ended.status, ended.result, ended.files) == ("cancelled", None, None)
    assert [row.step for row in watch.checkpoints(job.id)] == [4, 5]


def test_a_trainer_that_is_killed_offers_nothing_but_its_last_checkpoint(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job = make_job(tags={"stub": "deaf"})
    with ringing(make_slot(stop_seconds=0.2)):
        ended = cancelled(engine, job, watch, 5)
    assert (ended.status, ended.files) == ("cancelled", None)
    assert [row.step for row in watch.checkpoints(job.id)] == [4]


def test_an_attempt_that_was_replaced_offers_nothing(engine: Engine, make_job: MakeJob, watch: Watch) -> None:
    job = make_job()
    with db.session_scope(engine) as session:
        claimed = attempts.claim(session, "default", worker="here:1", lease_seconds=60)
        assert claimed is not None
        old = Lease.of(claimed)
        attempts.give_back(session, old)
        attempts.claim(session, "default", worker="there:2", lease_seconds=60)
    offered = {"result": {"complete": False, "metrics": {}}, "files": []}
    for late in (
        lambda session: attempts.cancelled(session, old, **offered),
        lambda session: attempts.fail(session, old, "time_limit", "Late.", retry=False, **offered),
    ):
        with pytest.raises(LeaseLost), db.session_scope(engine) as session:
            late(session)
    assert (watch.job(job.id).status, watch.job(job.id).result) == ("running", None)
