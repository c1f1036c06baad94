"""Queries of jobs for clients: each list in one query, as plain rows.

No objects are made of these rows, and their JSON columns come as the text that the database holds, which answers pass
on as it is: it was validated when it came. So looking costs little, however large the table is (`make bench
ONLY=asking`); tests hold every query to an index.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, Engine

from services import paging
from services.db import Query, now
from services.errors import JobNotFound
from services.orm import Dataset, Epoch, Job, JobTag
from services.states import Status
from services.text import clean

MAX_POSITION = 1000
"""No more jobs are counted ahead of one that waits."""

_QUEUED: ColumnElement[str] = sa.literal_column("'queued'")  # a parameter would keep PostgreSQL from the partial index
_OTHER = Job.__table__.alias("other")
_JOBS = Job.__table__
_J = Job.__table__.c


Source = Engine | Connection
"""Where to ask: of an engine each query is a transaction of its own, of a connection it is part of that one's."""


class Page(NamedTuple):
    """Some jobs, whether there are more, and of those that wait how many are ahead of them."""

    rows: Sequence[Any]
    more: bool
    positions: Mapping[str, int]


def revision(source: Source, job_id: str, *, tenant: str | None = None) -> tuple[int, str]:
    """The job's revision and status: for an ETag or a long poll.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    row = _of(_revision().rows(source, job_id=job_id), job_id, tenant)
    return row.revision, row.status


def one(source: Source, job_id: str, *, tenant: str | None = None, full: bool = True) -> Any:
    """A job with the name of its data set, and its `position` while it waits. `full` is with its spec.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    return _of(_one(full).rows(source, job_id=job_id), job_id, tenant)


def position(row: Any) -> int | None:
    """How many runnable jobs of its tenant and queue are ahead of the job of `one`, at most 1,000 (0: it is next); None
    unless it is queued. Tenants take turns, so it may wait for one job of each other tenant besides each of these."""
    return None if row.position is None else min(row.position, MAX_POSITION)


def page(
    source: Source,
    *,
    tenant: str,
    limit: int,
    full: bool = False,
    kind: str | None = None,
    status: str | None = None,
    queue: str | None = None,
    tag: tuple[str, str] | None = None,
    name: str | None = None,
    dataset_id: str | None = None,
    trials: bool = True,
    after: str | None = None,
) -> Page:
    """Jobs older than the job `after`, newest first. `full` is with their specs; `tag` is a key and its value; without
    `trials` those of searches are left out."""
    wanted = {"kind": kind, "status": status, "queue": queue, "name": name, "dataset_id": dataset_id, "after": after}
    given = {key: value for key, value in wanted.items() if value is not None}
    parameters: dict[str, Any] = {"tenant": tenant, "limit": paging.asked(limit), **given}
    if tag is not None:
        parameters |= {"tag_key": tag[0], "tag_value": tag[1]}
    query = _page(source.dialect.name, frozenset(given), tagged=tag is not None, full=full, trials=trials)
    found = query.rows(source, **parameters)
    rows, more = paging.cut(found, limit)
    return Page(rows, more, _positions(source, rows))


def some(source: Source, job_ids: Collection[str], *, tenant: str) -> Page:
    """Those of these jobs that are there and the tenant's, without their specs, in any order."""
    name = source.dialect.name
    asked: Any = json.dumps(sorted(job_ids)) if name == "sqlite" else sorted(job_ids)
    rows = _some(name).rows(source, job_ids=asked, tenant=tenant)
    return Page(rows, False, _positions(source, rows))


def members(source: Source, batch_id: str) -> Sequence[Any]:
    """The jobs of a batch as its table has them, in the order in which they were asked for."""
    return _members().rows(source, batch_id=batch_id)


