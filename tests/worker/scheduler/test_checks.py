"""The scheduler checks uploads whose check takes long: real processes, which die, freeze and are told to stop."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db
from services.blobs import storage as storages
from services.blobs.objects import S3
from services.blobs.storage import Storage
from services.datasets import receiving, validation, versions
from services.errors import DatasetNotFound
from services.orm import Dataset, DatasetCheck
from services.settings import Settings
from tests.checking import UNCHECKED_SECONDS, do_checks
from tests.conftest import S3Server
from tests.worker.watching import Process, wait_until
from worker.scheduler import checks

ROW = b"%d,%d,%d.5,%s\n"
HEAD = b"walk,second,pace,kind\n"


def table(walks: int = 12, *, bad: bool = False) -> bytes:
    """Steps of walks, of one of which there is a number that is none."""
    steps = (
        ROW % (walk, second, walk * second % 7, b"run" if walk % 2 else b"stroll")
        for walk in range(walks)
        for second in range(6)
    )
    content = HEAD + b"".join(steps)
    return content.replace(b"3,2,6.5,", b"3,2,inf,") if bad else content


LARGE = table(16_000)
"""More than a megabyte: its check asks for memory."""


def upload(engine: Engine, storage: Storage, content: bytes, name: str = "walks") -> Dataset:
    """A data set whose check takes longer than its sender waited."""
    sent = {"file_name": "walks.csv", "wait_seconds": UNCHECKED_SECONDS}
    with receiving.received(storage, io.BytesIO(content), **sent) as received, db.session_scope(engine) as session:
        return versions.add(session, received, name=name).dataset


def get(engine: Engine, dataset_id: str) -> Dataset:
    with db.read_scope(engine) as session:
        return versions.get(session, dataset_id)


def check_of(engine: Engine) -> DatasetCheck | None:
    with db.read_scope(engine) as session:
        return session.scalar(sa.select(DatasetCheck))


def attempt(engine: Engine) -> int:
    check = check_of(engine)
    return check.attempt if check else 0


def files(storage: Storage) -> set[str]:
    """The hashes of all files of data sets. Who is killed leaves a work folder besides, for the sweep."""
    return {path.stem for path in storage.root.glob("datasets/**/*") if path.is_file()}


def readers(process: Process) -> list[psutil.Process]:
    """The processes that read the file."""
    found = []
    for each in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "services.training.files" in each.cmdline():
                found.append(each)
    return found


@contextmanager
def without_memory(storage: Storage) -> Iterator[None]:
    """For the block no check of a large file gets on: it waits for memory."""
    with storage.room.taken(1 << 60):
        yield


def settled(engine: Engine, dataset_id: str, seconds: float = 60.0) -> Dataset:
    wait_until(lambda: get(engine, dataset_id).status != "validating", seconds)
    return get(engine, dataset_id)


def test_the_scheduler_checks_what_waits(engine: Engine, storage: Storage, start: Callable[..., Process]) -> None:
    good, bad = upload(engine, storage, table()), upload(engine, storage, table(bad=True), "bad")
    process = start("worker.scheduler")
    made, rejected = settled(engine, good.id), settled(engine, bad.id)
    assert (made.status, made.summary["samples"], made.version) == ("ready", 12, 1)
    assert rejected.status == "rejected"
    assert "inf" in str(rejected.problems)
    wait_until(lambda: files(storage) == {made.sha256})
    assert b"walks@1 is ready" in process.log.read_bytes()
    assert process.stop(5) == 0
    assert check_of(engine) is None
    assert [*storage.root.glob("work/*")] == []


@pytest.mark.parametrize(
    ("database_url", "point"),
    [("sqlite", "check.claimed"), ("sqlite", "check.ended"), ("postgresql", "check.ended")],
    indirect=["database_url"],
)
def test_a_scheduler_that_dies_during_a_check_is_followed_by_one_that_finishes_it(
    engine: Engine, storage: Storage, start: Callable[..., Process], point: str
) -> None:
    row = upload(engine, storage, table())
    dying = start("tests.worker.dying_scheduler", point)
    assert dying.popen.wait(60) == -signal.SIGKILL
    assert (attempt(engine), get(engine, row.id).status) == (1, "validating")
    other = start("worker.scheduler")
    made = settled(engine, row.id)
    assert (made.status, made.summary["samples"]) == ("ready", 12)
    wait_until(lambda: files(storage) == {made.sha256})
    assert other.popen.poll() is None


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_a_frozen_scheduler_loses_its_check_and_changes_nothing_when_it_thaws(
    engine: Engine, storage: Storage, start: Callable[..., Process]
) -> None:
    row = upload(engine, storage, LARGE)
    with without_memory(storage):
        frozen = start("worker.scheduler")
        wait_until(lambda: attempt(engine) == 1 and readers(frozen), 30)
        os.killpg(frozen.pid, signal.SIGSTOP)
    other = start("worker.scheduler")
    made = settled(engine, row.id)
    assert (made.status, made.summary["samples"]) == ("ready", 16_000)
    os.killpg(frozen.pid, signal.SIGCONT)
    wait_until(lambda: b"walks@1 was taken over" in frozen.log.read_bytes(), 30)
    assert get(engine, row.id).created_at == made.created_at
    assert (get(engine, row.id).status, get(engine, row.id).sha256) == ("ready", made.sha256)
    wait_until(lambda: files(storage) == {made.sha256})
    wait_until(lambda: len(readers(frozen)) == 0)
    assert (frozen.stop(10), other.stop(10)) == (0, 0)


def test_a_scheduler_that_is_killed_takes_its_check_along(
    engine: Engine, storage: Storage, start: Callable[..., Process]
) -> None:
    row = upload(engine, storage, LARGE)
    with without_memory(storage):
        killed = start("worker.scheduler")
        wait_until(lambda: attempt(engine) == 1 and len(readers(killed)) == 2, 30)  # the process, and its fork
        reading = readers(killed)
        killed.kill()
        wait_until(lambda: not any(each.is_running() for each in reading))
    start("worker.scheduler")
    assert settled(engine, row.id).status == "ready"


def test_a_scheduler_that_is_told_to_stop_gives_its_check_back(
    engine: Engine, storage: Storage, start: Callable[..., Process]
) -> None:
    row = upload(engine, storage, LARGE)
    with without_memory(storage):
        first = start("worker.scheduler", lease_seconds=600)
        wait_until(lambda: attempt(engine) == 1 and readers(first), 30)
        assert first.stop(10) == 0
        check = check_of(engine)
        assert check is not None
        assert (check.lease_until, check.lost) == (None, 0)
    start("worker.scheduler")
    assert settled(engine, row.id).status == "ready"


def test_a_data_set_that_is_deleted_ends_its_check_and_leaves_nothing(
    engine: Engine, storage: Storage, start: Callable[..., Process]
) -> None:
    row = upload(engine, storage, LARGE)
    with without_memory(storage):
        process = start("worker.scheduler")
        wait_until(lambda: attempt(engine) == 1 and readers(process), 30)
        with db.session_scope(engine) as session:
            versions.delete(session, row.id)
        wait_until(lambda: not readers(process), 30)
    wait_until(lambda: files(storage) == set(), 30)
    with pytest.raises(DatasetNotFound):
        get(engine, row.id)
    assert process.popen.poll() is None


def test_a_check_that_finds_no_memory_is_tried_again(
    engine: Engine, storage: Storage, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.blobs.memory.WAIT_SECONDS", 0)
    monkeypatch.setattr(checks, "PAUSE_SECONDS", 600)
    row = upload(engine, storage, LARGE)
    with without_memory(storage):
        assert do_checks(settings, engine) == 1
    check = check_of(engine)
    assert check is not None
    assert (check.attempt, check.lost, check.lease_until) == (1, 0, None)
    with db.session_scope(engine) as session:
        session.execute(sa.update(DatasetCheck).values(not_before=0.0))
    assert do_checks(settings, engine) == 1
    assert get(engine, row.id).status == "ready"


def test_a_check_that_was_given_back_is_renewed_no_more(engine: Engine, storage: Storage) -> None:
    upload(engine, storage, table())
    with db.session_scope(engine) as session:
        held = validation.claim(session, 60)
        assert held is not None
        assert validation.renew(session, held, 60)
        assert validation.release(session, held)
        assert not validation.renew(session, held, 60)  # by a thread that came too late
        assert validation.any_due(session)


def test_a_check_that_was_lost_three_times_is_given_up(engine: Engine, storage: Storage, settings: Settings) -> None:
    row = upload(engine, storage, table())
    for _ in range(validation.MOST_LOST):
        with db.session_scope(engine) as session:
            assert validation.claim(session, -1.0) is not None
    assert do_checks(settings, engine) == 1
    made = get(engine, row.id)
    assert (made.status, made.problems) == ("rejected", [])
    assert "3 times the service ended while it was read" in (made.message or "")
    assert files(storage) == set()


def test_a_file_that_is_gone_is_rejected(engine: Engine, storage: Storage, settings: Settings) -> None:
    row = upload(engine, storage, table())
    storage.dataset_path(row.sha256).unlink()
    assert do_checks(settings, engine) == 1
    made = get(engine, row.id)
    assert (made.status, made.message) == ("rejected", "The uploaded file is gone: upload it again.")


def test_an_upload_comes_from_the_store_and_leaves_it(
    engine: Engine, settings: Settings, store_settings: dict[str, Any], store: S3, s3_server: S3Server
) -> None:
    changed = settings.model_copy(update=store_settings)
    held = storages.from_settings(changed)
    row, bad = upload(engine, held, table()), upload(engine, held, table(bad=True), "bad")
    assert len([*store.list("datasets/")]) == 2
    with s3_server.away():
        assert do_checks(changed, engine) == 2
    assert {get(engine, row.id).status, get(engine, bad.id).status} == {"validating"}
    with db.session_scope(engine) as session:
        session.execute(sa.update(DatasetCheck).values(not_before=0.0))
    assert do_checks(changed, engine) == 2
    made = get(engine, row.id)
    assert (made.status, get(engine, bad.id).status) == ("ready", "rejected")
    assert [found.key.rpartition("/")[2] for found in store.list("datasets/")] == [f"{made.sha256}.npz"]
    assert files(held) == set()
