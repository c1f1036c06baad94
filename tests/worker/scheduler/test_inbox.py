"""The inbox: what is put there becomes versions of data sets, once, in order, and whatever it is."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db
from services.access import tenants
from services.blobs.objects import S3
from services.blobs.storage import Storage
from services.datasets import inbox
from services.datasets import versions as datasets
from services.datasets.inbox import Entry, Folder
from services.errors import StorageUnavailable
from services.jobs import attempts
from services.jobs.leases import Lease
from services.orm import Job
from services.settings import Settings
from tests.conftest import S3Server
from tests.worker.watching import Process
from worker.scheduler import inbox as watcher

Upload = Callable[..., bytes]


@dataclass
class World:
    """An inbox, and who looks into it."""

    engine: Engine
    settings: Settings
    storage: Storage
    root: Path
    seen: Mapping[str, str] = field(default_factory=dict)

    def put(self, place: str, content: bytes, at: float = 1_000_000.0) -> Path:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (at, at))
        return path

    def look(self, times: int = 2) -> None:
        for _ in range(times):
            self.seen = watcher.look(self.settings, self.engine, self.storage, Folder(self.root), self.seen)

    def versions(self, name: str = "waves", tenant: str = "default") -> Sequence[int]:
        with db.read_scope(self.engine) as session:
            return [row.version for row in datasets.page(session, name=name, tenant=tenant)[0]]

    def errors(self, tenant: str = "default") -> dict[str, str | None]:
        with db.read_scope(self.engine) as session:
            return {row.place: row.error for row in inbox.page(session, tenant=tenant)[0]}


@pytest.fixture
def world(engine: Engine, settings: Settings, storage: Storage, tmp_path: Path) -> World:
    root = tmp_path / "inbox"
    root.mkdir()
    return World(engine, settings, storage, root)


def test_files_become_versions_in_the_order_of_their_times(world: World, npz_bytes: Upload) -> None:
    for seed, at in ((3, 300.0), (1, 100.0), (2, 200.0)):
        world.put(f"default/waves/{seed}.npz", npz_bytes(seed), at)
    world.look(1)
    assert world.versions() == []  # they may still be being written
    world.look(1)
    assert world.versions() == [3, 2, 1]
    with db.read_scope(world.engine) as session:
        oldest = datasets.get(session, "waves@1")
        assert world.storage.dataset_path(oldest.sha256).read_bytes() == npz_bytes(1)
    world.look(3)
    assert world.versions() == [3, 2, 1]
    assert world.errors() == dict.fromkeys([f"default/waves/{seed}.npz" for seed in (1, 2, 3)])


class SlowFolder(Folder):
    """Each file comes in two parts; between them somebody may do something."""

    def __init__(self, root: Path, between: Callable[[], object]) -> None:
        super().__init__(root)
        self.between = between

    def open(self, entry: Entry) -> Any:
        file, between = super().open(entry), self.between

        class Slow:
            def read(self, size: int = -1, /) -> bytes:
                part = file.read(min(size, 100))
                between()
                return part

            def close(self) -> None:
                file.close()

        return Slow()


def test_leases_are_renewed_while_a_file_is_read(
    world: World, make_job: Callable[..., Job], npz_bytes: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as the file has parts, with no patience for a lock: one that lasts any time is seen."""
    make_job()
    monkeypatch.setattr(db, "BUSY_SECONDS", 0.0)
    with db.session_scope(world.engine) as session:
        lease = Lease.of(attempts.claim(session, "default", worker="w", lease_seconds=60) or make_job())
    renewed = []

    def renew() -> None:
        with db.session_scope(world.engine) as session:
            renewed.append(attempts.renew(session, lease, 60))
            if world.engine.dialect.name == "postgresql":  # which ends a transaction that idles for 30 s
                idle = sa.text("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'")
                assert session.scalar(idle) == 0

    world.put("default/waves/today.npz", npz_bytes(1))
    source = SlowFolder(world.root, renew)
    seen = watcher.look(world.settings, world.engine, world.storage, source, {})
    watcher.look(world.settings, world.engine, world.storage, source, seen)
    assert len(renewed) > 10
    assert world.versions() == [1]
    assert world.errors() == {"default/waves/today.npz": None}


