"""Between a host's folder and the object store: what comes is checked, what goes has a place of its own."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.blobs import transfers
from services.blobs.objects import S3, Changed
from services.blobs.storage import Storage
from services.blobs.transfers import Gone
from services.datasets import versions
from services.jobs import attempts, progress
from services.jobs.leases import Lease
from services.orm import Checkpoint, Job, new_id
from services.upkeep import leftovers, reconciler
from tests.conftest import received


@pytest.fixture
def shared(data_dir: Path, store: S3) -> Storage:
    """The storage of one host, with an object store behind it."""
    return Storage(data_dir, store)


@pytest.fixture
def elsewhere(tmp_path: Path, store: S3) -> Storage:
    """The storage of another host with the same object store."""
    return Storage(tmp_path / "elsewhere", store)


def saved(storage: Storage, job_id: str, step: int) -> list[dict[str, object]]:
    """A checkpoint as a trainer leaves it, and the records of its files."""
    files = []
    for path in storage.checkpoint_files(job_id, step):
        storage.job_dir(job_id)
        path.write_bytes(f"{path.name} of {step}".encode())
        data = path.read_bytes()
        files.append({"name": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    return files


def registered(storage: Storage, store: S3, job_id: str, *steps: int) -> list[Checkpoint]:
    files = [transfers.share(storage, store, job_id, 1, saved(storage, job_id, step)) for step in steps]
    return [Checkpoint(job_id=job_id, step=step, files=some) for step, some in zip(steps, files, strict=True)]


def names(storage: Storage, job_id: str) -> list[str]:
    return sorted(path.name for path in storage.job_dir(job_id).iterdir())


JSON, TENSORS = "checkpoint-{:09d}.json", "checkpoint-{:09d}.safetensors"


def test_another_host_gets_the_newest_checkpoint_and_the_descriptions_of_the_others(
    shared: Storage, elsewhere: Storage, store: S3
) -> None:
    job_id = new_id("job")
    rows = registered(shared, store, job_id, 4, 8, 12)
    saved(elsewhere, job_id, 10)  # left by an attempt that once was there
    saved(elsewhere, job_id, 4)  # here already, both files
    assert transfers.fetch(elsewhere, store, job_id, None, rows, lambda: True) == []
    expected = [*(JSON.format(step) for step in (4, 8, 12)), *(TENSORS.format(step) for step in (4, 12))]
    assert names(elsewhere, job_id) == sorted(expected)
    for name in (JSON.format(8), TENSORS.format(12)):
        assert elsewhere.job_file(job_id, name).read_bytes() == shared.job_file(job_id, name).read_bytes()


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_a_newest_checkpoint_that_is_damaged_is_told_and_the_one_before_comes(
    shared: Storage, elsewhere: Storage, store: S3, damage: str, tmp_path: Path
) -> None:
    job_id = new_id("job")
    rows = registered(shared, store, job_id, 4, 8)
    key = next(str(file["object"]) for file in rows[1].files if file["name"].endswith(".safetensors"))
    store.delete([key])
    if damage == "flipped":
        (tmp_path / "damaged").write_bytes(b"damaged")
        store.put(tmp_path / "damaged", key, hashlib.sha256(b"damaged").hexdigest())
    (told,) = transfers.fetch(elsewhere, store, job_id, None, rows, lambda: True)
    assert "The checkpoint of step 8 is " in told
    assert names(elsewhere, job_id) == [JSON.format(4), TENSORS.format(4)]


def test_what_a_host_has_already_is_not_fetched(shared: Storage, store: S3) -> None:
    job_id = new_id("job")
    rows = registered(shared, store, job_id, 4)
    store.delete(found.key for found in store.list("jobs/"))
    assert transfers.fetch(shared, store, job_id, None, rows, lambda: True) == []
    shared.checkpoint_files(job_id, 4)[1].write_bytes(b"of another attempt on this host")
    (told,) = transfers.fetch(shared, store, job_id, None, rows, lambda: True)
    assert "missing" in told


def test_a_file_that_changed_since_it_was_told_is_not_shared(shared: Storage, store: S3) -> None:
    job_id = new_id("job")
    files = saved(shared, job_id, 4)
    shared.checkpoint_files(job_id, 4)[0].write_bytes(b"x")
    with pytest.raises(Changed, match="bytes, not"):
        transfers.share(shared, store, job_id, 1, files)
    with pytest.raises(ValueError, match="no file of a job"):
        transfers.share(shared, store, job_id, 1, [{"name": "../x", "bytes": 1, "sha256": ""}])


def test_no_two_uploads_share_an_object(shared: Storage, store: S3) -> None:
    """So that an attempt which was taken for dead overwrites nothing of the next one, at the same step."""
    job_id = new_id("job")
    first, second = (registered(shared, store, job_id, 4)[0] for _ in range(2))
    assert not {*transfers.keys_of(first.files)} & {*transfers.keys_of(second.files)}


def test_a_data_set_is_fetched_once_and_checked(
    session: Session, shared: Storage, elsewhere: Storage, store: S3, npz_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    dataset, _ = versions.add(session, received(shared, io.BytesIO(npz_bytes())), name="vowels")
    job_id, path = new_id("job"), elsewhere.dataset_path(dataset.sha256)
    transfers.fetch(elsewhere, store, job_id, dataset.sha256, [], lambda: True)
    assert path.read_bytes() == npz_bytes()
    os.utime(path, (0, 0))
    store.delete([transfers.dataset_key(dataset.sha256)])
    transfers.fetch(elsewhere, store, job_id, dataset.sha256, [], lambda: True)
    assert path.stat().st_mtime > 0  # young again
    path.unlink()
    with pytest.raises(Gone, match="is not in the object store"):
        transfers.fetch(elsewhere, store, job_id, dataset.sha256, [], lambda: True)
    (tmp_path / "damaged").write_bytes(b"damaged")
    store.put(tmp_path / "damaged", transfers.dataset_key(dataset.sha256), hashlib.sha256(b"damaged").hexdigest())
    with pytest.raises(Gone, match="is damaged in the object store"):
        transfers.fetch(elsewhere, store, job_id, dataset.sha256, [], lambda: True)
    assert list(path.parent.iterdir()) == []
    versions.add(session, received(shared, io.BytesIO(npz_bytes())), name="vowels")  # heals it
    transfers.fetch(elsewhere, store, job_id, dataset.sha256, [], lambda: True)
    assert path.read_bytes() == npz_bytes()


def test_the_sweep_takes_from_the_store_what_nothing_refers_to(
    engine: Engine,
    lease: Lease,
    shared: Storage,
    store: S3,
    npz_bytes: Callable[..., bytes],
    make_job: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = make_job(queue="other")
    with db.session_scope(engine) as session:
        attempts.claim(session, "other", worker="host:2", lease_seconds=60)
        for name, seed in (("kept", 1), ("deleted", 2)):
            versions.add(session, received(shared, io.BytesIO(npz_bytes(seed))), name=name)
        versions.delete(session, "deleted")
        kept = registered(shared, store, lease.job_id, 4)[0]
        progress.checkpoint(session, lease, epoch=1, step=4, best=False, files=kept.files)
        attempts.fail(session, lease, "internal", retry=False)
        wanted = {*transfers.keys_of(kept.files), transfers.dataset_key(versions.get(session, "kept").sha256)}
    wanted |= {*transfers.keys_of(registered(shared, store, running.id, 7)[0].files)}  # not told yet
    registered(shared, store, lease.job_id, 9)  # never told
    before = {found.key for found in store.list("")}
    assert reconciler.sweep(engine, shared) == 0  # all young
    registered(shared, store, new_id("job"), 1)  # of a job that was deleted
    monkeypatch.setattr(leftovers, "_is_old", lambda modified: True)  # as if an hour had passed
    assert reconciler.sweep(engine, shared) == 5
    assert {found.key for found in store.list("")} == wanted
    assert wanted < before


def test_a_workers_cache_forgets_what_rests_and_keeps_what_runs(
    engine: Engine, lease: Lease, shared: Storage, store: S3, make_job: Callable[..., Job]
) -> None:
    resting, fresh, unshared = make_job(), make_job(), make_job()
    with db.session_scope(engine) as session:
        row = Checkpoint(job_id=unshared.id, step=4, epoch=1, best=False, attempt=1, created_at=0.0)
        row.files = saved(shared, unshared.id, 4)  # from before there was a store: nobody else has it
        session.add(row)
    old, young, only = (shared.dataset_place(hashlib.sha256(name).hexdigest()) for name in (b"old", b"young", b"only"))
    for path in (old, young, only):
        path.write_bytes(path.stem.encode())
    for path in (old, young):
        store.put(path, transfers.dataset_key(path.stem), hashlib.sha256(path.read_bytes()).hexdigest())
    folders = [shared.job_dir(job_id) for job_id in (lease.job_id, unshared.id, resting.id, fresh.id)]
    part = old.with_name(f".{old.name}-broken-off.part")
    part.touch()
    for path in (old, only, part, *folders[:3]):
        os.utime(path, (0, 0))
    assert leftovers.sweep_cache(engine, shared, store) == 2
    assert [path.exists() for path in (old, young, only, part)] == [False, True, True, False]
    assert [path.exists() for path in folders] == [True, True, False, True]
