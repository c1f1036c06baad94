"""Which model answers a request: the job behind an id, a version or an alias, looked up in one query."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, func, select

from services import db
from services.db import Query
from services.errors import JobNotFound, ModelNotFound, ModelNotReady
from services.models import registry
from services.models.registry import LATEST
from services.orm import Job, ModelAlias, ModelVersion
from services.states import TERMINAL, Kind
from services.text import clean, is_plain

_J, _V, _A = Job.__table__.c, ModelVersion.__table__.c, ModelAlias.__table__.c
VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Source:
    """A job whose model can answer."""

    job_id: str
    status: str
    files_text: str
    """The records of its files, as JSON."""
    name: str | None = None
    version: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Of the model: the files of a key never change."""
        return self.job_id, self.files_text

    @property
    def files(self) -> list[dict[str, Any]]:
        """`{"name", "bytes", "sha256"}` each; in an object store also `object`."""
        found: list[dict[str, Any]] = orjson.loads(self.files_text)
        return found


def of_job(database: Engine | Connection, job_id: str, *, tenant: str) -> Source:
    """The model of a job.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
        ModelNotReady: it has no model, or none yet.
    """
    rows = _of_job().rows(database, job_id=job_id)
    if not rows or rows[0].tenant != tenant:
        raise JobNotFound(f"There is no job {clean(job_id, 100)}.")
    return _source(rows[0])


def of_version(engine: Engine, name: str, ref: str, *, tenant: str) -> Source:
    """The version of a model that a number, an alias or `latest` names now.

    Raises:
        ModelNotFound: there is none, or it is another tenant's.
    """
    if (found := _found(engine, name, ref, tenant)) is None:
        with db.read_scope(engine) as session:  # which says what is missing
            version = registry.get(session, f"{name}@{ref}", tenant=tenant)
        found = _found(engine, name, str(version.version), tenant)
    if found is None:
        raise ModelNotFound(f"The version {clean(ref, 100)!r} of the model {name} was deleted.")
    return _source(found, name, found.version)


def _found(engine: Engine, name: str, ref: str, tenant: str) -> Any:
    if not is_plain(name) or not is_plain(ref):
        return None
    given: dict[str, Any] = {"tenant": tenant, "name": name}
    if by_number := VERSION.fullmatch(ref):
        given["version"] = int(ref)
    elif ref != LATEST:
        given["alias"] = ref
    return next(
        iter(_of_version("number" if by_number else "latest" if ref == LATEST else "alias").rows(engine, **given)), None
    )


def _source(row: Any, name: str | None = None, version: int | None = None) -> Source:
    if row.kind != Kind.TRAIN:
        raise ModelNotReady(f"The job {row.id} has answers and no model: name a job that trained one.")
    if row.status not in TERMINAL:
        raise ModelNotReady(f"The job {row.id} is {row.status}: it has a model when it has succeeded.")
    if row.files is None or row.files in ("[]", "null"):
        raise ModelNotReady(f"The job {row.id} has no model: it ended as {row.status}.")
    return Source(row.id, row.status, row.files, name, version)


_COLUMNS = (_J.id, _J.tenant, _J.kind, _J.status, sa.cast(_J.files, sa.Text).label("files"))


@cache
def _of_job() -> Query:
    return Query(select(*_COLUMNS).where(_J.id == sa.bindparam("job_id")))


@cache
def _of_version(by: str) -> Query:
    of = (_V.tenant == sa.bindparam("tenant"), _V.name == sa.bindparam("name"))
    query = select(*_COLUMNS, _V.version).join(ModelVersion.__table__, _V.job_id == _J.id).where(*of)
    if by == "number":
        return Query(query.where(_V.version == sa.bindparam("version", type_=sa.Integer())))
    if by == "alias":
        which = select(_A.version).where(
            _A.tenant == sa.bindparam("tenant"), _A.name == sa.bindparam("name"), _A.alias == sa.bindparam("alias")
        )
    else:
        which = select(func.max(_V.version)).where(*of)
    return Query(query.where(_V.version == which.scalar_subquery()))
