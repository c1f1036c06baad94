"""The registry: models by name, their versions, and aliases that point at them.

A version is the result of one job that succeeded. It is found as `vowels@3`, `vowels@production`, `vowels@latest` or
`vowels`, the newest. It holds no copy of anything: what it was trained from and with stands in its job, which cannot
be deleted while the version is there.

Whoever changes a model holds its row to the end of the transaction, so of two who promote at once the second one sees
what the first one did, and the history has both in order.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from services import paging
from services.access import tenants
from services.db import now
from services.errors import (
    AliasMoved,
    BadRequest,
    JobNotFound,
    JobNotSucceeded,
    ModelInUse,
    ModelNotFinite,
    ModelNotFound,
    NothingBefore,
    Problem,
)
from services.orm import Job, Model, ModelAlias, ModelMove, ModelVersion
from services.states import Kind, Status
from services.text import clean
from services.webhooks import news
from services.webhooks.news import News

LATEST, PRODUCTION = "latest", "production"
MOST_TEXT = 1000
"""Characters of a note or a reason."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_ALLOWED = "1 to 100 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit"
_ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,62}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


class Registered(NamedTuple):
    """A version, and whether it is a new one."""

    version: ModelVersion
    created: bool


class Moved(NamedTuple):
    """The version that an alias points at, and whether it did not before."""

    version: ModelVersion
    changed: bool


def register(
    session: Session,
    name: str,
    job_id: str,
    *,
    note: str | None = None,
    by: str | None = None,
    tenant: str = tenants.DEFAULT,
) -> Registered:
    """Make the result of a job the next version of the model `name`; a job that is one already stays that version.

    Raises:
        BadRequest: the name is not one.
        JobNotFound: there is none, or it is another tenant's.
        JobNotSucceeded: it has no model.
        ModelNotFinite: a loss of its model is not finite.
    """
    _check("model", "/path/model", name, _NAME, _ALLOWED)
    _lock_result(session, job_id, tenant)
    return register_result(session, name, job_id, note=note, by=by, tenant=tenant)


