"""Workers that share a database and an object store, and no disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from services import db
from services.blobs import transfers
from services.blobs.objects import S3
from services.blobs.storage import Storage
from services.datasets import versions
from services.jobs import attempts, control, progress
from services.orm import Job
from services.settings import Settings
from services.training.messages import (
    CheckpointDeleted,
    CheckpointSaved,
    File,
    Place,
    RolledBack,
    Started,
    Steps,
    to_json,
)
from services.upkeep import reconciler
from tests.conftest import S3Server, received
from tests.ringing import FakeDoorbell
from tests.worker.attempt.test_deaths import freeze
from tests.worker.attempt.test_supervisor import go, ringing
from tests.worker.conftest import TRAINER
from tests.worker.test_trainer import numbers
from tests.worker.watching import Process, Watch, wait_for_death
from worker import tasks
from worker.attempt.child import Template
from worker.attempt.delivery import StoreDelivery
from worker.attempt.record import Record
from worker.attempt.slot import Claim, Slot
from worker.attempt.spare import Spares
from worker.scheduler.bell import CeleryDoorbell

MakeJob = Callable[..., Job]
MakeSlot = Callable[..., Slot]
MakeHost = Callable[..., Slot]
NUMBERS = ("steps", "epoch", "note", "log")


@pytest.fixture
def make_host(make_slot: MakeSlot, store: S3, tmp_path: Path) -> MakeHost:
    """A factory of what a worker on a host of its own works with."""

    def make(name: str = "a", **changes: Any) -> Slot:
        return make_slot(**{"storage": Storage(tmp_path / name, store), "worker": f"{name}:1", **changes})

    return make


@pytest.fixture
def host(make_host: MakeHost) -> Slot:
    return make_host()


def recorded(engine: Engine, job_id: str) -> list[dict[str, Any]]:
    """The files that the database counts on."""
    with db.read_scope(engine) as session:
        job = control.get(session, job_id)
        return [*(job.files or ()), *(file for row in progress.checkpoints(session, job_id) for file in row.files)]


def stored(store: S3, file: dict[str, Any]) -> bytes:
    with closing(store.open(file["object"])) as reading:
        return b"".join(iter(lambda: reading.read(1 << 20), b""))


def assert_whole(engine: Engine, store: S3, job_id: str) -> None:
    """Everything that the database counts on is in the store as it was told."""
    files = recorded(engine, job_id)
    assert files
    for file in files:
        data = stored(store, file)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"])


def model(engine: Engine, store: S3, job_id: str) -> dict[str, bytes]:
    with db.read_scope(engine) as session:
        return {file["name"]: stored(store, file) for file in control.get(session, job_id).files or ()}


def test_what_the_database_counts_on_is_in_the_store_and_nothing_stays_on_the_host(
    engine: Engine, make_job: MakeJob, host: Slot, store: S3, watch: Watch
) -> None:
    job = make_job()
    tasks.ring(host, "default")
    assert watch.job(job.id).status == "succeeded"
    assert [row.step for row in watch.checkpoints(job.id)] == [4, 8, 12]
    assert_whole(engine, store, job.id)
    assert {found.key for found in store.list("")} == {file["object"] for file in recorded(engine, job.id)}
    assert not (host.storage.root / "jobs" / job.id).exists()


def test_a_job_goes_on_exactly_on_another_host_after_its_own_has_died(
    engine: Engine,
    make_job: MakeJob,
    make_host: MakeHost,
    store: S3,
    store_settings: dict[str, Any],
    settings: Settings,
    start: Callable[..., Process],
    bell: CeleryDoorbell,
    watch: Watch,
    tmp_path: Path,
    npz_bytes: Callable[..., bytes],
    template: Template,
) -> None:
    """SIGKILL of a whole worker mid-run; another with a folder of its own, the database and the store ends the run with
    the weights and the history of one that was never broken."""
    with db.session_scope(engine) as session:
        dataset, _ = versions.add(
            session, received(Storage(tmp_path / "api", store), io.BytesIO(npz_bytes(samples=80))), name="drawn"
        )
    spec: dict[str, Any] = {
        "architecture": {"cell": "gru", "dropout": 0.3, "num_layers": 2},
        "training": {"epochs": 120, "batch_size": 16},
        "data": {"dataset": "drawn", "synthetic": None},
        "checkpoints": {"every_steps": 3},
    }
    broken = make_job(dataset_id=dataset.id, **spec)
    celery = ("worker.start", "worker.app", "--without-heartbeat")
    one = start(*celery, data_dir=tmp_path / "one", device="cpu", trainer_threads=1, **store_settings)
    bell.ring("default")
    running = watch.until(broken.id, lambda job: job.checkpoint_step > 0, 60)
    assert running.status == "running"
    os.killpg(one.pid, signal.SIGKILL)
    one.popen.wait()

    def is_back(_: Job) -> bool:
        reconciler.reconcile(engine, FakeDoorbell(), settings)
        return watch.job(broken.id).status == "queued"

    watch.until(broken.id, is_back)
    unbroken = make_job(dataset_id=dataset.id, **spec)
    spares = Spares(TRAINER, count=1, template=template)
    assert tasks.ring(make_host("two", spares=spares), "default") == 2
    done = watch.job(broken.id)
    assert (done.status, done.attempt) == ("succeeded", 2)
    assert done.trainer is not None
    assert done.trainer["resumed_from"]["step"] >= 3
    files = [model(engine, store, job.id) for job in (unbroken, broken)]
    assert files[0]["model.safetensors"] == files[1]["model.safetensors"]
    with db.read_scope(engine) as session:
        told = [[numbers(record) for record in progress.epochs(session, job.id)] for job in (unbroken, broken)]
        assert told[0] == told[1]
        assert len(told[0]) == 120
        assert json.loads(files[1]["history.json"])["epochs"] == progress.epochs(session, broken.id)
        assert progress.steps(session, broken.id, 5000) == progress.steps(session, unbroken.id, 5000)
        assert len(progress.checkpoints(session, broken.id)) <= 10
    for job in (broken, unbroken):
        assert_whole(engine, store, job.id)


def test_a_store_that_is_away_costs_checkpoints_and_not_the_run(
    engine: Engine, make_job: MakeJob, host: Slot, store: S3, s3_server: S3Server, watch: Watch
) -> None:
    job = make_job(tags={"stub": "discuss"})
    with s3_server.away(), ringing(host):
        watch.until(job.id, lambda job: job.step == 5)  # numbers are told meanwhile
        watch.until(job.id, lambda _: watch.events(job.id, "checkpoint_skipped"), 30)
        assert watch.checkpoints(job.id) == []
        s3_server.start()
        go(host.storage, job)
        watch.until(job.id, lambda job: job.status != "running")
    assert watch.job(job.id).status == "succeeded"
    assert [row.step for row in watch.checkpoints(job.id)] == [8, 12]
    (skipped,) = watch.events(job.id, "checkpoint_skipped")
    assert (skipped.data, skipped.level) == ({"step": 4}, "warning")
    assert_whole(engine, store, job.id)


def test_a_result_waits_for_the_store_to_come_back(
    engine: Engine, make_job: MakeJob, host: Slot, store: S3, s3_server: S3Server, watch: Watch
) -> None:
    job = make_job()
    with s3_server.away(), ringing(host):
        told = watch.until(job.id, lambda _: watch.events(job.id, "warning"), 30)
        lease = told.lease_until or 0.0
        watch.until(job.id, lambda job: (job.lease_until or 0.0) > lease)  # it is kept meanwhile
        s3_server.start()
        watch.until(job.id, lambda job: job.status != "running")
    assert watch.job(job.id).status == "succeeded"
    assert "waits for the object store" in (watch.events(job.id, "warning")[0].message or "")
    assert watch.checkpoints(job.id)[-1].step == 12
    assert_whole(engine, store, job.id)


def test_a_store_that_stays_away_fails_the_attempt_and_says_so(
    make_job: MakeJob, make_host: MakeHost, s3_server: S3Server, watch: Watch
) -> None:
    job = make_job(limits={"max_retries": 0})
    with s3_server.away():
        tasks.ring(make_host(store_wait_seconds=0.2), "default")
    failed = watch.job(job.id)
    assert (failed.status, failed.reason) == ("failed", "storage_unavailable")
    assert "The object store cannot answer now" in (failed.message or "")


@pytest.mark.parametrize("ask", ["cancel", "drain"])
def test_nobody_waits_for_a_store_that_is_away_when_asked_to_stop(
    engine: Engine, make_job: MakeJob, make_host: MakeHost, s3_server: S3Server, watch: Watch, ask: str
) -> None:
    job, host = make_job(), make_host(stop_seconds=0.1)
    with s3_server.away(), ringing(host):
        watch.until(job.id, lambda _: watch.events(job.id, "warning"), 30)
        if ask == "cancel":
            with db.session_scope(engine) as session:
                control.cancel(session, job.id)
        else:
            host.drain.raise_flag()
        stopped = watch.until(job.id, lambda job: job.status != "running")
    assert (stopped.status, stopped.failures) == ("cancelled" if ask == "cancel" else "queued", 0)


def test_a_job_that_waits_for_its_data_is_cancelled_at_once(
    engine: Engine,
    make_job: MakeJob,
    make_host: MakeHost,
    store: S3,
    s3_server: S3Server,
    watch: Watch,
    tmp_path: Path,
    npz_bytes: Callable[..., bytes],
) -> None:
    with db.session_scope(engine) as session:
        held = Storage(tmp_path / "api", store)
        dataset, _ = versions.add(session, received(held, io.BytesIO(npz_bytes())), name="drawn")
    job = make_job(dataset_id=dataset.id, limits={"max_stall_seconds": 1})
    with s3_server.away(), ringing(make_host()):
        waiting = watch.until(job.id, lambda _: watch.events(job.id, "warning"), 30)
        lease = waiting.lease_until or 0.0
        watch.until(job.id, lambda job: (job.lease_until or 0.0) > lease)
        with db.session_scope(engine) as session:
            control.cancel(session, job.id)
        assert watch.until(job.id, lambda job: job.status != "running", 3).status == "cancelled"
    again = make_job(dataset_id=dataset.id)
    tasks.ring(make_host(), "default")
    assert watch.job(again.id).status == "succeeded"


def test_a_data_set_that_is_gone_is_no_riddle(
    engine: Engine,
    make_job: MakeJob,
    host: Slot,
    store: S3,
    watch: Watch,
    tmp_path: Path,
    npz_bytes: Callable[..., bytes],
) -> None:
    with db.session_scope(engine) as session:
        held = Storage(tmp_path / "api", store)
        dataset, _ = versions.add(session, received(held, io.BytesIO(npz_bytes())), name="drawn")
    store.delete([transfers.dataset_key(dataset.sha256)])
    job = make_job(dataset_id=dataset.id)
    tasks.ring(host, "default")
    failed = watch.job(job.id)
    assert (failed.status, failed.reason, failed.attempt) == ("failed", "dataset_invalid", 1)
    assert "upload the same file under the same name" in (failed.message or "")


def test_a_frozen_worker_on_another_host_changes_nothing_that_counts_when_it_thaws(
    engine: Engine,
    make_job: MakeJob,
    make_host: MakeHost,
    store: S3,
    store_settings: dict[str, Any],
    settings: Settings,
    start_worker: Callable[..., Process],
    bell: CeleryDoorbell,
    watch: Watch,
    tmp_path: Path,
) -> None:
    """What it had not sent yet, it sends after another host has ended the run, at the same step, in other words."""
    frozen = start_worker(data_dir=tmp_path / "frozen", lease_seconds=2.0, renew_seconds=0.2, **store_settings)
    job = make_job(tags={"stub": "deaf", "times": "1"})
    bell.ring("default")
    running = watch.until(job.id, lambda job: job.checkpoint_step == 4 and job.step == 5, 40)
    child = frozen.pool_child()
    freeze(child, engine)
    assert running.trainer is not None
    wait_for_death(running.trainer["pid"], 3)

    def is_back(_: Job) -> bool:
        reconciler.reconcile(engine, FakeDoorbell(), settings)
        return watch.job(job.id).status == "queued"

    watch.until(job.id, is_back)
    tasks.ring(make_host("other"), "default")
    assert (watch.job(job.id).status, watch.job(job.id).attempt) == ("succeeded", 2)
    counted = {file["object"]: stored(store, file) for file in recorded(engine, job.id)}
    os.kill(child, signal.SIGCONT)
    deadline = time.monotonic() + 15
    while f"{job.id}: attempt 1 has lost its lease" not in frozen.log.read_text():
        assert time.monotonic() < deadline, frozen.log.read_text()
        time.sleep(0.01)
    late = Storage(tmp_path / "frozen", store)
    path = late.job_dir(job.id) / "checkpoint-000000008.json"
    path.write_bytes(b"another past")
    file = {"name": path.name, "bytes": 12, "sha256": hashlib.sha256(b"another past").hexdigest()}
    transfers.share(late, store, job.id, 1, [file])
    assert {file["object"]: stored(store, file) for file in recorded(engine, job.id)} == counted
    assert_whole(engine, store, job.id)


# The order of what is written, event by event


@pytest.fixture
def delivery(host: Slot, make_job: MakeJob) -> Any:
    """The delivery of a job's first attempt, as a supervisor holds it."""
    job = make_job()
    with db.session_scope(host.engine) as session:
        claimed = attempts.claim(session, "default", worker="a:1", lease_seconds=60)
        assert claimed is not None
        assert claimed.id == job.id
    assert host.storage.objects is not None
    with closing(StoreDelivery(host, Claim(claimed, None, None, time.monotonic()), host.storage.objects)) as made:
        yield made


