"""The inbox: a folder, or a prefix of the object store, where files become versions of data sets by themselves.

The file `TENANT/NAME/anything.npz` becomes the next version of the data set NAME. Only its path decides this, and no
client chooses a path. Files are not moved. The database records the result of each file with its size and time, so that
a file is read once, and again when it changes. Any number of schedulers may read the inbox.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import sqlalchemy as sa
from loopline.files import SUFFIXES
from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db, paging
from services.access import tenants
from services.blobs.objects import S3, Reading
from services.blobs.storage import Storage
from services.datasets import receiving, versions
from services.db import now
from services.errors import Invalid, LooplineError, QuotaExceeded, TenantNotFound, TooLarge
from services.orm import InboxFile
from services.settings import Settings
from services.text import clean
from services.training.files.npz import Limits

MOST_ERROR = 1000
MOST_FILES = 10_000
"""That are looked at; more of them are too many for a folder that is read every few seconds."""


@dataclass(frozen=True)
class Entry:
    """A file as it lies in the inbox."""

    tenant: str
    name: str
    file: str
    stamp: str
    """Another one when it was written again."""
    modified: float

    @property
    def place(self) -> str:
        return f"{self.tenant}/{self.name}/{self.file}"


class Source(Protocol):
    """Where the files lie."""

    def entries(self) -> Iterator[Entry]:
        """Every file two folders down that can be read as a data set. Raises StorageUnavailable, OSError."""

    def open(self, entry: Entry) -> BinaryIO | Reading:
        """Raises FileNotFoundError, StorageUnavailable, OSError."""


class Folder:
    """A folder of this machine. Links in it are not followed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self) -> Iterator[Entry]:
        for tenant in _folders(self.root):
            for name in _folders(Path(tenant.path)):
                with os.scandir(name.path) as files:
                    for one in files:
                        named = one.name.endswith(SUFFIXES) and (name.path + one.name).isprintable()
                        if named and one.is_file(follow_symlinks=False):
                            about = one.stat(follow_symlinks=False)
                            stamp = f"{about.st_size}-{about.st_mtime_ns}-{about.st_ino}"
                            yield Entry(tenant.name, name.name, one.name, stamp, about.st_mtime)

    def open(self, entry: Entry) -> BinaryIO:
        path = self.root / entry.tenant / entry.name / entry.file
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


class Bucket:
    """A prefix of an object store."""

    def __init__(self, store: S3) -> None:
        self.store = store

    def entries(self) -> Iterator[Entry]:
        for found in self.store.list(""):
            tenant, _, rest = found.key.partition("/")
            name, _, file = rest.partition("/")
            if tenant and name and file.endswith(SUFFIXES) and "/" not in file and found.key.isprintable():
                yield Entry(tenant, name, file, f"{found.bytes}-{found.modified}", found.modified)

    def open(self, entry: Entry) -> Reading:
        return self.store.open(entry.place)


def from_settings(settings: Settings) -> Source | None:
    """The inbox that the settings name, if any."""
    if settings.inbox is None:
        return None
    if not settings.inbox.startswith("s3://"):
        return Folder(Path(settings.inbox))
    where = (settings.s3_endpoint_url, settings.s3_region)
    return Bucket(S3(settings.inbox, endpoint_url=where[0], region=where[1], keys=settings.s3_keys))


def fresh(session: Session, entries: Collection[Entry]) -> tuple[Sequence[Entry], Sequence[str]]:
    """Those that were not taken in as they are, oldest first; and the places that were and are not there any more."""
    known = {row.place: row.stamp for row in session.execute(select(InboxFile.place, InboxFile.stamp))}
    new = [entry for entry in entries if known.get(entry.place) != entry.stamp]
    gone = known.keys() - {entry.place for entry in entries}
    return sorted(new, key=lambda entry: (entry.modified, entry.place)), [*gone]


def forget(session: Session, places: Sequence[str]) -> None:
    """Delete the records of files that are gone."""
    for first in range(0, len(places), 500):
        session.execute(sa.delete(InboxFile).where(InboxFile.place.in_(places[first : first + 500])))


def ingest(engine: Engine, storage: Storage, source: Source, entry: Entry, settings: Settings) -> str | None:
    """Make a file the next version of its data set, or remember why it is none; that sentence, or None.

    Raises:
        FileNotFoundError: it is gone.
        StorageUnavailable: the store cannot answer.
        Unavailable: the database cannot.
        OSError: it cannot be kept now.
    """
    try:
        versions.check_name(entry.name)
        with db.read_scope(engine) as session:
            tenants.get(session, entry.tenant)
            columns = versions.columns_before(session, entry.name, tenant=entry.tenant)
        limits = Limits(max_bytes=settings.max_dataset_bytes)
        with (
            closing(_opened(source, entry)) as file,
            receiving.received(
                storage,
                file,
                file_name=entry.file,
                columns=columns,
                limits=limits,
                max_bytes=settings.max_upload_bytes,
            ) as upload,
            db.session_scope(engine) as session,
        ):
            added = versions.add(session, upload, name=entry.name, tenant=entry.tenant)
            _remember(session, entry, dataset_id=added.dataset.id)
    except (Invalid, QuotaExceeded, TenantNotFound, TooLarge) as error:
        with db.session_scope(engine) as session:
            _remember(session, entry, error=_sentence(error))
        return _sentence(error)
    return None


def _remember(session: Session, entry: Entry, *, dataset_id: str | None = None, error: str | None = None) -> None:
    db.lock(session, "inbox")
    session.execute(sa.delete(InboxFile).where(InboxFile.place == entry.place))
    row = {"place": entry.place, "tenant": entry.tenant, "stamp": entry.stamp, "at": now()}
    message = None if error is None else clean(error, MOST_ERROR)
    session.execute(sa.insert(InboxFile).values(**row, dataset_id=dataset_id, error=message))


def _opened(source: Source, entry: Entry) -> BinaryIO | Reading:
    try:
        return source.open(entry)
    except PermissionError as error:
        raise Invalid("The scheduler may not read it.") from error


def _sentence(error: LooplineError) -> str:
    """What is wrong, each thing once: an error may tell its first problem itself."""
    problems = error.problems[:3] if isinstance(error, Invalid) else ()
    return " ".join([error.message, *(str(problem) for problem in problems if problem.detail not in error.message)])


def _folders(root: Path) -> Sequence[os.DirEntry[str]]:
    with os.scandir(root) as found:
        return [one for one in found if one.is_dir(follow_symlinks=False) and not one.name.startswith(".")]


def page(session: Session, *, tenant: str, limit: int = 20, after: str | None = None) -> tuple[Sequence[Any], bool]:
    """The results for the files in the inbox, newest first, older than the place `after`; whether there are more."""
    query = select(InboxFile).where(InboxFile.tenant == tenant).order_by(InboxFile.at.desc(), InboxFile.place)
    if after is not None:
        last = select(InboxFile.at).where(InboxFile.tenant == tenant, InboxFile.place == after).scalar_subquery()
        same = sa.and_(InboxFile.at == last, InboxFile.place > after)
        query = query.where(sa.or_(InboxFile.at < last, same))
    return paging.first(session, query, limit)
