"""Blobs: whole or not there, named by us, swept when nothing refers to them."""

from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path

import pytest

from services.blobs import storage as blobs
from services.blobs.storage import Storage
from services.errors import TooLarge

JOB = "job_01k9zzzzzzzzzzzzzzzzzzzzzz"


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def kept(storage: Storage, data: bytes) -> Path:
    with storage.incoming(io.BytesIO(data), 100) as incoming:
        return storage.keep_dataset(incoming)


def test_an_upload_is_hashed_and_kept_by_its_content(storage: Storage) -> None:
    sha256 = hashlib.sha256(b"data").hexdigest()
    with storage.incoming(io.BytesIO(b"data"), 4) as incoming:
        assert (incoming.bytes, incoming.sha256) == (4, sha256)
        path = storage.keep_dataset(incoming)
    assert path == storage.dataset_path(sha256)
    assert path.read_bytes() == b"data"
    assert blobs.sha256(path) == sha256
    assert kept(storage, b"data") == path
    assert len(files(storage.root)) == 1


def test_an_upload_that_is_not_kept_leaves_nothing(storage: Storage) -> None:
    with storage.incoming(io.BytesIO(b"data"), 100):
        pass
    with pytest.raises(ZeroDivisionError), storage.incoming(io.BytesIO(b"data"), 100):
        raise ZeroDivisionError
    assert files(storage.root) == []


def test_an_upload_that_is_too_large_is_refused_while_it_streams(storage: Storage) -> None:
    class Endless:
        read_bytes = 0

        def read(self, size: int, /) -> bytes:
            self.read_bytes += size
            return b"x" * size

    endless = Endless()
    with pytest.raises(TooLarge, match="5,000,000"), storage.incoming(endless, 5_000_000):
        pass
    assert endless.read_bytes < 7_000_000
    assert files(storage.root) == []


def test_an_upload_that_breaks_off_leaves_nothing(storage: Storage) -> None:
    class Broken:
        def read(self, size: int, /) -> bytes:
            raise ConnectionError

    with pytest.raises(ConnectionError), storage.incoming(Broken(), 100):
        pass
    assert files(storage.root) == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.json"
    blobs.write(path, b"old")
    blobs.write(path, b"new")
    assert path.read_bytes() == b"new"

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        blobs.write(path, b"newest")
    assert path.read_bytes() == b"new"
    assert files(tmp_path) == ["model.json"]


def test_a_jobs_files_lie_together(storage: Storage) -> None:
    folder = storage.job_dir(JOB)
    assert folder.is_dir()
    description, tensors = storage.checkpoint_files(JOB, 4)
    assert description == folder / "checkpoint-000000004.json"
    assert tensors == folder / "checkpoint-000000004.safetensors"
    assert storage.job_file(JOB, "model.json") == folder / "model.json"


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "model.json\n", "model.pkl", "", ".", "checkpoint-1.json", "/model.json"]
)
def test_no_other_name_is_a_jobs_file(storage: Storage, name: str) -> None:
    with pytest.raises(ValueError, match="no file of a job"):
        storage.job_file(JOB, name)


@pytest.mark.parametrize("name", ["..", "", "job_", "../" + JOB, JOB + "\n", JOB.upper(), "ds_" + JOB[4:]])
def test_nothing_else_is_a_jobs_id_or_a_hash(storage: Storage, name: str) -> None:
    with pytest.raises(ValueError, match="no id of a job"):
        storage.job_dir(name)
    with pytest.raises(ValueError, match="no SHA-256"):
        storage.dataset_path(name)


def test_what_is_old_and_unwanted_is_swept(storage: Storage) -> None:
    wanted, unwanted, fresh = (kept(storage, data) for data in (b"wanted", b"unwanted", b"fresh"))
    part = storage.root / "datasets" / ".broken-off.part"
    part.touch()
    model = storage.job_dir(JOB) / "model.json"
    model.touch()
    long_ago = time.time() - 2 * blobs.STRAY_SECONDS
    for path in (wanted, unwanted, part, model):
        os.utime(path, (long_ago, long_ago))
    assert sorted(storage.sweep({wanted.stem}.__contains__)) == sorted([unwanted, part])
    assert all(path.exists() for path in (wanted, fresh, model))


def test_content_that_comes_again_is_young_again(storage: Storage) -> None:
    path = kept(storage, b"data")
    os.utime(path, (0, 0))
    kept(storage, b"data")
    assert storage.sweep(lambda _: False) == []
