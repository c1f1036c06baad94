"""Data sets: immutable versions of uploaded sequences, named by content.

A data set is found by its id (`ds_...`), its name (the newest version that is ready), `name@3` or `name@latest`. The
same content under the same name is the same version; under another name it is another row and the same file.

A file whose check takes long becomes a version that is `validating`. `validation.py` says what comes of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from loopline.files import ending_of
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services import db, paging
from services.access import tenants
from services.blobs import transfers
from services.blobs.storage import Storage
from services.datasets.checking import Checked
from services.datasets.receiving import Columns, Received
from services.db import now
from services.errors import BadRequest, DatasetInUse, DatasetNotFound, Problem, QuotaExceeded
from services.orm import Dataset, DatasetCheck, Job, new_id
from services.states import TERMINAL, DatasetStatus
from services.training.files.summary import DatasetSummary
from services.training.spec import Spec, data_warnings
from services.training.spec.automatic import Choice

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_ID = re.compile(r"ds_[0-9a-hjkmnp-tv-z]{26}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
MOST_VALIDATING = 32
"""Data sets of one tenant whose check has not ended."""
NAMES_COMPARED = 200
"""Of the newest data sets, those among which a similar name is looked for."""
FORGET_SECONDS = 30 * 86400.0
"""After this time a rejected version is deleted."""


class Added(NamedTuple):
    """A data set, and whether it is a new one."""

    dataset: Dataset
    created: bool


def add(session: Session, upload: Received, *, name: str, tenant: str = tenants.DEFAULT) -> Added:
    """Keep what was received as the next version of `name`; content that `name` already has is not added again. An
    upload that was not checked becomes a version that is `validating`.

    What another tenant has is new all the same, and counts; only the file on disk is one.

    Raises:
        BadRequest: the name is not one.
        TenantNotFound: there is no such tenant.
        QuotaExceeded: the tenant has as many bytes, or unfinished checks, as it may.
        StorageUnavailable: the object store cannot answer now.
    """
    check_name(name)
    lock(session)
    known = with_content(session, tenant, name, upload.incoming.sha256, raw=upload.is_raw)
    is_unchecked = upload.checked is None and not upload.is_raw
    if known is None and is_unchecked:
        known = _under_check(session, tenant, name, upload)
    if known is None:
        tenants.check_bytes(session, tenant, upload.incoming.bytes)
        if is_unchecked:
            _check_validating(session, tenant)
    transfers.keep_dataset(upload.storage, upload.incoming)
    if known is not None:
        return Added(known, created=False)
    return Added(_insert(session, tenant, name, upload), created=True)


def lock(session: Session) -> None:
    """Hold the data sets to the end of the transaction: versions are numbered one by one, and no sweep may run between
    a row and its file."""
    db.lock(session, "datasets")


def with_content(session: Session, tenant: str, name: str, sha256: str, *, raw: bool = False) -> Dataset | None:
    """The version of a name that is ready, or `raw`, and has this content."""
    status = DatasetStatus.RAW if raw else DatasetStatus.READY
    same = (Dataset.name == name, Dataset.sha256 == sha256, Dataset.status == status)
    return session.scalar(_visible(tenant).where(*same).limit(1))


def get(session: Session, id_or_name: str, *, tenant: str | None = None, raw: bool = False) -> Dataset:
    """The data set with this id, name, `name@version` or `name@latest`. A name means its newest version that is ready
    (with `raw`: ready or raw), or if there is none, the newest. Without a tenant, which is for workers, give an id:
    names are each tenant's own.

    Raises:
        DatasetNotFound: there is none, it was deleted, or it is another tenant's.
    """
    usable = (DatasetStatus.READY, DatasetStatus.RAW) if raw else (DatasetStatus.READY,)
    matching = _visible(tenant).where(*_matching(id_or_name)).order_by(Dataset.version.desc()).limit(1)
    found = session.scalar(matching.where(Dataset.status.in_(usable))) or session.scalar(matching)
    if found is not None:
        return found
    if (other := _same_as(session, id_or_name, tenant)) is not None:
        return get(session, other, tenant=tenant, raw=raw)
    guess = similar(id_or_name, names(session, tenant=tenant)[0]) if tenant is not None else None
    raise DatasetNotFound(f"There is no data set {_shown(id_or_name)}{f'; did you mean {guess}?' if guess else '.'}")


def names(session: Session, *, tenant: str) -> tuple[Sequence[str], bool]:
    """The names of the tenant's newest data sets, each once, and whether there are more."""
    rows, more = page(session, limit=NAMES_COMPARED, tenant=tenant)
    return [*dict.fromkeys(row.name for row in rows)], more


