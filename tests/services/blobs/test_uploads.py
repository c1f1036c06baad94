"""Uploads in several requests: what arrives stays, nothing is written twice, and what is forgotten goes."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest

from services.blobs.storage import Storage
from services.blobs.uploads import KEEP_SECONDS, MOST_PER_TENANT, Uploads
from services.errors import QuotaExceeded, TooLarge, UploadConflict, UploadNotFound

MOST = 1 << 20


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(Storage(tmp_path))


class Broken(io.BytesIO):
    """A request that breaks after its first block."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise ConnectionResetError
        return super().read(4)


def test_bytes_that_arrived_before_a_break_stay(uploads: Uploads) -> None:
    begun = uploads.begin("team", 10, most_bytes=MOST)
    with pytest.raises(ConnectionResetError):
        uploads.append(begun, 0, Broken(b"0123456789"))
    assert uploads.get(begun.id, "team").offset == 4
    with pytest.raises(UploadConflict, match="has 4 bytes; continue from there"):
        uploads.append(begun, 0, io.BytesIO(b"0123456789"))
    assert uploads.append(begun, 4, io.BytesIO(b"456789")).offset == 10
    with uploads.whole(begun) as file:
        assert file.read() == b"0123456789"


def test_it_is_whole_only_with_all_its_bytes_and_never_has_more(uploads: Uploads) -> None:
    begun = uploads.begin("team", 4, most_bytes=MOST)
    uploads.append(begun, 0, io.BytesIO(b"012"))
    with pytest.raises(UploadConflict, match="3 of 4 bytes"), uploads.whole(begun):
        pass
    with pytest.raises(TooLarge):
        uploads.append(begun, 3, io.BytesIO(b"34"))
    with pytest.raises(TooLarge, match="has 1,048,577 bytes, and this service takes at most 1,048,576"):
        uploads.begin("team", MOST + 1, most_bytes=MOST)


def test_two_requests_do_not_write_at_once(uploads: Uploads) -> None:
    begun = uploads.begin("team", 4, most_bytes=MOST)

    class Other(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            with pytest.raises(UploadConflict, match="Another request"):
                uploads.append(begun, 0, io.BytesIO(b"9"))
            return super().read(size)

    uploads.append(begun, 0, Other(b"0123"))
    with uploads.whole(begun) as file:
        assert file.read() == b"0123"


@pytest.mark.parametrize("name", ["../x", "upload_" + "0" * 26, "upload_/etc/passwd", ""])
def test_what_is_no_upload_of_the_tenant_is_not_found(uploads: Uploads, name: str) -> None:
    begun = uploads.begin("team", 4, most_bytes=MOST)
    for upload_id, tenant in ((name, "team"), (begun.id, "other")):
        with pytest.raises(UploadNotFound):
            uploads.get(upload_id, tenant)


def test_one_that_has_ended_keeps_its_data_set_and_no_bytes(uploads: Uploads, tmp_path: Path) -> None:
    begun = uploads.begin("team", 4, most_bytes=MOST)
    uploads.append(begun, 0, io.BytesIO(b"0123"))
    uploads.end(begun, "ds_1")
    assert uploads.get(begun.id, "team").dataset_id == "ds_1"
    assert [*tmp_path.rglob("*.part")] == []
    uploads.delete(begun)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_tenant_has_so_many_and_forgotten_ones_go(uploads: Uploads, tmp_path: Path) -> None:
    begun = [uploads.begin("team", 4, most_bytes=MOST) for _ in range(MOST_PER_TENANT)]
    with pytest.raises(QuotaExceeded, match="continue or delete one"):
        uploads.begin("team", 4, most_bytes=MOST)
    uploads.begin("other", 4, most_bytes=MOST)
    old = time.time() - KEEP_SECONDS - 1
    os.utime(tmp_path / "blobs" / "uploads" / f"{begun[0].id}.part", (old, old))
    uploads.begin("team", 4, most_bytes=MOST)
    with pytest.raises(UploadNotFound):
        uploads.get(begun[0].id, "team")
