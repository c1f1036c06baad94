"""Data sets: immutable versions of uploaded sequences, named by content.

A data set is found by its id (`ds_...`), its name (the newest version), `name@3` or `name@latest`. The same content
under the same name is the same version; under another name it is another row and the same file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services import db, paging
from services.access import tenants
from services.blobs import transfers
from services.blobs.storage import Incoming, Readable, Storage
from services.datasets.checking import CHECKER, Checked, Upload
from services.db import now
from services.errors import BadRequest, DatasetInUse, DatasetInvalid, DatasetNotFound, Problem
from services.orm import Dataset, Job, new_id
from services.states import TERMINAL
from services.training.files.npz import Limits
from services.training.files.summary import DatasetSummary
from services.training.spec import Spec, data_warnings

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_ID = re.compile(r"ds_[0-9a-hjkmnp-tv-z]{26}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_DEFAULT_LIMITS = Limits()
MAX_BYTES = 512 << 20


@dataclass(frozen=True)
class Columns:
    """What the columns of an upload are: fields of a `loopline.files.schema.Schema`, and who says so."""

    schema: Mapping[str, Any]
    version: str | None = None
    """The version of the data set that had them; None where the sender names them."""


class Added(NamedTuple):
    """A data set, and whether it is a new one."""

    dataset: Dataset
    created: bool


@dataclass(frozen=True)
class Received:
    """An upload that was read, checked and put beside the data sets, for as long as the block of `received` lasts."""

    incoming: Incoming
    """The file to keep: the upload itself, or the sequences that were read from it."""
    source: Incoming
    """The upload."""
    checked: Checked
    storage: Storage


@contextmanager
def received(
    storage: Storage,
    file: Readable,
    *,
    file_name: str = "",
    columns: Columns | None = None,
    limits: Limits = _DEFAULT_LIMITS,
    max_bytes: int = MAX_BYTES,
) -> Iterator[Received]:
    """Read and check an upload, which may take long: so it takes no session, and refuses to begin while this thread
    has one open. `columns` are those that are not to be inferred.

    Raises:
        DatasetInvalid: the file is no data set; names arrays and rows.
        TooLarge: the file has more than `max_bytes`.
        Busy: other uploads take the memory that there is for reading them.
        StorageUnavailable: the object store cannot take it now.
    """
    db.check_no_session("a data set is received")
    with storage.incoming(file, max_bytes) as source, storage.work() as work:
        checked = _checked(storage, Upload(source.path, work, file_name), columns or Columns({}), limits)
        incoming = source if checked.stored is None else storage.arrived(checked.stored)
        transfers.share_dataset(storage, incoming)
        yield Received(incoming, source, checked, storage)


def add(session: Session, upload: Received, *, name: str, tenant: str = tenants.DEFAULT) -> Added:
    """Keep what was received as the next version of `name`; content that `name` already has is not added again.

    What another tenant has is new all the same, and counts; only the file on disk is one.

    Raises:
        BadRequest: the name is not one.
        TenantNotFound: there is no such tenant.
        QuotaExceeded: the tenant has as many bytes as it may.
        StorageUnavailable: the object store cannot answer now.
    """
    check_name(name)
    incoming = upload.incoming
    db.lock(session, "datasets")  # versions are numbered one by one, and the sweep must not run between row and file
    same = (Dataset.name == name, Dataset.sha256 == incoming.sha256)
    known = session.scalar(_visible(tenant).where(*same).limit(1))
    if known is None:
        tenants.check_bytes(session, tenant, incoming.bytes)
    transfers.keep_dataset(upload.storage, incoming)
    if known is not None:
        return Added(known, created=False)
    return Added(_insert(session, tenant, name, upload), created=True)


def get(session: Session, id_or_name: str, *, tenant: str | None = None) -> Dataset:
    """The data set with this id, name, `name@version` or `name@latest`. Without a tenant, which is for workers, give an
    id: names are each tenant's own.

    Raises:
        DatasetNotFound: there is none, it was deleted, or it is another tenant's.
    """
    found = session.scalar(_visible(tenant).where(*_matching(id_or_name)).order_by(Dataset.version.desc()).limit(1))
    if found is None:
        raise DatasetNotFound(f"There is no data set {_shown(id_or_name)}.")
    return found


def columns_before(session: Session, name: str, *, tenant: str) -> Columns | None:
    """The columns of the newest version of a name, to read the next one with; None if there are none."""
    newest = session.scalar(_visible(tenant).where(Dataset.name == name).order_by(Dataset.version.desc()).limit(1))
    return None if newest is None or not newest.schema else Columns(newest.schema, f"{name}@{newest.version}")


def get_many(session: Session, ids: Sequence[str], *, tenant: str) -> Mapping[str, Dataset]:
    """By id, those that are there."""
    return {row.id: row for row in session.scalars(_visible(tenant).where(Dataset.id.in_(ids)))}


def summary(dataset: Dataset) -> DatasetSummary:
    """What the data set holds, to check a spec against."""
    return DatasetSummary.model_validate(dataset.summary)


def warnings(dataset: Dataset, spec: Spec | None = None) -> Sequence[str]:
    """What may have been meant otherwise, of a job with this spec; without one, of a job that leaves it at defaults."""
    return data_warnings.for_job(dataset.suspicions or (), spec, summary(dataset))


def unlike_schema(dataset: Dataset, spec: Spec) -> list[Problem]:
    """Where the data set's columns are not what the spec says they are."""
    wanted = spec.data.schema_
    if wanted is None:
        return []
    has, name = dataset.schema or {}, f"{dataset.name}@{dataset.version}"
    return [
        Problem(
            f"/data/schema/{field}",
            f"the data set {name} has {_shown_columns(has.get(field))} here; leave the field out, or upload the file "
            "again with this schema",
        )
        for field, value in wanted.model_dump(exclude_none=True).items()
        if (has.get(field) or []) != value
    ]


