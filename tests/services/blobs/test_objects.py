"""The object store, against a real S3 server: streamed both ways, whole or not there, and clear when it is away."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.blobs import objects
from services.blobs.objects import S3, Changed
from services.errors import StorageUnavailable
from tests.conftest import S3Server

ROOT = Path(__file__).parents[3]
LARGE = 2 * objects.PART_BYTES + 12345


@pytest.fixture
def file(tmp_path: Path) -> Callable[[int], tuple[Path, str]]:
    """A factory of files of so many bytes, each with its hash."""

    def make(size: int) -> tuple[Path, str]:
        path = tmp_path / f"file-{size}"
        path.write_bytes(os.urandom(size))
        return path, hashlib.sha256(path.read_bytes()).hexdigest()

    return make


def content(store: S3, key: str, start: int = 0, stop: int | None = None) -> bytes:
    reading = store.open(key, start, stop)
    blocks = []
    while block := reading.read(1 << 20):
        blocks.append(block)
    reading.close()
    assert sum(map(len, blocks)) == reading.bytes
    return b"".join(blocks)


@pytest.mark.parametrize("size", [0, 1, objects.PART_BYTES, LARGE])
def test_what_goes_up_comes_down(store: S3, file: Callable[[int], tuple[Path, str]], size: int) -> None:
    path, sha256 = file(size)
    store.put(path, "jobs/a/file", sha256)
    assert content(store, "jobs/a/file") == path.read_bytes()
    assert [(found.key, found.bytes) for found in store.list("jobs/")] == [("jobs/a/file", size)]
    assert abs(next(store.list("jobs/")).modified - time.time()) < 60


def test_a_part_of_an_object_may_be_had(store: S3, file: Callable[[int], tuple[Path, str]]) -> None:
    path, sha256 = file(1000)
    store.put(path, "file", sha256)
    assert content(store, "file", 10, 20) == path.read_bytes()[10:20]
    assert content(store, "file", 990) == path.read_bytes()[990:]


TRANSFER = """
import resource, sys
from pathlib import Path
from services.blobs import objects
from services.settings import Settings

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

store = objects.from_settings(Settings())
store.has("nothing")  # whatever has to be imported and made
before = peak()
store.put(Path(sys.argv[1]), "large", sys.argv[2])
reading, size = store.open("large"), 0
while block := reading.read(1 << 20):
    size += len(block)
reading.close()
print(size, peak() - before)
"""


def test_a_large_file_is_never_whole_in_memory(
    store_settings: dict[str, Any], file: Callable[[int], tuple[Path, str]], tmp_path: Path
) -> None:
    size = 200 << 20
    path, sha256 = file(1)
    with path.open("wb") as out:
        out.truncate(size)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    environment = {f"LOOPLINE_{name.upper()}": str(value) for name, value in store_settings.items()}
    done = subprocess.run(
        [sys.executable, "-c", TRANSFER, path, sha256],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    moved, grown_mib = map(int, done.stdout.split())
    assert moved == size
    assert grown_mib < 5 * objects.PART_BYTES >> 20


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_file_that_is_not_what_was_said_is_not_stored(
    store: S3, file: Callable[[int], tuple[Path, str]], size: int
) -> None:
    path, _ = file(size)
    with pytest.raises(Changed, match="has another hash"):
        store.put(path, "file", "0" * 64)
    with pytest.raises(FileNotFoundError):
        store.put(path.with_name("gone"), "file", "0" * 64)
    assert list(store.list("")) == []
    assert store.abandon_parts(time.time() + 60) == 0


def test_what_is_not_there_is_said_to_be_missing(store: S3) -> None:
    with pytest.raises(FileNotFoundError):
        store.open("nothing")
    assert not store.has("nothing")
    store.delete(["nothing"])


def test_objects_are_listed_by_folder_and_deleted(store: S3, file: Callable[[int], tuple[Path, str]]) -> None:
    path, sha256 = file(3)
    for key in ("jobs/a/1/x", "jobs/a/2/x", "jobs/b/1/x", "datasets/c"):
        store.put(path, key, sha256)
    assert sorted(store.folders("jobs/")) == ["a", "b"]
    store.delete(found.key for found in store.list("jobs/a/"))
    assert sorted(found.key for found in store.list("")) == ["datasets/c", "jobs/b/1/x"]
    assert store.has("jobs/b/1/x")


def test_uploads_that_broke_off_are_abandoned_when_they_are_old(store: S3) -> None:
    store._call("create_multipart_upload", Key="jobs/a/x")
    assert store.abandon_parts(before=0.0) == 0
    assert store.abandon_parts(before=time.time() + 60) == 1
    assert store.abandon_parts(before=time.time() + 60) == 0


def test_a_store_that_is_away_says_so_soon_and_is_used_again_when_it_is_back(
    store: S3, s3_server: S3Server, file: Callable[[int], tuple[Path, str]]
) -> None:
    path, sha256 = file(1 << 20)
    store.put(path, "file", sha256)
    began = time.monotonic()
    with s3_server.away():
        for use in (
            lambda: store.put(path, "other", sha256),
            lambda: store.open("file"),
            lambda: store.has("file"),
            lambda: list(store.list("")),
            lambda: store.check(2.0),
        ):
            with pytest.raises(StorageUnavailable, match="cannot answer now"):
                use()
        assert time.monotonic() - began < 30
    assert content(store, "file") == path.read_bytes()


def test_a_bucket_that_is_not_there_is_no_missing_object(store: S3) -> None:
    store.bucket = "no-such-bucket"
    for use in (lambda: store.open("file"), lambda: list(store.list(""))):
        with pytest.raises(StorageUnavailable, match="NoSuchBucket"):
            use()


def test_a_download_goes_on_where_its_connection_broke(store: S3, file: Callable[[int], tuple[Path, str]]) -> None:
    path, sha256 = file(3 << 20)
    store.put(path, "file", sha256)
    reading = store.open("file")
    begin = reading.read(1000)
    reading.close()  # as if the connection had gone
    blocks = [begin]
    while block := reading.read(1 << 20):
        blocks.append(block)
    assert b"".join(blocks) == path.read_bytes()


def test_many_downloads_may_be_open_at_once(store: S3, file: Callable[[int], tuple[Path, str]]) -> None:
    path, sha256 = file(1 << 20)
    store.put(path, "file", sha256)
    readings = [store.open("file") for _ in range(20)]
    assert {reading.read(10) for reading in readings} == {path.read_bytes()[:10]}
    for reading in readings:
        reading.close()


def test_an_object_that_is_deleted_while_it_is_read_is_missed(
    store: S3, file: Callable[[int], tuple[Path, str]]
) -> None:
    path, sha256 = file(1000)
    store.put(path, "file", sha256)
    reading = store.open("file")
    reading.close()
    store.delete(["file"])
    with pytest.raises(FileNotFoundError):
        reading.read(10)