def similar(name: str, known: Sequence[str]) -> str | None:
    """The name that may have been meant, if there is one."""
    bare = name.partition("@")[0][:100].lower()
    return next(iter(difflib.get_close_matches(bare, [each for each in known if each != bare], n=1)), None)


def columns_before(session: Session, name: str, *, tenant: str) -> Columns | None:
    """The columns of the newest version of a name that is ready, to read the next one with; None if there are none."""
    of_name = _visible(tenant).where(Dataset.name == name, Dataset.status == DatasetStatus.READY)
    newest = session.scalar(of_name.order_by(Dataset.version.desc()).limit(1))
    return None if newest is None or not newest.schema else Columns(newest.schema, f"{name}@{newest.version}")


def get_many(session: Session, ids: Sequence[str], *, tenant: str) -> Mapping[str, Dataset]:
    """By id, those that are there."""
    return {row.id: row for row in session.scalars(_visible(tenant).where(Dataset.id.in_(ids)))}


def summary(dataset: Dataset) -> DatasetSummary:
    """What a data set that is ready holds, to check a spec against."""
    return DatasetSummary.model_validate(dataset.summary)


def warnings(dataset: Dataset, spec: Spec | None = None, chosen: Collection[Choice] = ()) -> Sequence[str]:
    """What may have been meant otherwise, of a job with this spec; without one, of a job that leaves it at defaults.
    `chosen` is what of the spec was chosen for its data."""
    return data_warnings.for_job(dataset.suspicions or (), spec, summary(dataset), chosen)


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
        select(func.count())
        .select_from(Job)
        .where(Job.tenant == found.tenant, Job.dataset_id == found.id, Job.status.not_in(TERMINAL))
    )
    if users:
        jobs = "1 job that has not ended uses" if users == 1 else f"{users} jobs that have not ended use"
        raise DatasetInUse(f"{jobs} the data set {found.name}@{found.version}; cancel or wait, then delete it.")
    session.execute(sa.delete(DatasetCheck).where(DatasetCheck.dataset_id == found.id))  # who checks it sees that
    found.deleted_at = session.scalar(select(now()))
    session.flush()
    return found


def forget_rejected(session: Session, *, older_than_seconds: float = FORGET_SECONDS) -> int:
    """Delete rejected versions that are so old; returns how many."""
    old = (Dataset.status == DatasetStatus.REJECTED, Dataset.created_at < now() - older_than_seconds)
    forgotten = sa.update(Dataset).where(Dataset.deleted_at.is_(None), *old).values(deleted_at=now(), problems=None)
    return db.rowcount(session.execute(forgotten))


def sweep(session: Session, storage: Storage) -> int:
    """Delete the files of data sets that no name has any more, and uploads that were broken off; returns how many."""
    return len(storage.sweep(hashes(session).__contains__))


def hashes(session: Session) -> frozenset[str]:
    """Of all data sets that have a file, to the end of the transaction: none is added meanwhile."""
    lock(session)
    return frozenset(session.scalars(select(Dataset.sha256).where(*_HAS_FILE)))


def is_wanted(session: Session, sha256: str) -> bool:
    """Whether a data set has this file, to the end of the transaction."""
    lock(session)
    return session.scalar(select(Dataset.id).where(Dataset.sha256 == sha256, *_HAS_FILE).limit(1)) is not None