def test_a_file_that_is_being_written_is_left_alone_until_it_stays_the_same(world: World, npz_bytes: Upload) -> None:
    whole = npz_bytes(1)
    for at, end in ((1.0, 100), (2.0, 200), (3.0, len(whole))):
        world.put("default/waves/today.npz", whole[:end], at)
        world.look(1)
        assert world.versions() == []
    world.look(1)
    assert world.versions() == [1]
    assert world.errors() == {"default/waves/today.npz": None}


def test_a_file_that_is_written_anew_is_a_new_version_and_the_same_content_is_none(
    world: World, npz_bytes: Upload
) -> None:
    world.put("default/waves/today.npz", npz_bytes(1), 1.0)
    world.look()
    world.put("default/waves/today.npz", npz_bytes(2), 2.0)
    world.look()
    world.put("default/waves/copy.npz", npz_bytes(1), 3.0)
    world.look()
    assert world.versions() == [2, 1]


def test_a_file_that_is_no_data_set_is_told_and_tried_again_when_it_was_mended(world: World, npz_bytes: Upload) -> None:
    world.put("default/waves/today.npz", b"no zip", 1.0)
    world.put("default/Bad Name!/today.npz", npz_bytes(1), 1.0)
    world.put("nobody/waves/today.npz", npz_bytes(1), 1.0)
    world.look(3)
    assert world.versions() == []
    told = world.errors()
    assert "not" in (told["default/waves/today.npz"] or "")
    assert "is no name for a data set" in (told["default/Bad Name!/today.npz"] or "")
    assert "There is no tenant" in (world.errors("nobody")["nobody/waves/today.npz"] or "")
    world.put("default/waves/today.npz", npz_bytes(1), 2.0)
    world.look()
    assert (world.versions(), world.errors()["default/waves/today.npz"]) == ([1], None)


