"""Data sets: immutable versions, found by name, never taken from under a job."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.blobs.storage import Storage
from services.datasets import receiving, versions
from services.datasets.versions import Added
from services.errors import BadRequest, DatasetInUse, DatasetInvalid, DatasetNotFound, TooLarge
from services.jobs import control, submission
from services.orm import Dataset, Job
from services.upkeep import reconciler
from tests.conftest import received
from tests.services.jobs.test_claims import at_once

Upload = Callable[..., Added]


@pytest.fixture
def upload(session: Session, storage: Storage, npz_bytes: Callable[..., bytes]) -> Upload:
    """Uploads content number `seed` as `name`."""

    def add(name: str = "vowels", seed: int = 0, **more: bool) -> Added:
        return versions.add(session, received(storage, io.BytesIO(npz_bytes(seed)), **more), name=name)

    return add


def test_an_upload_becomes_version_1(session: Session, upload: Upload, storage: Storage) -> None:
    dataset, created = upload()
    assert created
    assert (dataset.name, dataset.version, dataset.id[:3]) == ("vowels", 1, "ds_")
    assert storage.dataset_path(dataset.sha256).stat().st_size == dataset.bytes
    summary = versions.summary(dataset)
    assert (summary.samples, summary.features, summary.classes) == (12, 2, [0, 1])


def test_real_data_is_taken(session: Session, storage: Storage, vowels: Path) -> None:
    with vowels.open("rb") as file:
        dataset, _ = versions.add(session, received(storage, file), name="japanese-vowels")
    assert dataset.summary["samples"] == 640
    assert dataset.summary["given_split"] == {"train": 270, "test": 370}


def test_the_same_content_is_the_same_row(upload: Upload) -> None:
    first, again = upload(), upload()
    assert (again.dataset.id, again.created) == (first.dataset.id, False)


def test_the_same_content_under_another_name_is_one_file(upload: Upload, storage: Storage) -> None:
    first, other = upload(), upload("other")
    assert other.created
    assert (other.dataset.sha256, other.dataset.version) == (first.dataset.sha256, 1)
    assert len([*storage.root.rglob("*.npz")]) == 1


def test_every_way_to_name_a_version_finds_it(session: Session, upload: Upload) -> None:
    first, second = upload(seed=1).dataset, upload(seed=2).dataset
    upload("vowels2", seed=3)
    for way, wanted in {
        first.id: first,
        "vowels@1": first,
        "vowels@2": second,
        "vowels@latest": second,
        "vowels": second,
    }.items():
        assert versions.get(session, way).id == wanted.id


def test_a_job_that_predicts_means_the_newest_version_whether_it_is_ready_or_raw(
    session: Session, upload: Upload
) -> None:
    def named(*, raw: bool) -> list[int]:
        ways = ("vowels", "vowels@latest")
        found = [submission.find(session, way, "default", submission.Known(), raw=raw)[0] for way in ways]
        return [dataset.version for dataset in found if dataset is not None]

    upload(seed=1)
    upload(seed=2, raw=True)
    assert (named(raw=False), named(raw=True)) == ([1, 1], [2, 2])
    upload(seed=3)
    assert (named(raw=False), named(raw=True)) == ([3, 3], [3, 3])


@pytest.mark.parametrize(
    "way",
    [
        "",
        "vowels@3",
        "vowels@0",
        "vowels@",
        "vowels@1@1",
        "vowels@-1",
        "vowels@01",
        "Vowels",
        "ds_" + "0" * 26,
        "%",
        "x\x00",
    ],
)
def test_what_is_not_there_is_not_found(session: Session, upload: Upload, way: str) -> None:
    upload()
    with pytest.raises(DatasetNotFound):
        versions.get(session, way)


@pytest.mark.parametrize(
    "name", ["", ".hidden", "../x", "C:\\x", "UPPER", "a" * 101, "a@1", "a b", "ä", "ds_" + "0" * 26]
)
def test_a_bad_name_is_refused(session: Session, storage: Storage, npz_bytes: Callable[..., bytes], name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        versions.add(session, received(storage, io.BytesIO(npz_bytes())), name=name)
    assert caught.value.problems[0].pointer == "/name"
    assert [*storage.root.rglob("*.npz")] == []


def test_what_is_no_data_set_leaves_nothing(session: Session, storage: Storage) -> None:
    with pytest.raises(DatasetInvalid):
        versions.add(session, received(storage, io.BytesIO(b"PK\x03\x04 no zip")), name="bad")
    with pytest.raises(TooLarge):
        versions.add(session, received(storage, io.BytesIO(b"x" * 101), max_bytes=100), name="bad")
    assert [path for path in storage.root.rglob("*") if path.is_file()] == []
    assert versions.page(session) == ([], False)


def test_an_upload_holds_no_transaction_while_it_arrives(engine: Engine, storage: Storage, queued_job: Job) -> None:
    class Slow:
        def read(self, size: int, /) -> bytes:
            with db.session_scope(engine) as other:  # someone else writes in the meantime
                control.cancel(other, queued_job.id)
            return b""

    with pytest.raises(DatasetInvalid), receiving.received(storage, Slow()):
        pass


@pytest.mark.parametrize("scope", [db.session_scope, db.read_scope])
def test_an_upload_cannot_be_received_within_a_session(engine: Engine, storage: Storage, scope: Any) -> None:
    class Unread:
        def read(self, size: int, /) -> bytes:
            raise AssertionError

    with pytest.raises(RuntimeError, match="session is open while a data set is received"), scope(engine):  # noqa: SIM117
        with receiving.received(storage, Unread()):
            pass
    assert not storage.root.exists()


def test_uploads_at_once_get_versions_of_their_own(
    engine: Engine, storage: Storage, npz_bytes: Callable[..., bytes]
) -> None:
    def add(seed: int) -> int:
        with db.session_scope(engine) as session:
            return versions.add(session, received(storage, io.BytesIO(npz_bytes(seed))), name="a").dataset.version

    assert sorted(at_once([lambda seed=seed: add(seed) for seed in range(6)])) == [1, 2, 3, 4, 5, 6]
    assert len(set(at_once([lambda: add(7)] * 6))) == 1


def test_the_list_is_newest_first_in_pages(session: Session, upload: Upload) -> None:
    made = [upload(name, seed).dataset.id for seed, name in enumerate("aab")][::-1]
    rows, more = versions.page(session, limit=2)
    assert ([row.id for row in rows], more) == (made[:2], True)
    rows, more = versions.page(session, limit=2, after=made[1])
    assert ([row.id for row in rows], more) == (made[2:], False)
    assert [row.version for row in versions.page(session, name="a")[0]] == [2, 1]


def test_a_deleted_version_is_hidden_and_its_number_never_used_again(session: Session, upload: Upload) -> None:
    upload(seed=1)
    second = upload(seed=2).dataset
    versions.delete(session, "vowels@2")
    assert versions.get(session, "vowels").version == 1
    assert len(versions.page(session)[0]) == 1
    with pytest.raises(DatasetNotFound):
        versions.delete(session, second.id)
    again = upload(seed=2)
    assert (again.created, again.dataset.version) == (True, 3)


def test_a_data_set_in_use_is_not_deleted(
    engine: Engine, storage: Storage, npz_bytes: Callable[..., bytes], make_job: Callable[..., Job]
) -> None:
    with db.session_scope(engine) as session:
        dataset = versions.add(session, received(storage, io.BytesIO(npz_bytes())), name="used").dataset
    job = make_job(dataset_id=dataset.id)
    with pytest.raises(DatasetInUse, match="1 job that has not ended uses the data set used@1"):
        delete(engine, dataset.id)
    with db.session_scope(engine) as session:
        control.cancel(session, job.id)
    delete(engine, dataset.id)
    with db.read_scope(engine) as session:
        assert control.get(session, job.id).dataset_id == dataset.id
    with pytest.raises(DatasetNotFound):
        make_job(dataset_id=dataset.id)


def test_a_job_and_a_deletion_at_once_agree(
    engine: Engine, storage: Storage, npz_bytes: Callable[..., bytes], make_job: Callable[..., Job]
) -> None:
    with db.session_scope(engine) as session:
        dataset = versions.add(session, received(storage, io.BytesIO(npz_bytes())), name="used").dataset

    def outcome(call: Callable[[], object]) -> bool:
        try:
            call()
        except (DatasetInUse, DatasetNotFound):
            return False
        return True

    done = at_once(
        [
            lambda: outcome(lambda: make_job(dataset_id=dataset.id)),
            lambda: outcome(lambda: delete(engine, dataset.id)),
        ]
    )
    assert sorted(done) == [False, True]


def test_the_sweep_takes_what_was_deleted_and_leaves_what_another_name_has(
    engine: Engine, storage: Storage, npz_bytes: Callable[..., bytes]
) -> None:
    with db.session_scope(engine) as session:
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            versions.add(session, received(storage, io.BytesIO(npz_bytes(seed))), name=name)
        for path in storage.root.rglob("*.npz"):
            os.utime(path, (0, 0))
        for name in ("a", "c"):
            versions.delete(session, name)
    assert reconciler.sweep(engine, storage) == 1
    with db.read_scope(engine) as session:
        left = [path.stem for path in storage.root.rglob("*.npz")]
        assert left == [session.scalar(sa.select(Dataset.sha256).where(Dataset.name == "b"))]


def delete(engine: Engine, name: str) -> None:
    with db.session_scope(engine) as session:
        versions.delete(session, name)