def check_name(name: str) -> None:
    """Refuse what is no name of a data set.

    Raises:
        BadRequest: it is not.
    """
    if not _NAME.fullmatch(name) or _ID.fullmatch(name):
        allowed = "1 to 100 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit"
        raise BadRequest(f"{_shown(name)} is no name for a data set.", [Problem("/name", f"must be {allowed}")])


def _insert(session: Session, tenant: str, name: str, upload: Received) -> Dataset:
    newest = session.scalar(select(func.max(Dataset.version)).where(Dataset.tenant == tenant, Dataset.name == name))
    values = {"id": new_id("ds"), "tenant": tenant, "name": name, "version": (newest or 0) + 1, "created_at": now()}
    values |= _unchecked(upload) if upload.checked is None else ready(upload, upload.checked)
    made = session.scalars(sa.insert(Dataset).values(values).returning(Dataset)).one()
    if upload.checked is None and not upload.is_raw:
        file_name, columns = upload.source.name, upload.source.columns
        wanted = {"file_name": file_name, "schema": {**columns.schema}, "schema_of": columns.version}
        session.execute(sa.insert(DatasetCheck).values(dataset_id=made.id, **wanted))
    return made


def ready(upload: Received, checked: Checked) -> dict[str, Any]:
    """What the row of a data set that is ready says of its file."""
    source = None if upload.source.file is upload.incoming else upload.source.file
    return {
        "status": DatasetStatus.READY,
        "sha256": upload.incoming.sha256,
        "bytes": upload.incoming.bytes,
        "format": checked.format,
        "source_sha256": None if source is None else source.sha256,
        "source_bytes": None if source is None else source.bytes,
        "schema": checked.schema,
        "report": checked.report,
        "summary": checked.content.model_dump(mode="json"),
        "suspicions": [suspicion.document() for suspicion in checked.suspected],
    }


def _unchecked(upload: Received) -> dict[str, Any]:
    held = {"sha256": upload.incoming.sha256, "bytes": upload.incoming.bytes}
    if upload.is_raw:
        return {
            "status": DatasetStatus.RAW,
            **held,
            "format": ending_of(upload.source.name).removeprefix("."),
            "summary": {},
        }
    return {"status": DatasetStatus.VALIDATING, **held, "format": "", "summary": {}}


def _under_check(session: Session, tenant: str, name: str, upload: Received) -> Dataset | None:
    """The version of a name that is being checked and has this file, of this name and with these columns: the same
    request came before."""
    same = (Dataset.name == name, Dataset.sha256 == upload.incoming.sha256, Dataset.status == DatasetStatus.VALIDATING)
    pairs = select(Dataset, DatasetCheck).join(DatasetCheck).where(Dataset.tenant == tenant, *same)
    for row, check in session.execute(pairs.where(Dataset.deleted_at.is_(None))):
        if (check.file_name, check.schema) == (upload.source.name, upload.source.columns.schema):
            return row
    return None


def _check_validating(session: Session, tenant: str) -> None:
    waiting = select(func.count()).select_from(DatasetCheck).join(Dataset).where(Dataset.tenant == tenant)
    if (session.scalar(waiting) or 0) >= MOST_VALIDATING:
        raise QuotaExceeded(
            f"The service is still checking {MOST_VALIDATING} data sets of the tenant {tenant}, which is the most at "
            "once: wait until one is ready, or delete one."
        )


def _same_as(session: Session, id_or_name: str, tenant: str | None) -> str | None:
    """The id of the version whose content was found in another upload, of which this is the id."""
    if not _ID.fullmatch(id_or_name):
        return None
    of_tenant = () if tenant is None else (Dataset.tenant == tenant,)
    return session.scalar(select(Dataset.same_as).where(Dataset.id == id_or_name, *of_tenant))


_HAS_FILE = (Dataset.deleted_at.is_(None), Dataset.status != DatasetStatus.REJECTED)


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
