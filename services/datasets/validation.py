"""Checks that take longer than their sender waits: the scheduler does them, and writes what it found.

    validating -> ready         the data set has its summary, its schema and its file, as after a short check
    validating -> rejected      the row says what is wrong, and has no file
    validating -> deleted       by a client; or because another version of the name has this content (`same_as`)

Until then the row has the uploaded file as it came. Whoever checks it holds a lease in the database. The number of the
attempt is the fencing token: only the newest one may write the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, aliased

from services.access import tenants
from services.blobs import transfers
from services.blobs.storage import Storage
from services.datasets import versions
from services.datasets.receiving import Columns, Received
from services.db import now, rowcount
from services.errors import DatasetInvalid, Invalid, LeaseLost, LooplineError
from services.orm import Dataset, DatasetCheck
from services.states import DatasetStatus

MOST_LOST = 3
"""After so many attempts that ended without a word, a file is rejected: it may be what ends them."""


@dataclass(frozen=True)
class Claim:
    """The right to check a data set, and what the check needs."""

    dataset_id: str
    tenant: str
    name: str
    version: int
    attempt: int
    lost: int
    sha256: str
    """Of the uploaded file."""
    bytes: int
    file_name: str
    columns: Columns

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}"


def any_due(session: Session) -> bool:
    """Whether a check waits for somebody who does it."""
    return session.scalar(select(DatasetCheck.dataset_id).where(_is_due()).limit(1)) is not None


def claim(session: Session, lease_seconds: float) -> Claim | None:
    """Take the oldest check that nobody does, rather one of a tenant for which none is under way. None: there is none.

    A lease that has expired counts as a lost attempt.
    """
    other, theirs = aliased(DatasetCheck), aliased(Dataset)
    under_way = select(other.dataset_id).join(theirs).where(other.lease_until >= now(), theirs.tenant == Dataset.tenant)
    due = select(DatasetCheck, Dataset).join(Dataset).where(_is_due())
    oldest = due.order_by(under_way.exists(), DatasetCheck.dataset_id).limit(1)
    pair = session.execute(oldest.with_for_update(skip_locked=True, of=DatasetCheck)).one_or_none()
    if pair is None:
        return None
    check, row = pair
    lost = check.lost + (check.lease_until is not None)
    values = {"attempt": check.attempt + 1, "lost": lost, "lease_until": now() + lease_seconds}
    claimed = Claim(
        dataset_id=row.id,
        tenant=row.tenant,
        name=row.name,
        version=row.version,
        attempt=check.attempt + 1,
        lost=lost,
        sha256=row.sha256,
        bytes=row.bytes,
        file_name=check.file_name,
        columns=Columns(check.schema, check.schema_of),
    )
    session.execute(sa.update(DatasetCheck).where(DatasetCheck.dataset_id == row.id).values(values))
    return claimed


def renew(session: Session, held: Claim, lease_seconds: float) -> bool:
    """Keep the claim for so long; False if it was given back or taken over, or the data set was deleted."""
    return _write(session, held, DatasetCheck.lease_until.is_not(None), lease_until=now() + lease_seconds)


def release(session: Session, held: Claim, *, pause_seconds: float = 0.0) -> bool:
    """Give a check back that was not done, to be tried again after a pause. False: as `renew`."""
    return _write(session, held, lease_until=None, not_before=now() + pause_seconds)


def finish(session: Session, held: Claim, upload: Received) -> Dataset:
    """Make the data set ready, with what was found in it. If another version of its name has this content, that one is
    the answer, and this one is deleted.

    Raises:
        LeaseLost: the check was taken over, or the data set was deleted.
        QuotaExceeded: the tenant has as many bytes as it may.
        StorageUnavailable: the object store cannot answer now.
    """
    assert upload.checked is not None, "only a check that has ended is finished"  # noqa: S101
    versions.lock(session)
    row = _ended(session, held)
    if (known := versions.with_content(session, held.tenant, held.name, upload.incoming.sha256)) is not None:
        transfers.keep_dataset(upload.storage, upload.incoming)
        return _updated(session, row.id, {"deleted_at": now(), "same_as": known.id}, known.id)
    if (more := upload.incoming.bytes - row.bytes) > 0:
        tenants.check_bytes(session, held.tenant, more)
    transfers.keep_dataset(upload.storage, upload.incoming)
    return _updated(session, row.id, versions.ready(upload, upload.checked))


def reject(session: Session, held: Claim, error: LooplineError) -> Dataset:
    """Say what is wrong with the data set.

    Raises:
        LeaseLost: the check was taken over, or the data set was deleted.
    """
    row = _ended(session, held)
    problems = error.problems if isinstance(error, Invalid) else ()
    told = [{"pointer": problem.pointer, "detail": problem.detail} for problem in problems]
    return _updated(session, row.id, {"status": DatasetStatus.REJECTED, "message": error.message, "problems": told})


def given_up() -> DatasetInvalid:
    """Why a data set is rejected whose check was lost too often."""
    return DatasetInvalid(
        f"The file could not be checked: {MOST_LOST} times the service ended while it was read. Upload a part of it, "
        "or ask who runs the service to look at the scheduler's log."
    )


def discard_upload(session: Session, storage: Storage, held: Claim) -> None:
    """Delete the uploaded file of a check that has ended, unless a data set has it."""
    if not versions.is_wanted(session, held.sha256):
        transfers.remove_dataset(storage, held.sha256)


def oldest_seconds(session: Session) -> float:
    """For how many seconds the oldest data set whose check has not ended waits for that; 0 if there is none."""
    age = now() - func.min(Dataset.created_at)
    return max(session.scalar(select(age).select_from(DatasetCheck).join(Dataset)) or 0.0, 0.0)


def _is_due() -> ColumnElement[bool]:
    waits = sa.and_(DatasetCheck.lease_until.is_(None), DatasetCheck.not_before <= now())
    return sa.or_(waits, DatasetCheck.lease_until < now())


def _write(session: Session, held: Claim, *only_if: ColumnElement[bool], **values: Any) -> bool:
    own = (DatasetCheck.dataset_id == held.dataset_id, DatasetCheck.attempt == held.attempt)
    return rowcount(session.execute(sa.update(DatasetCheck).where(*own, *only_if).values(values))) > 0


def _ended(session: Session, held: Claim) -> Dataset:
    """The data set of a check that ends in this transaction. The order of locks is that of `versions.delete`."""
    row = session.scalar(select(Dataset).where(Dataset.id == held.dataset_id).with_for_update())
    own = (DatasetCheck.dataset_id == held.dataset_id, DatasetCheck.attempt == held.attempt)
    if row is None or not rowcount(session.execute(sa.delete(DatasetCheck).where(*own))):
        raise LeaseLost(f"The check of {held.reference} was taken over, or the data set was deleted.")
    return row


def _updated(session: Session, dataset_id: str, values: dict[str, Any], shown: str | None = None) -> Dataset:
    """The data set, or the one to show instead of it, after a change of its row."""
    session.execute(sa.update(Dataset).where(Dataset.id == dataset_id).values(values))
    return session.get_one(Dataset, shown or dataset_id, populate_existing=True)