def checkpoint(delivery: StoreDelivery, step: int) -> CheckpointSaved:
    files = []
    for path in delivery.slot.storage.checkpoint_files(delivery.job.id, step):
        delivery.slot.storage.job_dir(delivery.job.id)
        path.write_bytes(b"%d" % step)
        files.append(File(path.name, len(str(step)), hashlib.sha256(b"%d" % step).hexdigest()))
    return CheckpointSaved(epoch=1, step=step, best=False, files=tuple(files))


def written(delivery: StoreDelivery, *, until: str, ended: bool = False) -> list[str]:
    """Kind and step of what is written, until an event of a kind is."""
    shown: list[str] = []
    deadline = time.monotonic() + 20
    while not any(one.startswith(until) for one in shown):
        assert time.monotonic() < deadline, shown
        written = [one for event in delivery.released(ended=ended) for one in delivery.to_write(event)]
        delivery.committed(Record(delivery.job, written, [], None, 0))
        events = [to_json(one) for one in written]
        shown += [f"{one['event']} {one.get('step', one.get('first_step', ''))}".strip() for one in events]
        delivery.wait(0.05)
    return shown


def test_numbers_overtake_a_checkpoint_on_its_way_and_places_do_not(delivery: StoreDelivery) -> None:
    delivery.take(Steps(1, [0.5], [0.5]))
    delivery.take(checkpoint(delivery, 4))
    delivery.take(Steps(5, [0.5], [0.5]))
    delivery.take(RolledBack(0, 0, None, "", {}))
    delivery.take(Steps(1, [0.5], [0.5]))
    first = [type(one) for one in delivery.released(ended=False)]
    assert first == [Steps, Steps]
    assert written(delivery, until="steps") == ["checkpoint 4", "rolled_back 0", "steps 1"]