def epochs(source: Source, job_id: str, after: int, limit: int, fold: int | None = None) -> tuple[bytes, bool]:
    """The records of epochs after `after`, ascending, as JSON with commas between, and whether there are more. Of one
    fold, or of the whole job."""
    name = source.dialect.name
    if fold is None:
        [(records, count, last, newest)] = _epochs_within(name).tuples(
            source, job_id=job_id, after=after, last=after + limit
        )
        if count == limit or (newest or 0) <= after + limit:  # there is no gap, as there never is
            return records or b"", count > 0 and newest > last
    chosen = {} if fold is None else {"fold": fold}
    [(records, count, last)] = _epochs(name, fold is not None).tuples(
        source, job_id=job_id, after=after, limit=limit, **chosen
    )
    beyond = _epochs_after(fold is not None)
    more = count == limit and bool(beyond.tuples(source, job_id=job_id, after=last, **chosen))
    return records or b"", more


def _of(rows: Sequence[Any], job_id: str, tenant: str | None) -> Any:
    if not rows or (tenant is not None and rows[0].tenant != tenant):
        raise JobNotFound(f"There is no job {clean(job_id, 100)}.")
    return rows[0]


def _text(column: Any) -> ColumnElement[Any]:
    return sa.cast(column, sa.Text).label(column.name)


def _columns(*, full: bool) -> Sequence[ColumnElement[Any]]:
    plain = (
        "id tenant kind name status reason message batch_id search_id trial not_before queue priority turn dataset_id "
        "attempt failures lost epoch epochs step steps attempt_started_at progress_at lease_until cancel_requested "
        "pause_requested revision created_at started_at finished_at"
    )
    texts = [_J.tags, _J.warnings, _J.fold, _J.best, _J.result, *([_J.spec] if full else [])]
    # Where a run resumed counts for the estimate of its end only.
    trainer = sa.cast(sa.case((_J.status == sa.literal_column("'running'"), _J.trainer)), sa.Text).label("trainer")
    dataset = Dataset.__table__.c.name.label("dataset_name")
    asked_at = now().label("asked_at")  # leases are by the database's clock
    return [*(_J[name] for name in plain.split()), *map(_text, texts), trainer, dataset, asked_at]


def _with_dataset() -> sa.FromClause:
    return _JOBS.outerjoin(Dataset.__table__, Dataset.__table__.c.id == _J.dataset_id)


@cache
def _revision() -> Query:
    return Query(select(_J.revision, _J.status, _J.tenant).where(_J.id == sa.bindparam("job_id")))


@cache
def _one(full: bool) -> Query:
    place = sa.case((_J.status == _QUEUED, _ahead())).label("position")
    query = select(*_columns(full=full), place).select_from(_with_dataset())
    return Query(query.where(_J.id == sa.bindparam("job_id")))


@cache
def _page(dialect: str, given: frozenset[str], *, tagged: bool, full: bool, trials: bool) -> Query:
    columns = {each.name: each for each in (_J.kind, _J.status, _J.queue, _J.name, _J.dataset_id)}
    also = [columns[name] == sa.bindparam(name) for name in sorted(given & columns.keys())]
    also += [] if trials else [_J.trial.is_(None)]
    query = select(*_columns(full=full)).select_from(_with_dataset()).where(*also)
    limit = sa.bindparam("limit", type_=sa.Integer())
    if not tagged:
        query = query.where(_J.tenant == sa.bindparam("tenant"))
        if "after" in given:
            query = query.where(_J.id < sa.bindparam("after"))
        return Query(query.order_by(_J.id.desc()).limit(limit))
    tags = JobTag.__table__.c
    keys = {tags.tenant: "tenant", tags.key: "tag_key", tags.value: "tag_value"}
    chosen = select(tags.job_id).where(*(column == sa.bindparam(name) for column, name in keys.items()))
    if "after" in given:
        chosen = chosen.where(tags.job_id < sa.bindparam("after"))
    chosen = chosen.order_by(tags.job_id.desc())
    # Where the tags alone say which, PostgreSQL need not guess how many there are. (SQLite reads them in order anyway.)
    if not also and dialect == "postgresql":
        chosen = chosen.limit(limit)
    these = chosen.subquery("these")
    return Query(query.where(_J.id == these.c.job_id).order_by(these.c.job_id.desc()).limit(limit))


