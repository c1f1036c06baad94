"""Transfers blobs between the local folder and the object store. Without an object store there is nothing to do.

With an object store, the store has the files that count. The folder of each host is the trainers' working folder and a
cache of data sets.

    <prefix>/datasets/<sha256[:2]>/<sha256>.npz
    <prefix>/jobs/<job id>/<attempt>-<random>/checkpoint-000000004.json ...     no two uploads share a folder

Each object of a job is written once, under a random key. The row that refers to it stores this key as `object`, beside
name, size and hash. So an attempt that lost its job while it was frozen cannot overwrite anything. It deletes an object
only after a fenced transaction of its own has removed the row that referred to it, and no later row can refer to the
same key. Objects that no row refers to are deleted by the hourly cleanup. The key of a data set is the hash of its
content, so every upload to that key writes the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from services.blobs import storage
from services.blobs.objects import S3, Changed, Reading
from services.blobs.storage import BLOCK_BYTES, Incoming, Storage
from services.errors import StorageUnavailable
from services.orm import Checkpoint
from services.training import epochs

LOOK_SECONDS = 5.0
"""How long a transaction may wait for the store."""

log = logging.getLogger(__name__)

File = Mapping[str, Any]
GoOn = Callable[[], bool]


class Gone(Exception):
    """What the database counts on is not in the object store, or is damaged there."""


# Uploads by clients


def share_dataset(held: Storage, incoming: Incoming) -> None:
    """Send an upload to the store, before the transaction that adds its row. What is there already is sent again: that
    makes it young, so that a sweep leaves it alone, and heals it where it was damaged.

    Raises StorageUnavailable.
    """
    if held.objects is not None:
        held.objects.put(incoming.path, dataset_key(incoming.sha256), incoming.sha256)


def keep_dataset(held: Storage, incoming: Incoming) -> None:
    """See that an upload has its place, within the transaction that adds its row, behind the lock that sweeps take.

    Raises:
        StorageUnavailable: a sweep came between, which had found this content unwanted; or the store has gone away.
    """
    if held.objects is None:
        held.keep_dataset(incoming)
    elif not held.objects.has(dataset_key(incoming.sha256), LOOK_SECONDS):
        raise StorageUnavailable("This content was being deleted while it came again; upload it once more.")


def fetch_upload(held: Storage, sha256: str, work: Path, go_on: GoOn) -> Path:
    """An upload that was kept and not checked yet, on this host's disk: in the folder `work`, if it was in the store.

    Raises:
        Gone: it is not there any more, or is damaged.
        StorageUnavailable: the store cannot answer.
        OSError: the local disk is full.
    """
    path = held.dataset_path(sha256) if held.objects is None else work / "upload"
    try:
        if held.objects is not None:
            _receive(held.objects, dataset_key(sha256), path, sha256, go_on)
        elif not path.exists():
            raise FileNotFoundError
    except (FileNotFoundError, Changed) as error:
        what = "damaged" if isinstance(error, Changed) else "gone"
        raise Gone(f"The uploaded file is {what}: upload it again.") from error
    return path


def remove_dataset(held: Storage, sha256: str) -> None:
    """Delete a file that no data set has, within a transaction that holds the lock of `keep_dataset`. What a store
    that is away keeps is left to the sweep."""
    held.remove_dataset(sha256)
    if held.objects is not None:
        try:
            held.objects.delete([dataset_key(sha256)], LOOK_SECONDS)
        except StorageUnavailable as error:
            log.warning("cannot delete the file of a data set, the scheduler will delete it: %s", error)


# Attempts


def share(held: Storage, store: S3, job_id: str, attempt: int, files: Sequence[File]) -> list[dict[str, Any]]:
    """Send files of a job to the store; their records, with the object of each.

    Raises:
        OSError: one of them is gone, or is not what its record says.
        ValueError: one has a name that no file of a job has.
        StorageUnavailable: the store could not take them.
    """
    folder = f"jobs/{job_id}/{attempt}-{secrets.token_hex(8)}"
    shared = []
    for file in files:
        path = held.job_file(job_id, file["name"])
        if path.stat().st_size != file["bytes"]:
            raise Changed(f"{path.name} has {path.stat().st_size} bytes, not {file['bytes']}")
        key = f"{folder}/{path.name}"
        store.put(path, key, file["sha256"])
        shared.append({**file, "object": key})
    return shared


def keys_of(files: Sequence[File]) -> list[str]:
    """The objects of recorded files."""
    return [str(file["object"]) for file in files if "object" in file]


def fetch(
    held: Storage, store: S3, job_id: str, sha256: str | None, checkpoints: Sequence[Checkpoint], go_on: GoOn
) -> list[str]:
    """Bring what an attempt needs to the local folder: its data set, and the newest registered checkpoint that is
    whole.

    Of older checkpoints (`checkpoints` are oldest first) the small description is enough: by that the trainer knows
    what it keeps and what is superfluous. Files of the job that are none of these leave the folder, for another host
    may have gone on from here. Returns sentences about checkpoints that are damaged or gone.

    Raises:
        Gone: the data set is not in the store, or is damaged there.
        StorageUnavailable: the store cannot answer.
        OSError: the local disk is full.
    """
    if sha256 is not None:
        _fetch_dataset(held, store, sha256, go_on)
    kept: set[str] = set()
    problems: list[str] = []
    for row in reversed(checkpoints):
        names, problem = _fetch_checkpoint(held, store, row, whole=not kept, go_on=go_on)
        kept |= names
        problems += [problem] if problem else []
    held.clear_job(job_id, {*kept, epochs.NAME})  # whether that is what they count on is looked at next
    return problems


def fetch_model(held: Storage, store: S3, name: str, job_id: str, files: Sequence[File], go_on: GoOn) -> list[str]:
    """Bring the files of the model `name` to the local folder of its job.

    Returns a sentence about each file that is damaged or missing in the store.

    Raises:
        StorageUnavailable: the store cannot answer.
        OSError: the local disk is full.
    """
    held.touch_job(job_id)
    problems = []
    for file in files:
        path = held.job_dir(job_id) / held.job_file(job_id, file["name"]).name
        try:
            if not _is_local(path, file):
                if "object" not in file:  # from before there was a store, on another host
                    raise FileNotFoundError
                _receive(store, file["object"], path, file["sha256"], go_on)
        except (FileNotFoundError, Changed) as error:
            what = "damaged" if isinstance(error, Changed) else "missing"
            problems.append(f"The file {path.name} of {name} is {what} in the object store.")
    return problems


def opened(held: Storage, job_id: str, file: File) -> Reading | IO[bytes]:
    """A recorded file of a job, to be read and closed, wherever it lies.

    Raises FileNotFoundError, StorageUnavailable.
    """
    if held.objects is not None and "object" in file:
        return held.objects.open(file["object"])
    return held.job_file(job_id, file["name"]).open("rb")


def copy(held: Storage, job_id: str, file: File, path: Path) -> None:
    """Write a recorded file of a job to a new place on this host.

    Raises FileNotFoundError, Changed if its hash is another, StorageUnavailable, and OSError of the disk.
    """
    digest = hashlib.sha256()
    with closing(opened(held, job_id, file)) as reading, path.open("xb") as copied:
        while block := reading.read(BLOCK_BYTES):
            digest.update(block)
            copied.write(block)
    if digest.hexdigest() != file["sha256"]:
        raise Changed(f"{path.name} of {job_id} has another hash")


def _fetch_dataset(held: Storage, store: S3, sha256: str, go_on: GoOn) -> None:
    if held.touch_dataset(sha256):
        return
    key = dataset_key(sha256)
    try:
        _receive(store, key, held.dataset_place(sha256), sha256, go_on)
    except (FileNotFoundError, Changed) as error:
        what = "is damaged" if isinstance(error, Changed) else "is not"
        raise Gone(
            f"The data set's file {what} in the object store ({key}): upload the same file under the same name, then "
            "submit the job again."
        ) from error


def _fetch_checkpoint(
    held: Storage, store: S3, row: Checkpoint, *, whole: bool, go_on: GoOn
) -> tuple[set[str], str | None]:
    """The names of a checkpoint's files that are local now, and what is wrong with it, if anything."""
    names = set()
    for file in sorted(row.files, key=lambda file: file["name"].endswith(".json")):  # the description comes last
        path = held.job_dir(row.job_id) / held.job_file(row.job_id, file["name"]).name
        wanted = whole or path.suffix in (".json", ".parquet")  # of answers all pieces are needed
        try:
            if not _is_local(path, file):
                if not wanted:
                    continue
                if "object" not in file:  # registered before there was a store, on another host
                    raise FileNotFoundError
                _receive(store, file["object"], path, file["sha256"], go_on)
        except (FileNotFoundError, Changed) as error:
            what = "damaged" if isinstance(error, Changed) else "missing"
            return set(), f"The checkpoint of step {row.step} is {what} in the object store ({path.name})."
        names.add(path.name)
    return names, None