def test_what_is_forgotten_is_deleted_and_what_was_rolled_back_too(delivery: StoreDelivery, store: S3) -> None:
    for step in (4, 8, 12):
        delivery.take(checkpoint(delivery, step))
    delivery.take(CheckpointDeleted(4))
    assert written(delivery, until="checkpoint_deleted")[-1] == "checkpoint_deleted 4"
    delivery.take(RolledBack(0, 8, None, "", {}))
    written(delivery, until="rolled_back")
    delivery.courier.send(lambda: None).result(20)  # the errands before it are done
    assert {found.key.split("/")[-1] for found in store.list("jobs/")} == {
        "checkpoint-000000008.json",
        "checkpoint-000000008.safetensors",
    }


def test_older_checkpoints_stay_while_newer_ones_do_not_reach_the_store(
    delivery: StoreDelivery, store: S3, s3_server: S3Server
) -> None:
    delivery.take(checkpoint(delivery, 4))
    assert written(delivery, until="checkpoint") == ["checkpoint 4"]
    with s3_server.away():
        delivery.take(checkpoint(delivery, 8))
        delivery.take(CheckpointDeleted(4))
        delivery.take(Started(3, 4, Place(2, 8), None, 1, "cpu", 1, "none", [8]))
        assert written(delivery, until="started") == ["note", "started"]
    assert list(delivery.checkpoints.stored) == [4]
    delivery.take(checkpoint(delivery, 12))
    assert written(delivery, until="checkpoint_deleted") == ["checkpoint 12", "checkpoint_deleted 4"]
    delivery.courier.send(lambda: None).result(20)
    assert len(list(store.list("jobs/"))) == 2


def test_when_checkpoints_come_faster_than_they_go_the_oldest_are_left_out(delivery: StoreDelivery, store: S3) -> None:
    busy = delivery.courier.send(lambda: time.sleep(0.3))
    for step in range(1, 11):
        delivery.take(checkpoint(delivery, step))
    assert not busy.done()
    assert written(delivery, until="checkpoint 10")[-4:] == [f"checkpoint {step}" for step in (7, 8, 9, 10)]
    assert len(list(store.list("jobs/"))) == 8