def _shown_columns(value: str | list[str] | None) -> str:
    return "nothing" if not value else value if isinstance(value, str) else ", ".join(value)


def delete(session: Session, id_or_name: str, *, tenant: str | None = None) -> Dataset:
    """Delete one version. Its row stays for the jobs that used it, hidden, so that a version number never means another
    content; the file is swept away later unless another name has the same content.

    Raises:
        DatasetNotFound: there is none, or it is another tenant's.
        DatasetInUse: a job that has not ended uses it.
    """
    found = get(session, id_or_name, tenant=tenant)
    # A job that is being created holds a key-share lock on this row: wait for it, then see the job.
    session.execute(select(Dataset.id).where(Dataset.id == found.id).with_for_update())
    users = session.scalar(
        select(func.count()).select_from(Job).where(Job.dataset_id == found.id, Job.status.not_in(TERMINAL))
    )
    if users:
        jobs = "1 job that has not ended uses" if users == 1 else f"{users} jobs that have not ended use"
        raise DatasetInUse(f"{jobs} the data set {found.name}@{found.version}; cancel or wait, then delete it.")
    found.deleted_at = session.scalar(select(now()))
    session.flush()
    return found


def sweep(session: Session, storage: Storage) -> int:
    """Delete the files of data sets that no name has any more, and uploads that were broken off; returns how many."""
    return len(storage.sweep(hashes(session).__contains__))


def hashes(session: Session) -> frozenset[str]:
    """Of all data sets that have a name, to the end of the transaction: none is added meanwhile."""
    db.lock(session, "datasets")
    return frozenset(session.scalars(select(Dataset.sha256).where(Dataset.deleted_at.is_(None))))


def check_name(name: str) -> None:
    """Refuse what is no name of a data set.

    Raises:
        BadRequest: it is not.
    """
    if not _NAME.fullmatch(name) or _ID.fullmatch(name):
        allowed = "1 to 100 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit"
        raise BadRequest(f"{_shown(name)} is no name for a data set.", [Problem("/name", f"must be {allowed}")])


def _checked(storage: Storage, upload: Upload, columns: Columns, limits: Limits) -> Checked:
    try:
        return CHECKER.check(replace(upload, schema=columns.schema), storage.room, limits)
    except DatasetInvalid as error:
        if columns.version is None or not error.problems:
            raise
        hint = f"Its columns are those of {columns.version}: name them again if they have changed."
        raise DatasetInvalid(f"{error.message} {hint}", error.problems) from None


def _insert(session: Session, tenant: str, name: str, upload: Received) -> Dataset:
    checked = upload.checked
    newest = session.scalar(select(func.max(Dataset.version)).where(Dataset.tenant == tenant, Dataset.name == name))
    insert = sa.insert(Dataset).values(
        id=new_id("ds"),
        tenant=tenant,
        name=name,
        version=(newest or 0) + 1,
        sha256=upload.incoming.sha256,
        bytes=upload.incoming.bytes,
        format=checked.format,
        source_sha256=None if upload.source is upload.incoming else upload.source.sha256,
        source_bytes=None if upload.source is upload.incoming else upload.source.bytes,
        schema=checked.schema,
        report=checked.report,
        summary=checked.content.model_dump(mode="json"),
        suspicions=[suspicion.document() for suspicion in checked.suspected],
        created_at=now(),
    )
    return session.scalars(insert.returning(Dataset)).one()


def _visible(tenant: str | None) -> sa.Select[Dataset]:
    there = select(Dataset).where(Dataset.deleted_at.is_(None))
    return there if tenant is None else there.where(Dataset.tenant == tenant)


def _matching(id_or_name: str) -> tuple[sa.ColumnElement[bool], ...]:
    if _ID.fullmatch(id_or_name):
        return (Dataset.id == id_or_name,)
    name, _, version = id_or_name.partition("@")
    if not _NAME.fullmatch(name):
        return (sa.false(),)
    if version in {"", "latest"} and id_or_name != f"{name}@":
        return (Dataset.name == name,)
    return (Dataset.name == name, Dataset.version == int(version)) if _VERSION.fullmatch(version) else (sa.false(),)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}…")


def page(
    session: Session,
    *,
    name: str | None = None,
    limit: int = 20,
    after: str | None = None,
    tenant: str | None = None,
) -> tuple[Sequence[Dataset], bool]:
    """Data sets older than `after`, newest first, and whether there are more."""
    query = _visible(tenant)
    if name is not None:
        query = query.where(Dataset.name == name)
    return paging.newest(session, query, Dataset.id, after=after, limit=limit)