@cache
def _some(dialect: str) -> Query:
    query = select(*_columns(full=False)).select_from(_with_dataset()).where(_J.tenant == sa.bindparam("tenant"))
    if dialect == "sqlite":
        each = func.json_each(sa.bindparam("job_ids", type_=sa.Text())).table_valued("value")
        return Query(query.where(_J.id.in_(select(each.c.value))))
    return Query(query.where(_J.id == sa.any_(sa.bindparam("job_ids", type_=sa.ARRAY(sa.Text())))))


@cache
def _members() -> Query:
    plain = (_J.id, _J.name, _J.status, _J.reason, _J.message, _J.queue, _J.attempt, _J.epoch, _J.epochs)
    also = (_J.step, _J.steps, _J.started_at, _J.finished_at, _J.lease_until, now().label("asked_at"))
    columns = (*plain, *also, *map(_text, (_J.best, _J.result, _J.requested, _J.warnings)))
    return Query(select(*columns).where(_J.batch_id == sa.bindparam("batch_id")).order_by(_J.id))


@cache
def _epochs_within(dialect: str) -> Query:
    """The epochs after `after` up to `last`, and the newest of the job: one range of the primary key, and its end.

    One value for all of them, in bytes: thousands of rows take longer to receive, and a text has to be encoded.
    """
    e, job_id = Epoch.__table__.c, sa.bindparam("job_id", type_=sa.Text())
    these = (e.job_id == job_id, e.epoch > sa.bindparam("after"), e.epoch <= sa.bindparam("last"))
    other = Epoch.__table__.alias("other").c
    newest = select(func.max(other.epoch)).where(other.job_id == job_id).scalar_subquery()
    columns = (*_joined(dialect, _record(dialect), e.epoch), newest.label("newest"))
    return Query(select(*columns).where(*these), binary=True)


@cache
def _epochs(dialect: str, of_fold: bool) -> Query:
    """The first epochs after `after`, of one fold or where some are missing."""
    e = Epoch.__table__.c
    these = select(e.epoch, _record(dialect).label("record"))
    these = these.where(e.job_id == sa.bindparam("job_id"), e.epoch > sa.bindparam("after")).order_by(e.epoch)
    if of_fold:
        these = these.where(e.fold == sa.bindparam("fold"))
    some = these.limit(sa.bindparam("limit", type_=sa.Integer())).subquery()
    return Query(select(*_joined(dialect, some.c.record, some.c.epoch)).select_from(some), binary=True)


def _record(dialect: str) -> ColumnElement[str]:
    record = Epoch.__table__.c.record
    return sa.type_coerce(record, sa.Text) if dialect == "sqlite" else sa.cast(record, sa.Text)


def _joined(dialect: str, record: Any, epoch: Any) -> Sequence[ColumnElement[Any]]:
    """Records with commas between, how many they are, and the last epoch."""
    joined: ColumnElement[Any]
    if dialect == "sqlite":
        # Before 3.44 an aggregate has no ORDER BY. SQLite reads a range of a key, or a subquery with LIMIT, in order.
        joined = sa.cast(func.group_concat(record, sa.literal_column("','")), sa.LargeBinary)
    else:
        ordered: Any = postgresql.aggregate_order_by(sa.literal_column("','"), epoch)
        joined = func.convert_to(func.string_agg(record, ordered), sa.literal_column("'UTF8'"))
    return joined.label("records"), func.count().label("count"), func.max(epoch).label("last")


@cache
def _epochs_after(of_fold: bool) -> Query:
    e = Epoch.__table__.c
    after = (e.job_id == sa.bindparam("job_id"), e.epoch > sa.bindparam("after"))
    of = (e.fold == sa.bindparam("fold"),) if of_fold else ()
    return Query(select(e.epoch).where(*after, *of).limit(_number(1)))