def register_result(
    session: Session, name: str, job_id: str, *, note: str | None = None, by: str | None = None, tenant: str
) -> Registered:
    """As `register`, for a job that succeeds in this transaction."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    row = {"tenant": tenant, "name": name, "newest_version": 0}
    session.execute(insert(Model).values(row).on_conflict_do_nothing())
    model = _locked(session, name, tenant)
    known = session.scalar(select(ModelVersion).where(*_of(name, tenant), ModelVersion.job_id == job_id))
    if known is not None:
        return Registered(known, created=False)
    model.newest_version += 1
    session.flush()
    values = {"tenant": tenant, "name": name, "version": model.newest_version, "job_id": job_id}
    made = sa.insert(ModelVersion).values(**values, note=_text(note), created_by=by, created_at=now())
    return Registered(session.scalars(made.returning(ModelVersion)).one(), created=True)


def lock(session: Session, name: str, *, tenant: str) -> None:
    """Keep the model's aliases where they are to the end of the transaction.

    Raises:
        ModelNotFound: there is no such model.
    """
    _locked(session, name, tenant)


def get(session: Session, reference: str, *, tenant: str = tenants.DEFAULT) -> ModelVersion:
    """The version that `vowels@3`, `vowels@production`, `vowels@latest` or `vowels` names.

    Raises:
        ModelNotFound: there is none, or it is another tenant's.
    """
    name, at, ref = reference.partition("@")
    newest = _newest(session, name, tenant) if _NAME.fullmatch(name) else None
    if newest is None:
        raise ModelNotFound(
            f"There is no model {clean(name, 100)!r}; register a job that has succeeded under this name."
        )
    if ref == LATEST or not at:
        return newest
    which = int(ref) if _VERSION.fullmatch(ref) else aliases(session, [name], tenant=tenant)[name].get(ref)
    found = None if which is None else session.get(ModelVersion, (tenant, name, which), populate_existing=True)
    if found is None:
        raise ModelNotFound(_missing(session, newest, ref))
    return found


def versions(
    session: Session, name: str, *, limit: int = 20, after: int | None = None, tenant: str = tenants.DEFAULT
) -> tuple[Sequence[ModelVersion], bool]:
    """Versions of a model older than `after`, newest first, and whether there are more.

    Raises:
        ModelNotFound: there is no such model.
    """
    get(session, name, tenant=tenant)
    query = select(ModelVersion).where(*_of(name, tenant))
    return paging.newest(session, query, ModelVersion.version, after=after, limit=limit)


def aliases(
    session: Session, names: Collection[str], *, tenant: str = tenants.DEFAULT
) -> Mapping[str, Mapping[str, int]]:
    """By model, each of its aliases and the version that it points at."""
    query = select(ModelAlias).where(ModelAlias.tenant == tenant, ModelAlias.name.in_(names)).order_by(ModelAlias.alias)
    found: dict[str, dict[str, int]] = {name: {} for name in names}
    for row in session.scalars(query, execution_options={"populate_existing": True}):
        found[row.name][row.alias] = row.version
    return found


def promote(
    session: Session,
    name: str,
    ref: str,
    *,
    alias: str = PRODUCTION,
    reason: str | None = None,
    expected: int | None = None,
    by: str | None = None,
    tenant: str = tenants.DEFAULT,
) -> Moved:
    """Let the alias point at the version `ref` (a number, an alias or `latest`); where it does so already, nothing
    changes. With `expected` only if it points at that version now, or at none for 0.

    Raises:
        BadRequest: the alias is no name for one.
        ModelNotFound: there is no such model or version.
        AliasMoved: the alias points elsewhere than expected.
        ModelNotFinite: a loss of that version is not finite.
    """
    allowed = f"1 to 63 of a-z, 0-9, dot, dash and underscore, beginning with a letter, and not `{LATEST}`"
    _check("alias", "/path/alias", "" if alias == LATEST else alias, _ALIAS, allowed)
    _locked(session, name, tenant)
    version = get(session, f"{name}@{ref}", tenant=tenant)
    standing = _current(session, name, alias, tenant)
    if standing is not None and standing.version == version.version:
        return Moved(version, changed=False)  # a request that is sent twice is no conflict
    _check_expected(name, alias, standing, expected)
    _check_finite(session, version.job_id)
    before = None if standing is None else (standing.version, standing.move_id)
    move_id = _record(session, version, alias, "promote", before, version.version, reason, by)
    if standing is None:
        row = {"tenant": tenant, "name": name, "alias": alias, "version": version.version, "move_id": move_id}
        session.execute(sa.insert(ModelAlias).values(row))
    else:
        standing.version, standing.move_id = version.version, move_id
        session.flush()
    return Moved(version, changed=True)


def rollback(
    session: Session,
    name: str,
    *,
    alias: str = PRODUCTION,
    reason: str | None = None,
    expected: int | None = None,
    by: str | None = None,
    tenant: str = tenants.DEFAULT,
) -> ModelVersion:
    """Let the alias point at the version that it was promoted from; once more, and it goes one further back. Versions
    that were deleted meanwhile are passed over. With `expected` only if it points at that version now.

    Raises:
        ModelNotFound: there is no such model or alias.
        AliasMoved: the alias points elsewhere than expected.
        NothingBefore: it pointed at no other version before.
    """
    _locked(session, name, tenant)
    standing = _current_or_raise(session, name, alias, tenant)
    _check_expected(name, alias, standing, expected)
    move = session.get_one(ModelMove, standing.move_id)
    while move.before_id is not None:
        move = session.get_one(ModelMove, move.before_id)
        found = session.get(ModelVersion, (tenant, name, move.to_version))
        if found is not None and found.version != standing.version:
            before = (standing.version, None)  # a rollback is never gone back to
            _record(session, found, alias, "rollback", before, found.version, reason, by)
            standing.version, standing.move_id = found.version, move.id
            session.flush()
            return found
    raise NothingBefore(
        f"{name}@{alias} is version {standing.version} and was no other before that is still there; "
        "promote the version that you want."
    )


def demote(
    session: Session,
    name: str,
    alias: str,
    *,
    reason: str | None = None,
    by: str | None = None,
    tenant: str = tenants.DEFAULT,
) -> ModelVersion:
    """Take the alias away from the version that it points at, which stays; its history stays too.

    Raises:
        ModelNotFound: there is no such model or alias.
    """
    _locked(session, name, tenant)
    standing = _current_or_raise(session, name, alias, tenant)
    version = session.get_one(ModelVersion, (tenant, name, standing.version))
    _record(session, version, alias, "demote", (standing.version, None), None, reason, by)
    session.delete(standing)
    session.flush()
    return version


def history(
    session: Session, name: str, *, limit: int = 100, after: int | None = None, tenant: str = tenants.DEFAULT
) -> tuple[Sequence[ModelMove], bool]:
    """Moves of the model's aliases older than `after`, newest first, and whether there are more.

    Raises:
        ModelNotFound: there is no such model.
    """
    get(session, name, tenant=tenant)
    moves = select(ModelMove).where(ModelMove.tenant == tenant, ModelMove.name == name)
    return paging.newest(session, moves, ModelMove.id, after=after, limit=limit)


def delete(session: Session, reference: str, *, tenant: str = tenants.DEFAULT) -> ModelVersion:
    """Delete one version, said by its number; its job stays, and may be deleted then. The number is never used again.

    Raises:
        BadRequest: it is not said by its number: a request that is sent twice must not delete two.
        ModelNotFound: there is none.
        ModelInUse: an alias points at it.
    """
    name, _, ref = reference.partition("@")
    _locked(session, name, tenant)
    found = get(session, reference, tenant=tenant)
    if not _VERSION.fullmatch(ref):
        said = f"say which version by its number, such as {found.name}@{found.version}"
        raise BadRequest("It is not clear which version to delete.", [Problem("/path/ref", said)])
    standing = [
        alias for alias, version in aliases(session, [name], tenant=tenant)[name].items() if version == int(ref)
    ]
    if standing:
        many = f"aliases {', '.join(standing)} point" if len(standing) > 1 else f"alias {standing[0]} points"
        raise ModelInUse(f"The {many} at {reference}: promote another version or demote this one, then delete it.")
    session.delete(found)
    session.flush()
    return found


def _lock_result(session: Session, job_id: str, tenant: str) -> None:
    """Keep a job that succeeded from being deleted before this transaction ends (`jobs.delete` waits, and sees the
    version)."""
    query = select(Job.status, Job.kind).where(Job.id == clean(job_id, 100), Job.tenant == tenant)
    found = session.execute(query.with_for_update(read=True, key_share=True)).one_or_none()
    if found is None:
        raise JobNotFound(f"There is no job {clean(job_id, 100)}.")
    status, kind = found
    if kind != Kind.TRAIN:
        raise JobNotSucceeded(f"The job {job_id} predicts, so it has answers and no model: register one that trained.")
    if status != Status.SUCCEEDED:
        raise JobNotSucceeded(
            f"The job {job_id} is {status}; only one that has succeeded has a model to register. Best weights of a job "
            "that was cut short are not judged on its test samples: submit it with fewer epochs or a higher limit."
        )
    _check_finite(session, job_id)


def _check_finite(session: Session, job_id: str) -> None:
    """Refuse a model whose loss is not finite: versions before this was looked at let such jobs succeed."""
    metrics = (session.scalar(select(Job.result).where(Job.id == job_id)) or {}).get("metrics", {})
    if lost := [name for name, value in metrics.items() if name.endswith("_loss") and value is None]:
        raise ModelNotFinite(
            f"The {lost[0].replace('_', ' ')} of the job {job_id} is no finite number, so the answers of its model are "
            "of no use. Train it again, with a lower optimizer.lr or a lower max_grad_norm."
        )


def _locked(session: Session, name: str, tenant: str) -> Model:
    """The model's row, held against others that change it."""
    query = select(Model).where(Model.tenant == tenant, Model.name == clean(name, 100)).with_for_update()
    model = session.scalar(query, execution_options={"populate_existing": True})
    if model is None:
        raise ModelNotFound(
            f"There is no model {clean(name, 100)!r}; register a job that has succeeded under this name."
        )
    return model


