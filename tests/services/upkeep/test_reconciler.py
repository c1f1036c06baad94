"""One pass of the scheduler: nothing that was lost stays lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db, idempotency
from services.blobs.storage import Storage
from services.blobs.uploads import Uploads
from services.errors import UploadNotFound
from services.jobs import attempts, control, progress, workers
from services.jobs.leases import Lease
from services.orm import IdempotencyKey, Job, Worker, new_id
from services.settings import Settings
from services.upkeep import reconciler
from tests.ringing import FakeDoorbell
from tests.services.conftest import claimed, let_expire


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    return Settings(data_dir=data_dir, grace_seconds=0)


def test_every_queue_with_runnable_jobs_is_rung_once(
    engine: Engine, make_job: Callable[..., Job], settings: Settings
) -> None:
    for queue in ("night", "default", "default"):
        make_job(queue=queue)
    claimed(engine, make_job(queue="busy").queue)
    bell = FakeDoorbell()
    assert reconciler.reconcile(engine, bell, settings).rung == ["default", "night"]
    assert bell.rung == ["default", "night"]


def test_a_lost_job_is_queued_again_and_rung(engine: Engine, lease: Lease, settings: Settings) -> None:
    let_expire(engine, lease.job_id)
    bell = FakeDoorbell()
    done = reconciler.reconcile(engine, bell, settings)
    assert (done.expired, bell.rung) == ([lease.job_id], ["default"])
    assert claimed(engine) == Lease(lease.job_id, 2)


def test_a_broker_that_is_down_stops_nothing_else(engine: Engine, lease: Lease, settings: Settings) -> None:
    let_expire(engine, lease.job_id)
    done = reconciler.reconcile(engine, FakeDoorbell(broken=True), settings)
    assert (done.expired, done.rung) == ([lease.job_id], [])


def test_an_idle_pass_writes_nothing(engine: Engine, lease: Lease, settings: Settings) -> None:
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    done = reconciler.reconcile(engine, FakeDoorbell(), settings)
    assert done == reconciler.Pass((), [], 0, [])
    assert [text for text in statements if text.split()[0] in {"UPDATE", "DELETE", "INSERT"}] == []
    with db.read_scope(engine) as session:
        assert control.get(session, lease.job_id).status == "running"


def test_a_sweep_takes_what_no_job_refers_to_and_nothing_else(
    engine: Engine, storage: Storage, lease: Lease, make_job: Callable[..., Job]
) -> None:
    running = make_job()
    names = ("checkpoint-000000004.json", "checkpoint-000000004.safetensors")
    with db.session_scope(engine) as session:
        files = [{"name": name, "bytes": 1, "sha256": ""} for name in names]
        progress.checkpoint(session, lease, epoch=1, step=4, best=False, files=files)
        attempts.fail(session, lease, "internal", retry=False)
    kept = [storage.job_file(lease.job_id, name) for name in names]
    strays = [
        storage.job_file(lease.job_id, "checkpoint-000000009.json"),
        storage.job_dir(lease.job_id) / "model.json.part",
        storage.job_dir(new_id("job")) / "model.json",
    ]
    claimed(engine)
    unheard_of = storage.job_dir(running.id) / "checkpoint-000000007.json"
    for path in (*kept, *strays, unheard_of):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert reconciler.sweep(engine, storage) == 0  # all young
    for path in (*kept, *strays, unheard_of):
        os.utime(path, (0, 0))
        os.utime(path.parent, (0, 0))
    assert reconciler.sweep(engine, storage) == 3
    assert [path.exists() for path in (*kept, *strays, unheard_of)] == [True, True, False, False, False, True]


def test_a_sweep_takes_the_work_of_killed_checks_and_forgotten_uploads(engine: Engine, storage: Storage) -> None:
    uploads = Uploads(storage)
    forgotten = uploads.begin("team", 4, most_bytes=4)
    with storage.work() as mine:
        killed = mine.with_name("0123456789abcdef")
        killed.mkdir()
        (killed / "upload.csv").write_text("a,b")
        assert reconciler.sweep(engine, storage) == 0  # all young
        os.utime(killed, (0, 0))
        os.utime(storage.root / "uploads" / f"{forgotten.id}.part", (0, 0))
        assert reconciler.sweep(engine, storage) == 2
        assert mine.exists()
        assert not killed.exists()
    with pytest.raises(UploadNotFound):
        uploads.get(forgotten.id, "team")


def test_workers_that_are_long_gone_are_forgotten(engine: Engine, settings: Settings) -> None:
    with db.session_scope(engine) as session:
        workers.beat(session, "a", queues=["default"], state="idle", job_id=None, doorbell_seconds_ago=None)
        session.execute(sa.update(Worker).values(seen_at=0.0))
    reconciler.reconcile(engine, FakeDoorbell(), settings)
    with db.read_scope(engine) as session:
        assert session.scalars(sa.select(Worker)).all() == []


def test_old_keys_are_forgotten(engine: Engine, settings: Settings) -> None:
    with db.session_scope(engine) as session:
        idempotency.claim(session, idempotency.Key("jobs", "k", "f"))
        session.execute(sa.update(IdempotencyKey).values(created_at=0.0))
    assert reconciler.reconcile(engine, FakeDoorbell(), settings).forgotten_keys == 1