def _is_local(path: Path, file: File) -> bool:
    return path.exists() and path.stat().st_size == file["bytes"] and storage.sha256(path) == file["sha256"]


def _receive(store: S3, key: str, path: Path, sha256: str, go_on: GoOn) -> None:
    """Write an object to a file, whole or not at all.

    Raises FileNotFoundError, Changed where its hash is another, StorageUnavailable, and OSError of the disk.
    """
    digest = hashlib.sha256()
    with closing(store.open(key)) as reading, storage.placed(path) as file:
        while block := reading.read(BLOCK_BYTES):
            if not go_on():
                raise StorageUnavailable("It is not needed any more.")
            digest.update(block)
            file.write(block)
        if digest.hexdigest() != sha256:
            raise Changed(f"{key} has another hash")


# Deleting


def remove_job(held: Storage, job_id: str) -> None:
    """Delete all files of a job that has no row any more. What a store that is away keeps is left to the sweep."""
    held.remove_job(job_id)
    if held.objects is not None:
        try:
            held.objects.delete([found.key for found in held.objects.list(f"jobs/{job_id}/")])
        except StorageUnavailable as error:
            log.warning("%s: cannot delete its objects, the scheduler will delete them: %s", job_id, error)


def dataset_key(sha256: str) -> str:
    """The object of the data set with this hash."""
    return f"datasets/{sha256[:2]}/{sha256}.npz"
