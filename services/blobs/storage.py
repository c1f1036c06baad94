"""Blobs: data sets, checkpoints and models, as files under one root.

    blobs/datasets/<sha256[:2]>/<sha256>.npz                         or an upload of any format, until it was checked
    blobs/jobs/<job id>/checkpoint-000000004.{json,safetensors}      shared by all attempts: names carry the step
    blobs/jobs/<job id>/history.jsonl                                the epochs that its checkpoints count on
    blobs/jobs/<job id>/model.safetensors  model.json  history.json  model.onnx
    blobs/jobs/<job id>/answers-000000500-000001000.parquet          of a job that predicts: a piece of the answers
    blobs/jobs/<job id>/answers.parquet  answers.csv                 and all of them, in one of the formats
    blobs/jobs/<job id>/README.md  loss.svg                          the model card, with other pictures too

A file is there whole or not at all: written beside its place under a temporary name, fsynced, renamed, and the folder
fsynced. Names are made of ids that we minted and checked, never of a client's text.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from services import private
from services.blobs import objects
from services.blobs.memory import Room
from services.blobs.objects import S3
from services.errors import TooLarge
from services.training.card import names

if TYPE_CHECKING:
    from services.settings import Settings

BLOCK_BYTES = 1 << 20
EXPANDING_BYTES = 1 << 30
"""What uploads that are being read may take of memory together, unless it is said."""
PROBE_BYTES = 1 << 16
STRAY_SECONDS = 3600.0
"""A temporary file, or a blob without a row, is swept away when it has not been touched for this long."""

_JOB_ID = re.compile(r"job_[0-9a-hjkmnp-tv-z]{26}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_JOB_FILE = re.compile(
    r"checkpoint-[0-9]{9,12}\.(json|safetensors)|model\.(safetensors|json|onnx)|history\.jsonl?|"
    r"answers(-[0-9]{9,12}){0,2}\.parquet|answers\.csv|" + "|".join(map(re.escape, names.NAMES))
)


class Readable(Protocol):
    """What can be read in blocks: an open file, a request's stream."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Incoming:
    """A file that has arrived and has no place yet."""

    path: Path
    bytes: int
    sha256: str


def write(path: Path, data: bytes) -> None:
    """Write a whole file or none; an older one under this name is replaced."""
    with placed(path) as file:
        file.write(data)