def _line(job: Any, queue: Any, tenant: Any) -> tuple[ColumnElement[bool], ...]:
    at = select(now()).scalar_subquery()  # asked once, not of every row
    return (job.queue == queue, job.tenant == tenant, job.status == _QUEUED, job.not_before <= at)


def _ahead() -> ColumnElement[int]:
    """How many runnable jobs of its tenant and queue go before a job of the outer query, at most MAX_POSITION. Each of
    the counts is one range of the index that claims read."""
    line = _line(_OTHER.c, _J.queue, _J.tenant)
    higher, sooner, older = (_counted(*line, *which) for which in _ahead_of(_OTHER.c))
    return higher + sooner + older


def _ahead_of(other: Any) -> Sequence[tuple[ColumnElement[bool], ...]]:
    """Three conditions, one of which holds for each job that goes before a job of its queue and tenant."""
    same = other.priority == _J.priority
    return (
        (other.priority > _J.priority,),
        (same, other.turn < _J.turn),
        (same, other.turn == _J.turn, other.id < _J.id),
    )


def _counted(*which: ColumnElement[bool]) -> ColumnElement[int]:
    some: sa.Select[Any] = (
        select(sa.literal_column("1")).select_from(_OTHER).where(*which).limit(_number(MAX_POSITION)).correlate(_JOBS)
    )
    return select(func.count()).select_from(some.subquery()).scalar_subquery()


def _positions(source: Source, rows: Sequence[Any]) -> Mapping[str, int]:
    """Of those that wait how many are ahead, in two queries a queue at most."""
    waiting = [row for row in rows if row.status == Status.QUEUED]
    if not waiting:
        return {}
    places: dict[str, int] = {}
    for queue in sorted({row.queue for row in waiting}):
        ours = {row.id: (-row.priority, row.turn, row.id) for row in waiting if row.queue == queue}
        [last] = _last_counted().tuples(source, queue=queue, tenant=waiting[0].tenant) or [()]
        near = [key for key in ours.values() if not last or key <= tuple(last)]
        ahead: Sequence[Any] = ()
        if near:  # no job behind the last of these is read
            ahead = sorted(_those_ahead().tuples(source, job_id=max(near)[-1]))
        places |= {job_id: bisect_left(ahead, key) if key in near else MAX_POSITION for job_id, key in ours.items()}
    return {job_id: min(place, MAX_POSITION) for job_id, place in places.items()}


@cache
def _last_counted() -> Query:
    """The job of a queue with 999 runnable jobs ahead of it. No row is read but those of the index."""
    line = _line(_OTHER.c, sa.bindparam("queue"), sa.bindparam("tenant"))
    order = (_OTHER.c.priority.desc(), _OTHER.c.turn, _OTHER.c.id)
    query = select(*_key()).where(*line).order_by(*order)
    return Query(query.limit(_number(1)).offset(_number(MAX_POSITION - 1)))


@cache
def _those_ahead() -> Query:
    """The runnable jobs ahead of a job, in any order: three ranges of the index.

    The database takes the bounds from the job's row. From parameters PostgreSQL would make a plan at each request.
    """
    ranges = _ahead_of(_OTHER.c)
    these = [(*_line(_OTHER.c, _J.queue, _J.tenant), *each, _J.id == sa.bindparam("job_id")) for each in ranges]
    return Query(sa.union_all(*(select(*_key()).select_from(_JOBS, _OTHER).where(*each) for each in these)))


def _key() -> tuple[ColumnElement[Any], ...]:
    return (-_OTHER.c.priority).label("urgency"), _OTHER.c.turn, _OTHER.c.id


def _number(value: int) -> Any:
    """A number within the statement: PostgreSQL would plan anew for each value of a parameter of LIMIT."""
    return sa.literal_column(str(value), sa.Integer())