def test_what_is_no_file_of_a_data_set_is_passed_over(world: World, npz_bytes: Upload, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret.npz").write_bytes(npz_bytes(1))
    world.put("default/waves/today.npz.part", npz_bytes(1))
    world.put("default/too-high.npz", npz_bytes(1))
    world.put("default/waves/too/deep.npz", npz_bytes(1))
    (world.root / "default" / "waves" / "link.npz").symlink_to(elsewhere / "secret.npz")
    (world.root / "default" / "linked").symlink_to(elsewhere)
    (world.root / "default" / "waves" / "folder.npz").mkdir()
    world.look(3)
    assert world.errors() == {}


def test_one_file_that_makes_trouble_keeps_no_other_waiting(
    world: World, npz_bytes: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(os.fsdecode(b"default/waves/\xff.npz"), npz_bytes(1), 1.0)  # no text, so no place in a database
    world.put("default/waves/a\nb.npz", npz_bytes(1), 1.0)
    world.put("default/waves/mine.npz", npz_bytes(2), 2.0)
    world.put("default/waves/broken.npz", npz_bytes(3), 3.0)
    world.put("default/waves/whole.npz", npz_bytes(4), 4.0)
    refusals = {"mine.npz": PermissionError(13, "Permission denied"), "broken.npz": OSError(5, "Input/output error")}
    real = Folder.open

    def opened(folder: Folder, entry: inbox.Entry) -> Any:
        if entry.file in refusals:
            raise refusals[entry.file]
        return real(folder, entry)

    monkeypatch.setattr(Folder, "open", opened)
    world.look()
    assert world.versions() == [1]
    assert world.errors() == {
        "default/waves/mine.npz": "The scheduler may not read it.",
        "default/waves/whole.npz": None,
    }
    refusals.clear()
    world.look(1)
    assert world.versions() == [2, 1]  # a disk that fails is tried again


def test_what_is_wrong_is_said_once(world: World) -> None:
    world.put("default/Bad Name!/today.npz", b"no zip")
    world.put("default/waves/today.npz", b"no zip")
    world.look()
    for error in world.errors().values():
        assert error is not None
        sentences = [part for part in error.split(": ") if len(part) > 20]
        assert len(sentences) == len(set(sentences)), error


def test_a_tenants_files_are_its_own_and_its_quota_holds(world: World, npz_bytes: Upload) -> None:
    with db.session_scope(world.engine) as session:
        tenants.create(session, "acme", max_bytes=len(npz_bytes(1)) + 10)
    world.put("acme/waves/1.npz", npz_bytes(1), 1.0)
    world.put("acme/waves/2.npz", npz_bytes(2), 2.0)
    world.look()
    assert (world.versions(tenant="acme"), world.versions()) == ([1], [])
    assert "bytes" in (world.errors("acme")["acme/waves/2.npz"] or "")
    assert world.errors() == {}


def test_what_is_gone_is_forgotten_and_its_data_set_stays(world: World, npz_bytes: Upload) -> None:
    path = world.put("default/waves/1.npz", npz_bytes(1))
    world.look()
    path.unlink()
    world.look(1)
    assert (world.versions(), world.errors()) == ([1], {})


def test_many_that_look_at_once_take_a_file_in_once(world: World, npz_bytes: Upload) -> None:
    for seed in range(6):
        world.put(f"default/waves/{seed}.npz", npz_bytes(seed), float(seed))
    source = Folder(world.root)
    seen = {entry.place: entry.stamp for entry in source.entries()}
    with ThreadPoolExecutor(4) as pool:
        looks = [pool.submit(watcher.look, world.settings, world.engine, world.storage, source, seen) for _ in range(4)]
        for look in looks:
            look.result()
    assert world.versions() == [6, 5, 4, 3, 2, 1]


def test_a_bucket_is_an_inbox_too(
    engine: Engine,
    settings: Settings,
    storage: Storage,
    store_settings: dict[str, Any],
    s3_server: S3Server,
    npz_bytes: Upload,
    tmp_path: Path,
) -> None:
    bucket = store_settings["blobs_url"].removesuffix("/loopline")
    changed = settings.model_copy(update={**store_settings, "blobs_url": None, "inbox": f"{bucket}/inbox"})
    source = inbox.from_settings(changed)
    assert source is not None
    store = S3(f"{bucket}/inbox", endpoint_url=s3_server.url, region="us-east-1", keys=("test", "hush-hush"))
    for name in ("default/waves/1.npz", "default/waves/readme.txt", "too-high.npz"):
        path = tmp_path / "file"
        path.write_bytes(npz_bytes(1))
        store.put(path, name, hashlib.sha256(path.read_bytes()).hexdigest())
    seen: Mapping[str, str] = {}
    for _ in range(2):
        seen = watcher.look(changed, engine, storage, source, seen)
    with db.read_scope(engine) as session:
        assert [row.version for row in datasets.page(session, name="waves")[0]] == [1]
    with s3_server.away(), pytest.raises(StorageUnavailable):
        watcher.look(changed, engine, storage, source, seen)


def test_the_scheduler_looks_and_a_folder_that_is_not_there_yet_stops_nothing(
    start: Callable[..., Process], world: World, npz_bytes: Upload
) -> None:
    world.root.rmdir()
    process = start("worker.scheduler", inbox=str(world.root))
    while b"cannot read the inbox" not in process.log.read_bytes():
        assert process.popen.poll() is None
        time.sleep(0.05)
    world.put("default/waves/1.npz", npz_bytes(1))
    deadline = time.monotonic() + 30
    while world.versions() != [1]:
        assert time.monotonic() < deadline, process.log.read_text()
        time.sleep(0.1)
    assert process.stop(5) == 0