def sha256(path: Path) -> str:
    """The hash of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make renames within a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def placed(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes its name when the block ends well."""
    part = path.with_name(f".{path.name}-{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        fsync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


class Storage:
    """The blobs of one service: a folder, and the object store behind it where one is set (`transfers.py` goes between
    them). Making one touches nothing."""

    def __init__(self, data_dir: Path, objects: S3 | None = None, *, expanding_bytes: int = EXPANDING_BYTES) -> None:
        self.root = data_dir.absolute() / "blobs"
        self.objects = objects
        self.room = Room(data_dir.absolute() / "room", expanding_bytes)

    # Data sets

    def dataset_path(self, sha256: str) -> Path:
        """Where the data set with this hash lies."""
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is no SHA-256 in hex")
        return self.root / "datasets" / sha256[:2] / f"{sha256}.npz"

    @contextmanager
    def incoming(self, file: Readable, max_bytes: int) -> Iterator[Incoming]:
        """Take in an upload, hashing on the way: for the block a file on disk, to be looked at and then kept
        (`keep_dataset`) or forgotten.

        Raises:
            TooLarge: there are more than `max_bytes`; what was written is gone.
        """
        folder = self._folder("datasets")
        part = folder / f".{secrets.token_hex(8)}.part"
        try:
            yield _received(file, part, max_bytes)
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def work(self) -> Iterator[Path]:
        """An empty folder for the block."""
        folder = self._folder("work") / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep_work(self, *, older_than_seconds: float = STRAY_SECONDS) -> int:
        """Delete the folders of `work` whose process was killed; returns how many."""
        before = time.time() - older_than_seconds
        old = [folder for folder in self.root.glob("work/*") if folder.stat().st_mtime < before]
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
        return len(old)

    def arrived(self, path: Path) -> Incoming:
        """A file that was made here, hashed and safe on the disk, as if it had been uploaded."""
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return Incoming(path, path.stat().st_size, sha256(path))

    def keep_dataset(self, incoming: Incoming) -> Path:
        """Move an upload to its place, within the transaction that adds its row. The same content is kept once."""
        path = self.dataset_path(incoming.sha256)
        self._folder("datasets", path.parent.name)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)  # young again: the sweep leaves it alone
            return path
        incoming.path.replace(path)
        fsync_folder(path.parent)
        return path

    def remove_dataset(self, sha256: str) -> None:
        """Delete the file of a data set, if it is here. Who has opened it can read it to its end."""
        self.dataset_path(sha256).unlink(missing_ok=True)

    def dataset_place(self, sha256: str) -> Path:
        """Where the data set with this hash lies, its folder made."""
        path = self.dataset_path(sha256)
        self._folder("datasets", path.parent.name)
        return path

    def touch_dataset(self, sha256: str) -> bool:
        """Whether the data set is here; one that is stays for a while longer."""
        with self._alone(), contextlib.suppress(FileNotFoundError):
            os.utime(self.dataset_path(sha256))
            return True
        return False

    # Jobs

    def job_dir(self, job_id: str) -> Path:
        """The folder of a job's checkpoints and model; made when it is not there."""
        self._check_job(job_id)
        return self._folder("jobs", job_id)

    def touch_job(self, job_id: str) -> None:
        """Keep a job's folder from the sweep for a while longer."""
        folder = self.job_dir(job_id)
        with self._alone():
            os.utime(folder)

    def job_file(self, job_id: str, name: str) -> Path:
        """Where a job's checkpoint, model or history file lies, or would lie.

        Raises:
            ValueError: the name is none of those that trainers write.
        """
        self._check_job(job_id)
        if not _JOB_FILE.fullmatch(name):
            raise ValueError(f"{name!r} is no file of a job")
        return self.root / "jobs" / job_id / name

    def remove_job(self, job_id: str) -> None:
        """Delete a job's folder with all that is in it. A download that has opened its files ends whole."""
        self._check_job(job_id)
        shutil.rmtree(self.root / "jobs" / job_id, ignore_errors=True)

    def clear_job(self, job_id: str, kept: Collection[str]) -> None:
        """Delete the checkpoints and results of a job that are not `kept`; the folder is young afterwards."""
        self.touch_job(job_id)
        for path in self.job_dir(job_id).iterdir():
            if _JOB_FILE.fullmatch(path.name) and path.name not in kept:
                path.unlink(missing_ok=True)

    def stray_job_files(
        self, job_id: str, kept: Collection[str], *, older_than_seconds: float = STRAY_SECONDS
    ) -> list[Path]:
        """Delete the checkpoints and results of a job that are not `kept` and old; returns which."""
        self._check_job(job_id)
        names = [path for path in self.root.glob(f"jobs/{job_id}/*") if _JOB_FILE.fullmatch(path.name)]
        return _deleted([path for path in names if path.name not in kept], older_than_seconds)

    def old_jobs(self, *, older_than_seconds: float = STRAY_SECONDS) -> list[str]:
        """Ids of all jobs that have a folder which was not touched for so long."""
        before = time.time() - older_than_seconds
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / "jobs") as folders:
            return [one.name for one in folders if _JOB_ID.fullmatch(one.name) and one.stat().st_mtime < before]
        return []

    def checkpoint_files(self, job_id: str, step: int) -> tuple[Path, Path]:
        """The two files of a checkpoint: what describes it, and its tensors."""
        name = f"checkpoint-{step:09d}"
        return self.job_file(job_id, f"{name}.json"), self.job_file(job_id, f"{name}.safetensors")

    # All

    def check_writes(self) -> None:
        """Write a small file where uploads go, and delete it. Raises OSError."""
        path = self._folder("datasets") / f".{secrets.token_hex(8)}.part"
        try:
            path.write_bytes(bytes(PROBE_BYTES))
        finally:
            path.unlink(missing_ok=True)

    def sweep(self, is_wanted: Callable[[str], bool], *, older_than_seconds: float = STRAY_SECONDS) -> list[Path]:
        """Delete data sets whose hash is not wanted and temporary files, both untouched for `older_than_seconds`."""
        strays = [path for path in self._leftovers() if path.suffix == ".part" or not is_wanted(path.stem)]
        return _deleted(strays, older_than_seconds)

    def old_datasets(self, older_than_seconds: float) -> list[str]:
        """Hashes of the data sets that were not touched for so long."""
        before = time.time() - older_than_seconds
        return [path.stem for path in self.root.glob("datasets/*/*.npz") if path.stat().st_mtime < before]

    def sweep_cache(self, job_ids: Collection[str], sha256s: Collection[str], older_than_seconds: float) -> int:
        """Delete the folders of these jobs, and these data sets, if they are still untouched for so long; and
        downloads that broke off."""
        with self._alone():
            idle = set(self.old_jobs()).intersection(job_ids)
            for job_id in idle:
                self.remove_job(job_id)
            _deleted([path for path in self._leftovers() if path.suffix == ".part"], STRAY_SECONDS)
            return len(idle) + len(_deleted([*map(self.dataset_path, sha256s)], older_than_seconds))

    def is_due(self, seconds: float = STRAY_SECONDS) -> bool:
        """Whether nobody on this host has swept the cache for so long; whoever asks is taken to do it."""
        stamp = self._folder() / ".swept"
        if stamp.exists() and stamp.stat().st_mtime > time.time() - seconds:
            return False
        stamp.touch()
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process of this host looks at how old files are, or deletes old ones, during the block."""
        descriptor = os.open(self._folder(), os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _leftovers(self) -> Collection[Path]:
        return [
            *self.root.glob("datasets/*/*.npz"),
            *self.root.glob("datasets/.*.part"),
            *self.root.glob("datasets/*/.*.part"),
            *self.root.glob("jobs/*/*.part"),
            *self.root.glob("jobs/*/.*.part"),
        ]

    def _folder(self, *parts: str) -> Path:
        folder = self.root.joinpath(*parts)
        if not folder.is_dir():
            private.folder(folder)
            fsync_folder(folder.parent)
        return folder

    @staticmethod
    def _check_job(job_id: str) -> None:
        if not _JOB_ID.fullmatch(job_id):
            raise ValueError(f"{job_id!r} is no id of a job")


def _deleted(paths: Collection[Path], older_than_seconds: float) -> list[Path]:
    """Those of the files that were not touched for so long and are gone now."""
    before = time.time() - older_than_seconds
    deleted = []
    for path in sorted(paths):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                path.unlink()
                deleted.append(path)
    return deleted


def _received(file: Readable, part: Path, max_bytes: int) -> Incoming:
    digest, size = hashlib.sha256(), 0
    with part.open("xb") as out:
        while block := file.read(BLOCK_BYTES):
            size += len(block)
            if size > max_bytes:
                raise TooLarge(f"The upload has more than {max_bytes:,} bytes, which is the most this service takes.")
            digest.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return Incoming(part, size, digest.hexdigest())


def from_settings(settings: Settings) -> Storage:
    """The storage that the settings name."""
    return Storage(settings.data_dir, objects.from_settings(settings), expanding_bytes=settings.max_expanding_bytes)