def _of(name: str, tenant: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (ModelVersion.tenant == tenant, ModelVersion.name == name)


def _newest(session: Session, name: str, tenant: str) -> ModelVersion | None:
    return session.scalar(select(ModelVersion).where(*_of(name, tenant)).order_by(ModelVersion.version.desc()).limit(1))


def _missing(session: Session, newest: ModelVersion, ref: str) -> str:
    """The sentence about a version or an alias that a model has not."""
    name = newest.name
    if _VERSION.fullmatch(ref):
        return f"The model {name} has no version {ref}; its newest is {newest.version}."
    known = ", ".join(aliases(session, [name], tenant=newest.tenant)[name]) or "none yet"
    newer = f"You can name a version instead, by its number (1 to {newest.version}) or as {name}@latest."
    return f"The model {name} has no alias {clean(ref, 100)!r}; it has {known}. {newer}"


def _current(session: Session, name: str, alias: str, tenant: str) -> ModelAlias | None:
    return session.get(ModelAlias, (tenant, name, clean(alias, 100)), populate_existing=True)


def _current_or_raise(session: Session, name: str, alias: str, tenant: str) -> ModelAlias:
    standing = _current(session, name, alias, tenant)
    if standing is None:
        newest = get(session, name, tenant=tenant)
        raise ModelNotFound(_missing(session, newest, alias))
    return standing


def _check_expected(name: str, alias: str, standing: ModelAlias | None, expected: int | None) -> None:
    stands = 0 if standing is None else standing.version
    if expected is None or expected == stands:
        return
    there = f"is version {stands}" if stands else "does not exist"
    wanted = f"to be version {expected}" if expected else "not to exist"
    raise AliasMoved(f"{name}@{alias} {there} now, and was expected {wanted}: look at it again, then decide anew.")


def _record(
    session: Session,
    version: ModelVersion,
    alias: str,
    action: str,
    before: tuple[int, int | None] | None,
    to_version: int | None,
    reason: str | None,
    by: str | None,
) -> int:
    """Write a move down and tell it; `before` is the version that the alias pointed at, and the promotion that had
    brought it."""
    from_version, before_id = before or (None, None)
    insert = sa.insert(ModelMove).values(
        at=now(),
        tenant=version.tenant,
        name=version.name,
        alias=alias,
        action=action,
        from_version=from_version,
        to_version=to_version,
        by=by,
        reason=_text(reason),
        before_id=before_id,
    )
    move = session.scalars(insert.returning(ModelMove)).one()
    news.announce(session, "model.promoted", version.tenant, lambda: _news(session, version, move))
    return move.id


def _news(session: Session, version: ModelVersion, move: ModelMove) -> News:
    data = {
        "model": move.name,
        **{key: getattr(move, key) for key in ("alias", "from_version", "to_version", "action", "reason")},
        "job_id": version.job_id,
        "links": {"self": f"/v1/models/{move.name}"},
    }
    tags = session.scalars(select(Job.tags).where(Job.id == version.job_id)).all()
    return News(move.at, data, tags=tags, job_id=version.job_id)


def _check(what: str, pointer: str, name: str, pattern: re.Pattern[str], allowed: str) -> None:
    if not pattern.fullmatch(name):
        raise BadRequest(
            f"This is no name for a{'n' if what == 'alias' else ''} {what}.", [Problem(pointer, f"must be {allowed}")]
        )


def _text(given: str | None) -> str | None:
    return None if given is None else clean(given, MOST_TEXT)


def page(
    session: Session, *, limit: int = 20, after: str | None = None, tenant: str = tenants.DEFAULT
) -> tuple[Sequence[ModelVersion], bool]:
    """The newest version of each model, by name from after `after` on, and whether there are more."""
    whose = select(ModelVersion.name, func.max(ModelVersion.version).label("version"))
    each = whose.where(ModelVersion.tenant == tenant).group_by(ModelVersion.name)
    if after is not None:
        each = each.where(ModelVersion.name > after)
    newest = each.order_by(ModelVersion.name).limit(paging.asked(limit)).subquery()
    those = sa.and_(ModelVersion.name == newest.c.name, ModelVersion.version == newest.c.version)
    query = select(ModelVersion).join(newest, those).where(ModelVersion.tenant == tenant).order_by(ModelVersion.name)
    return paging.cut(session.scalars(query).all(), limit)
