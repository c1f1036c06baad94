"""Receives the files of data sets. Each is checked, and lies beside the data sets until its row is added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services import db
from services.blobs import transfers
from services.blobs.storage import Incoming, Readable, Storage
from services.datasets.checking import CHECKER, Checked, Checker, CheckUnfinished, Upload
from services.errors import DatasetInvalid
from services.orm import Dataset
from services.states import DatasetStatus
from services.training.files.npz import Limits

_DEFAULT_LIMITS = Limits()
MAX_BYTES = 512 << 20
PREVIEW_SECONDS = 5
MOST_FETCHED_BYTES = 64 << 20
"""Of a data set that is fetched from the object store for a preview."""


@dataclass(frozen=True)
class Columns:
    """What the columns of an upload are: fields of a `loopline.files.schema.Schema`, and who says so."""

    schema: Mapping[str, Any]
    version: str | None = None
    """The version of the data set that had them; None where the sender names them."""


@dataclass(frozen=True)
class Source:
    """A file as it was uploaded, and what its sender says of it."""

    file: Incoming
    name: str = ""
    """What the sender calls the file."""
    columns: Columns = Columns({})
    """Those that are not to be inferred."""


@dataclass(frozen=True)
class Received:
    """An upload that lies beside the data sets, for as long as the block of `received` lasts."""

    storage: Storage
    source: Source
    incoming: Incoming
    """The file to keep: the upload itself, or the sequences that were read from it."""
    checked: Checked | None
    """None: its check takes longer than its sender waits, or nobody asked for one."""
    is_raw: bool = False
    """Whether the file is kept as it came, without a check."""


@contextmanager
def received(
    storage: Storage,
    file: Readable,
    *,
    file_name: str = "",
    columns: Columns | None = None,
    limits: Limits = _DEFAULT_LIMITS,
    max_bytes: int = MAX_BYTES,
    wait_seconds: float | None = None,
    raw: bool = False,
) -> Iterator[Received]:
    """Read and check an upload, which may take long: so it takes no session, and refuses to begin while this thread
    has one open. `columns` are those that are not to be inferred. A check that takes longer than `wait_seconds` is
    ended; then the upload is one that was not checked. With `raw` the file is kept as it came, and nobody reads it.

    Raises:
        DatasetInvalid: the file is no data set; names arrays and rows.
        TooLarge: the file has more than `max_bytes`.
        Busy: without `wait_seconds`: other uploads take the memory that there is for reading them.
        StorageUnavailable: the object store cannot take it now.
    """
    db.check_no_session("a data set is received")
    with storage.incoming(file, max_bytes) as incoming, storage.work() as work:
        source = Source(incoming, file_name, columns or Columns({}))
        if raw:
            transfers.share_dataset(storage, incoming)
            yield Received(storage, source, incoming, None, is_raw=True)
            return
        try:
            upload = checked(storage, source, work, limits, wait_seconds=wait_seconds)
        except CheckUnfinished:
            transfers.share_dataset(storage, incoming)
            upload = Received(storage, source, incoming, None)
        yield upload


def checked(
    storage: Storage,
    source: Source,
    work: Path,
    limits: Limits,
    *,
    checker: Checker = CHECKER,
    wait_seconds: float | None = None,
) -> Received:
    """Check a file that has arrived. `work` is an empty folder, which must last as long as what was received.

    Raises:
        DatasetInvalid, CheckUnfinished, Busy: as `Checker.check`.
        StorageUnavailable: the object store cannot take it now.
    """
    upload, columns = Upload(source.file.path, work, source.name, source.columns.schema), source.columns
    try:
        found = checker.check(upload, storage.room, limits, wait_seconds=wait_seconds)
    except DatasetInvalid as error:
        if columns.version is None or not error.problems:
            raise
        hint = (
            f"It is read as {columns.version} was, which has the same name: name its columns again if they have "
            "changed, or give it another name if it is something else."
        )
        raise DatasetInvalid(f"{error.message} {hint}", error.problems) from None
    incoming = source.file if found.stored is None else storage.arrived(found.stored)
    transfers.share_dataset(storage, incoming)
    return Received(storage, source, incoming, found)


def foreseen(storage: Storage, source: Source, work: Path, limits: Limits, *, wait_seconds: float) -> Checked:
    """How a file that has arrived would be read; nothing of it is kept. `work` is an empty folder.

    Raises:
        DatasetInvalid, CheckUnfinished: as `Checker.check`.
    """
    upload = Upload(source.file.path, work, source.name, source.columns.schema)
    return CHECKER.check(upload, storage.room, limits, wait_seconds=wait_seconds)


def preview(storage: Storage, dataset: Dataset, *, limits: Limits) -> dict[str, Any]:
    """A look into a data set, see `services/training/files/preview.py`.

    Raises:
        FileNotFoundError: it is not ready, or its file is not on this host and too large to be fetched.
        DatasetInvalid, CheckUnfinished: as `Checker.preview`.
        Busy, StorageUnavailable: it cannot be read now.
    """
    if dataset.status != DatasetStatus.READY:
        raise FileNotFoundError(f"{dataset.id} is {dataset.status}")
    path = storage.dataset_path(dataset.sha256)
    with storage.work() as work:
        if not path.exists():
            if dataset.bytes > MOST_FETCHED_BYTES:
                raise FileNotFoundError(path)
            path = transfers.fetch_upload(storage, dataset.sha256, work, lambda: True)
        return CHECKER.preview(path, storage.room, limits, wait_seconds=PREVIEW_SECONDS)
