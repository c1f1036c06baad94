"""Checks that take longer than their sender waits: from `validating` to `ready` or `rejected`, or taken over."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.access import tenants
from services.blobs.storage import Incoming, Storage
from services.datasets import receiving, validation, versions
from services.datasets.receiving import Columns, Received, Source
from services.datasets.validation import Claim
from services.datasets.versions import Added
from services.errors import DatasetInvalid, DatasetNotFound, LeaseLost, QuotaExceeded
from services.orm import Dataset, DatasetCheck
from services.training.files.npz import Limits
from services.upkeep import reconciler
from tests.checking import UNCHECKED_SECONDS
from tests.services.jobs.test_claims import at_once

CSV = b"walk,second,pace,kind\n" + b"".join(
    f"w{walk},{second},{walk * second % 7}.5,{'run' if walk % 2 else 'stroll'}\n".encode()
    for walk in range(12)
    for second in range(6)
)
BAD = CSV.replace(b"w3,2,6.5,", b"w3,2,inf,")

Upload = Callable[..., Added]


@pytest.fixture
def upload(engine: Engine, storage: Storage) -> Upload:
    """Uploads a file whose check takes longer than its sender waits."""

    def add(
        content: bytes = CSV,
        name: str = "walks",
        *,
        tenant: str = tenants.DEFAULT,
        file_name: str = "walks.csv",
        schema: Mapping[str, Any] | None = None,
        wait_seconds: float | None = UNCHECKED_SECONDS,
    ) -> Added:
        with db.read_scope(engine) as session:
            before = versions.columns_before(session, name, tenant=tenant)
        columns = Columns(schema) if schema else before
        sent = {"file_name": file_name, "columns": columns, "wait_seconds": wait_seconds}
        with receiving.received(storage, io.BytesIO(content), **sent) as received, db.session_scope(engine) as session:
            return versions.add(session, received, name=name, tenant=tenant)

    return add


def claimed(engine: Engine, lease_seconds: float = 60.0) -> Claim:
    with db.session_scope(engine) as session:
        found = validation.claim(session, lease_seconds)
    assert found is not None
    return found


@contextmanager
def checked(storage: Storage, claim: Claim) -> Iterator[Received]:
    file = Incoming(storage.dataset_path(claim.sha256), claim.bytes, claim.sha256)
    with storage.work() as work:
        yield receiving.checked(storage, Source(file, claim.file_name, claim.columns), work, Limits())


def finished(engine: Engine, storage: Storage, claim: Claim) -> Dataset:
    """As the scheduler does it."""
    try:
        with checked(storage, claim) as upload, db.session_scope(engine) as session:
            made = validation.finish(session, claim, upload)
    except (DatasetInvalid, QuotaExceeded) as error:
        with db.session_scope(engine) as session:
            made = validation.reject(session, claim, error)
    with db.session_scope(engine) as session:
        validation.discard_upload(session, storage, claim)
    return made


def get(engine: Engine, reference: str) -> Dataset:
    with db.read_scope(engine) as session:
        return versions.get(session, reference, tenant=tenants.DEFAULT)


def delete(engine: Engine, reference: str) -> None:
    with db.session_scope(engine) as session:
        versions.delete(session, reference)


def kept(storage: Storage) -> set[str]:
    """The hashes of all files."""
    return {path.stem for path in storage.root.rglob("*") if path.is_file()}


def expire(engine: Engine) -> None:
    """As if the time of every lease had passed."""
    with db.session_scope(engine) as session:
        session.execute(sa.update(DatasetCheck).values(lease_until=db.now() - 1))


def checks(session: Session) -> int:
    return session.scalar(sa.select(sa.func.count()).select_from(DatasetCheck)) or 0


def test_a_long_check_makes_the_same_version_as_a_short_one(engine: Engine, storage: Storage, upload: Upload) -> None:
    row, created = upload(schema={"target": "kind"})
    assert (created, row.status, row.version, row.bytes) == (True, "validating", 1, len(CSV))
    assert kept(storage) == {row.sha256}
    claim = claimed(engine)
    assert (claim.dataset_id, claim.attempt, claim.columns) == (row.id, 1, Columns({"target": "kind"}))
    made = finished(engine, storage, claim)
    short = upload(name="short", schema={"target": "kind"}, wait_seconds=None).dataset
    own = {"id", "name", "created_at"}
    columns = {column.key for column in Dataset.__table__.columns} - own
    assert {name: getattr(made, name) for name in columns} == {name: getattr(short, name) for name in columns}
    assert (made.id, made.version, made.status, made.source_bytes) == (row.id, 1, "ready", len(CSV))
    assert kept(storage) == {made.sha256}
    with db.read_scope(engine) as session:
        assert (checks(session), validation.any_due(session)) == (0, False)


def test_an_npz_stays_where_it_lies(
    engine: Engine, storage: Storage, upload: Upload, npz_bytes: Callable[..., bytes]
) -> None:
    row, _ = upload(npz_bytes(), file_name="d.npz")
    made = finished(engine, storage, claimed(engine))
    assert (made.status, made.format, made.sha256, made.source_sha256) == ("ready", "npz", row.sha256, None)
    assert kept(storage) == {row.sha256}


def test_a_rejected_version_says_what_a_short_check_says_and_leaves_no_file(
    engine: Engine, storage: Storage, upload: Upload
) -> None:
    with pytest.raises(DatasetInvalid) as short:
        upload(BAD, wait_seconds=None)
    upload(BAD)
    made = finished(engine, storage, claimed(engine))
    assert (made.status, made.message) == ("rejected", short.value.message)
    assert made.problems == [{"pointer": one.pointer, "detail": one.detail} for one in short.value.problems]
    assert made.problems
    assert kept(storage) == set()


def test_a_name_means_the_newest_version_that_is_ready(engine: Engine, storage: Storage, upload: Upload) -> None:
    upload(BAD)
    assert get(engine, "walks").version == 1  # better than nothing: it says how far it is
    finished(engine, storage, claimed(engine))
    assert (get(engine, "walks").status, get(engine, "walks@latest").version) == ("rejected", 1)
    upload(schema={"target": "kind"}, wait_seconds=None)
    assert (get(engine, "walks").version, get(engine, "walks@1").status) == (2, "rejected")
    upload(BAD)
    assert (get(engine, "walks").version, get(engine, "walks@latest").version) == (2, 2)
    assert get(engine, "walks@3").status == "validating"
    finished(engine, storage, claimed(engine))
    assert (get(engine, "walks").version, get(engine, "walks@3").status) == (2, "rejected")


def test_columns_are_not_taken_over_from_a_version_that_is_not_ready(
    engine: Engine, storage: Storage, upload: Upload
) -> None:
    upload(schema={"target": "kind"}, wait_seconds=None)
    upload(BAD, schema={"target": "pace"})

    def before() -> str | None:
        with db.read_scope(engine) as session:
            found = versions.columns_before(session, "walks", tenant=tenants.DEFAULT)
            return found and found.version

    assert before() == "walks@1"
    finished(engine, storage, claimed(engine))
    assert before() == "walks@1"


def test_columns_that_were_taken_over_are_named_where_they_do_not_fit(
    engine: Engine, storage: Storage, upload: Upload
) -> None:
    upload(schema={"target": "kind"}, wait_seconds=None)
    upload(CSV.replace(b"pace", b"speed"))
    made = finished(engine, storage, claimed(engine))
    assert made.status == "rejected"
    assert "It is read as walks@1 was, which has the same name: name its columns again if they have changed" in (
        made.message or ""
    )


def test_the_same_upload_again_is_the_version_that_is_being_checked(engine: Engine, upload: Upload) -> None:
    first, again = upload(), upload()
    assert (again.created, again.dataset.id) == (False, first.dataset.id)
    assert upload(file_name="walks.txt").dataset.version == 2
    assert upload(schema={"target": "kind"}).dataset.version == 3
    assert upload(CSV + b"w0,6,1.5,stroll\n").dataset.version == 4
    assert upload(name="other").dataset.version == 1


def test_content_that_a_name_has_already_leads_to_that_version(
    engine: Engine, storage: Storage, upload: Upload, npz_bytes: Callable[..., bytes]
) -> None:
    npz, _ = upload(npz_bytes(), wait_seconds=None)
    again, created = upload(npz_bytes())  # its hash is known before the check
    assert (again.id, again.status, created) == (npz.id, "ready", False)
    first = upload(name="table", wait_seconds=None).dataset
    again, created = upload(CSV.replace(b"\n", b"\r\n"), "table")
    assert (created, again.version) == (True, 2)
    assert finished(engine, storage, claimed(engine)).id == first.id
    assert get(engine, again.id).id == first.id
    with pytest.raises(DatasetNotFound):
        get(engine, "table@2")
    with db.read_scope(engine) as session, pytest.raises(DatasetNotFound):
        versions.get(session, again.id, tenant="acme")
    assert kept(storage) == {npz.sha256, first.sha256}


def test_a_file_is_not_deleted_while_another_data_set_waits_for_its_check(
    engine: Engine, storage: Storage, upload: Upload
) -> None:
    other = upload(name="other").dataset
    upload()
    one = finished(engine, storage, claimed(engine))
    assert kept(storage) == {one.sha256, other.sha256}
    finished(engine, storage, claimed(engine))
    assert kept(storage) == {one.sha256}


def test_of_many_claims_at_once_one_wins(engine: Engine, upload: Upload) -> None:
    upload()

    def claim() -> Claim | None:
        with db.session_scope(engine) as session:
            return validation.claim(session, 60.0)

    assert len([one for one in at_once([claim] * 8) if one is not None]) == 1


def test_a_check_that_was_taken_over_writes_nothing_more(engine: Engine, storage: Storage, upload: Upload) -> None:
    row, _ = upload()
    slow = claimed(engine)
    expire(engine)
    quick = claimed(engine)
    assert (quick.attempt, quick.lost, quick.dataset_id) == (2, 1, row.id)
    with db.session_scope(engine) as session:
        assert not validation.renew(session, slow, 60.0)
        assert not validation.release(session, slow)
    with checked(storage, slow) as upload_, pytest.raises(LeaseLost), db.session_scope(engine) as session:
        validation.finish(session, slow, upload_)
    with pytest.raises(LeaseLost), db.session_scope(engine) as session:
        validation.reject(session, slow, DatasetInvalid("It is late."))
    with db.session_scope(engine) as session:
        validation.discard_upload(session, storage, slow)
        assert validation.renew(session, quick, 60.0)
    assert finished(engine, storage, quick).status == "ready"
    with pytest.raises(LeaseLost), db.session_scope(engine) as session:
        validation.reject(session, slow, DatasetInvalid("It is later still."))
    assert get(engine, "walks").status == "ready"


def test_a_check_that_was_given_back_waits_and_is_not_lost(engine: Engine, upload: Upload) -> None:
    upload()
    with db.session_scope(engine) as session:
        validation.release(session, claimed_in(session), pause_seconds=60.0)
        assert not validation.any_due(session)
        assert validation.claim(session, 60.0) is None
        session.execute(sa.update(DatasetCheck).values(not_before=0.0))
        assert validation.any_due(session)
        again = claimed_in(session)
    assert (again.attempt, again.lost) == (2, 0)


def claimed_in(session: Session) -> Claim:
    found = validation.claim(session, 60.0)
    assert found is not None
    return found


def test_a_tenant_without_a_check_under_way_comes_first(engine: Engine, upload: Upload) -> None:
    with db.session_scope(engine) as session:
        tenants.create(session, "acme")
    for name, tenant in (("a", "default"), ("b", "default"), ("c", "acme")):
        upload(name=name, tenant=tenant)
    assert [claimed(engine).name for _ in range(3)] == ["a", "c", "b"]


def test_a_data_set_that_is_deleted_while_it_is_checked_stays_deleted(
    engine: Engine, storage: Storage, upload: Upload
) -> None:
    upload()
    claim = claimed(engine)
    delete(engine, "walks@1")
    with db.session_scope(engine) as session:
        assert checks(session) == 0
        assert not validation.renew(session, claim, 60.0)
    with checked(storage, claim) as upload_, pytest.raises(LeaseLost), db.session_scope(engine) as session:
        validation.finish(session, claim, upload_)
    with db.session_scope(engine) as session:
        validation.discard_upload(session, storage, claim)
    assert kept(storage) == set()
    with pytest.raises(DatasetNotFound):
        get(engine, "walks")


def test_a_deletion_and_an_end_at_once_agree(engine: Engine, storage: Storage, upload: Upload) -> None:
    row, _ = upload()
    claim = claimed(engine)
    with checked(storage, claim) as upload_:

        def end() -> bool:
            try:
                with db.session_scope(engine) as session:
                    validation.finish(session, claim, upload_)
            except LeaseLost:
                return False
            return True

        at_once([end, lambda: delete(engine, row.id)])
    with pytest.raises(DatasetNotFound):
        get(engine, row.id)
    with db.read_scope(engine) as session:
        assert checks(session) == 0


def test_the_sweep_leaves_an_upload_while_it_is_checked_and_takes_what_was_left_behind(
    engine: Engine, storage: Storage, upload: Upload
) -> None:
    waiting = upload().dataset
    upload(CSV + b"w0,6,1.5,stroll\n", name="deleted")
    delete(engine, "deleted")
    rejected = upload(BAD, name="rejected").dataset
    claims = [claimed(engine), claimed(engine)]
    with db.session_scope(engine) as session:  # whose process died before it could delete the file
        validation.reject(session, claims[1], DatasetInvalid("It is no data set."))
    assert get(engine, rejected.id).status == "rejected"
    for path in storage.root.rglob("*.npz"):
        os.utime(path, (0, 0))
    assert len(kept(storage)) == 3
    assert reconciler.sweep(engine, storage) == 2
    assert kept(storage) == {waiting.sha256}
    assert finished(engine, storage, claims[0]).status == "ready"


def test_a_quota_counts_what_is_being_checked_and_nothing_that_was_rejected(
    engine: Engine, storage: Storage, upload: Upload
) -> None:
    with db.session_scope(engine) as session:
        tenants.create(session, "acme", max_bytes=len(BAD) + 10)
    upload(BAD, tenant="acme")
    with pytest.raises(QuotaExceeded):
        upload(name="more", tenant="acme")
    assert finished(engine, storage, claimed(engine)).status == "rejected"
    with db.session_scope(engine) as session:
        assert tenants.use(session, "acme").bytes == 0
    upload(name="more", tenant="acme")
    made = finished(engine, storage, claimed(engine))
    assert made.status == "rejected"  # the file that would be kept of it is larger than the one that came
    assert "bytes of data sets and may have" in (made.message or "")
    assert kept(storage) == set()


def test_a_tenant_may_have_so_many_unfinished_checks(
    engine: Engine, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "MOST_VALIDATING", 2)
    with db.session_scope(engine) as session:
        tenants.create(session, "acme")
    upload(name="a")
    upload(name="b")
    with pytest.raises(QuotaExceeded, match="still checking 2 data sets"):
        upload(name="c")
    assert upload(name="a").created is False
    assert upload(name="c", tenant="acme").created
    assert upload(name="c", wait_seconds=None).created
    delete(engine, "a")
    assert upload(name="d").created


def test_old_rejected_versions_are_forgotten(engine: Engine, storage: Storage, upload: Upload) -> None:
    upload(BAD)
    finished(engine, storage, claimed(engine))
    upload(schema={"target": "kind"}, wait_seconds=None)
    reconciler.sweep(engine, storage)
    assert get(engine, "walks@1").status == "rejected"
    with db.session_scope(engine) as session:
        session.execute(sa.update(Dataset).values(created_at=Dataset.created_at - versions.FORGET_SECONDS))
    reconciler.sweep(engine, storage)
    with pytest.raises(DatasetNotFound):
        get(engine, "walks@1")
    assert get(engine, "walks").version == 2


def test_how_long_the_oldest_one_waits_is_known(engine: Engine, storage: Storage, upload: Upload) -> None:
    def seconds() -> float:
        with db.read_scope(engine) as session:
            return validation.oldest_seconds(session)

    assert seconds() == 0.0
    upload()
    with db.session_scope(engine) as session:
        session.execute(sa.update(Dataset).values(created_at=db.now() - 300))
    upload(name="younger")
    assert seconds() == pytest.approx(300, abs=60)
    finished(engine, storage, claimed(engine))
    assert seconds() < 60
