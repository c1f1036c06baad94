"""What clients do with a job: create it, look at it, cancel, pause, resume and delete it.

What a worker does with it is in `attempts.py` and `progress.py`. Functions take the session first and never commit. The
caller commits (`db.session_scope`), and rings the doorbell afterwards. `tenant=None`, which is for workers and
operators, means every tenant's jobs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from services import metrics
from services.access import tenants
from services.db import Statement, now
from services.errors import DatasetNotFound, IllegalMove, JobNotEnded, JobNotFound, JobRegistered
from services.jobs import events, lanes, moves, progress
from services.orm import Checkpoint, Dataset, IdempotencyKey, Job, ModelVersion, new_id
from services.states import TERMINAL, Kind, Reason, Status
from services.text import clean
from services.training.epochs import NAME as NAME_OF_EPOCHS
from services.webhooks import news

if TYPE_CHECKING:
    from services.training.spec import Spec
    from services.training.spec.automatic import Choice
    from services.training.spec.predict import Predict


S = TypeVar("S", bound="Spec | Predict")


class TrialOf(NamedTuple):
    """Which trial of a search a job is."""

    search_id: str
    trial: int | None
    """None of the final model."""
    choices: Mapping[str, Any]


class Wanted(NamedTuple, Generic[S]):
    """A job that is to be made."""

    spec: S
    requested: Mapping[str, Any]
    """The spec as it was sent."""
    dataset_id: str | None
    warnings: Sequence[str] = ()
    """What of its data may have been meant otherwise."""
    kind: Kind = Kind.TRAIN
    baselines: Mapping[str, Any] | None = None
    """Models that it is about, if they are known already."""
    trial: TrialOf | None = None
    chosen: Sequence[Choice] = ()
    """What of the spec was chosen for its data."""


class Created(NamedTuple):
    """A job that was made."""

    id: str
    queue: str


def create_all(
    session: Session,
    wanted: Sequence[Wanted[Any]],
    *,
    request_id: str | None = None,
    tenant: str = tenants.DEFAULT,
    batch_id: str | None = None,
) -> Sequence[Created]:
    """New queued jobs, in the order given: all of them, or none.

    Raises:
        DatasetNotFound: a data set was deleted meanwhile.
        QuotaExceeded: the tenant would have more jobs waiting than it may.
    """
    tenants.check_queued(session, tenant, more=len(wanted))
    for dataset_id in sorted({each.dataset_id for each in wanted if each.dataset_id is not None}):
        _lock_dataset(session, dataset_id)
    lines = [lanes.Key(each.spec.queue, each.spec.priority, tenant) for each in wanted]
    lanes.enter(session, {*lines})
    places = lanes.Places(session, in_batch=batch_id is not None)
    whose = {"request_id": request_id, "tenant": tenant, "batch_id": batch_id}
    return [_insert(session, each, places.next(line), **whose) for each, line in zip(wanted, lines, strict=True)]


def _insert(session: Session, wanted: Wanted[Any], turn: float, **whose: str | None) -> Created:
    spec, limits = wanted.spec, wanted.spec.limits
    made, document = Created(new_id("job"), spec.queue), spec.document()
    values = {
        **made._asdict(),
        "name": spec.name,
        "spec": document,
        "requested": dict(wanted.requested),
        "priority": spec.priority,
        "turn": turn,
        "tags": dict(spec.tags),
        "dataset_id": wanted.dataset_id,
        "warnings": [*wanted.warnings],
        "max_retries": limits.max_retries,
        "max_runtime_seconds": limits.max_runtime_seconds,
        "kind": wanted.kind.value,
        "epochs": _epochs(document) if wanted.kind == Kind.TRAIN else None,
        "baselines": None if wanted.baselines is None else dict(wanted.baselines),
        **whose,
        **({} if wanted.trial is None else wanted.trial._asdict()),
    }
    statement = _insertion(*values)
    statement.execute(session.connection(), **values, max_queue_seconds=limits.max_queue_seconds)
    if wanted.chosen:
        events.chosen(session, made.id, wanted.chosen)
    metrics.after_commit(session, metrics.SUBMITTED.inc, queue=spec.queue)
    news.announce_new_job(session, made.id, tenant=whose["tenant"] or tenants.DEFAULT)
    return made


def _epochs(document: Mapping[str, Any]) -> int:
    """How many a job may train, of all folds."""
    folds = document["data"]["split"]["folds"]
    return int(document["training"]["epochs"] * (1 if folds is None else folds + 1))


@cache
def _insertion(*names: str) -> Statement:
    """Insert a queued job with these columns given."""
    table: Any = Job.__table__
    values: dict[str, Any] = {column.name: column.default.arg for column in table.c if column.default is not None}
    values |= {name: sa.bindparam(name, type_=table.c[name].type) for name in names}
    deadline = now() + sa.bindparam("max_queue_seconds", type_=sa.Double())  # null without a limit
    times = {"queue_deadline": deadline, "created_at": now(), "updated_at": now()}
    return Statement(sa.insert(table).values(status=Status.QUEUED.value, **values, **times))


def get(session: Session, job_id: str, *, tenant: str | None = None) -> Job:
    """The job as it is in the database.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    job = session.get(Job, job_id, populate_existing=True)
    if job is None or (tenant is not None and job.tenant != tenant):
        raise JobNotFound(f"There is no job {clean(job_id, 100)}.")
    return job


def get_many(session: Session, job_ids: Sequence[str]) -> Sequence[Job]:
    """The jobs of these ids that there are, oldest first."""
    return session.scalars(select(Job).where(Job.id.in_(job_ids)).order_by(Job.id)).all()


def revision(session: Session, job_id: str, *, tenant: str | None = None) -> tuple[int, str]:
    """The job's revision and status, in one cheap query: for an ETag or a long poll.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    row = session.execute(select(Job.revision, Job.status).where(*_named(job_id, tenant))).one_or_none()
    if row is None:
        raise JobNotFound(f"There is no job {clean(job_id, 100)}.")
    return row.revision, row.status


def cancel(session: Session, job_id: str, *, tenant: str | None = None) -> Job:
    """Cancel a waiting job at once, ask a running one to stop, leave an ended one as it is.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    job = _locked(session, job_id, tenant)
    if job.status in TERMINAL or job.cancel_requested:
        return job
    if job.status == Status.RUNNING:
        events.add(session, job, events.Type.REQUEST, "Cancelling was asked for.")
        return moves.write(session, job, cancel_requested=True)
    return moves.move(session, job, Status.CANCELLED, reason=Reason.CANCELLED_BY_USER, cancel_requested=True)


def pause(session: Session, job_id: str, *, tenant: str | None = None) -> Job:
    """Pause a waiting job at once; ask a running one to save its place and free its device. A paused one stays so.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
        IllegalMove: the job has ended.
    """
    job = _locked(session, job_id, tenant)
    if job.status in TERMINAL:
        raise IllegalMove(f"The job {job.id} has ended ({job.status}); there is nothing to pause.")
    if job.status == Status.PAUSED or job.pause_requested:
        return job
    if job.status == Status.RUNNING:
        events.add(session, job, events.Type.REQUEST, "Pausing was asked for.")
        return moves.write(session, job, pause_requested=True)
    return moves.move(session, job, Status.PAUSED, message=moves.PAUSED)


def resume(session: Session, job_id: str, *, tenant: str | None = None) -> Job:
    """Queue a paused job again, to go on from its place; take back a pause that was only asked for; else do nothing.

    Time spent paused counts for no limit: one on the time in the queue begins anew.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
        IllegalMove: the job has ended.
    """
    job = _locked(session, job_id, tenant)
    if job.status in TERMINAL:
        raise IllegalMove(f"The job {job.id} has ended ({job.status}); submit it again to run it.")
    if job.status == Status.PAUSED:
        most = job.spec["limits"]["max_queue_seconds"]
        deadline = None if most is None else now() + most
        return moves.move(session, job, Status.QUEUED, not_before=0.0, queue_deadline=deadline)
    if not job.pause_requested:
        return job
    events.add(session, job, events.Type.REQUEST, "The request to pause was taken back.")
    return moves.write(session, job, pause_requested=False)


def delete(session: Session, job_id: str, *, tenant: str | None = None) -> None:
    """Delete an ended job with all that was recorded of it; its files are for the caller to remove, after the commit.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
        JobNotEnded: it may still run.
        JobRegistered: it is a version of a model.
    """
    job = _locked(session, job_id, tenant)
    if job.status not in TERMINAL:
        raise JobNotEnded(f"The job {job.id} is {job.status}; cancel it and wait for its end, then delete it.")
    _check_unregistered(session, job)
    session.execute(sa.delete(IdempotencyKey).where(IdempotencyKey.resource_id == job.id))
    session.execute(sa.delete(Job).where(Job.id == job.id))


def without_row(session: Session, job_ids: Sequence[str]) -> Sequence[str]:
    """Those of the ids that no job has."""
    there = known(session, job_ids)
    return [job_id for job_id in job_ids if job_id not in there]


def known(session: Session, job_ids: Sequence[str], *, tenant: str | None = None) -> Collection[str]:
    """Those of the ids that jobs have."""
    there: set[str] = set()
    for first in range(0, len(job_ids), 500):
        whose = () if tenant is None else (Job.tenant == tenant,)
        there.update(session.scalars(select(Job.id).where(Job.id.in_(job_ids[first : first + 500]), *whose)))
    return there


def running(session: Session, job_ids: Sequence[str]) -> frozenset[str]:
    """Those of the ids whose jobs run."""
    found: set[str] = set()
    for first in range(0, len(job_ids), 500):
        some = Job.id.in_(job_ids[first : first + 500])
        found.update(session.scalars(select(Job.id).where(some, Job.status == Status.RUNNING)))
    return frozenset(found)


def unshared(session: Session, job_ids: Sequence[str]) -> frozenset[str]:
    """Those of the ids whose jobs count on files that are in no object store: they are from before there was one."""
    found: set[str] = set()
    for first in range(0, len(job_ids), 500):
        some = job_ids[first : first + 500]
        recorded = [*session.execute(select(Job.id, Job.files).where(Job.id.in_(some)))]
        recorded += session.execute(select(Checkpoint.job_id, Checkpoint.files).where(Checkpoint.job_id.in_(some)))
        found.update(job_id for job_id, files in recorded if any("object" not in file for file in files or ()))
    return frozenset(found)


def files_of_resting(session: Session, *, within_seconds: float) -> Mapping[str, frozenset[str]]:
    """The names and objects of the files of jobs that ended, or came to wait, within the last so many seconds."""
    resting = select(Job).where(Job.status != Status.RUNNING, Job.attempt > 0, Job.updated_at > now() - within_seconds)
    kept: dict[str, frozenset[str]] = {}
    for job in session.scalars(resting):
        files = [*(job.files or ()), *(file for row in progress.checkpoints(session, job.id) for file in row.files)]
        names = {str(file[key]) for file in files for key in ("name", "object") if key in file}
        kept[job.id] = frozenset(names if job.status in TERMINAL else {*names, NAME_OF_EPOCHS})
    return kept


def _lock_dataset(session: Session, dataset_id: str) -> None:
    """Keep a data set from being deleted before this transaction ends (`datasets.delete` waits, and sees the job)."""
    query = select(Dataset.id).where(Dataset.id == dataset_id, Dataset.deleted_at.is_(None))
    if session.scalar(query.with_for_update(read=True, key_share=True)) is None:
        raise DatasetNotFound(f"There is no data set {dataset_id}: it was deleted.")


def _check_unregistered(session: Session, job: Job) -> None:
    """Refuse a job whose files are those of a version; this transaction holds it, so none becomes one meanwhile."""
    query = select(ModelVersion).where(ModelVersion.job_id == job.id).order_by(ModelVersion.name)
    rows = session.scalars(query).all()
    models = [f"{row.name}@{row.version}" for row in rows]
    if models:
        route = f"DELETE /v1/models/{rows[0].name}/versions/{rows[0].version}"
        first = f"the version first ({route})" if len(models) == 1 else "these first"
        raise JobRegistered(f"The job {job.id} is the model {' and '.join(models)}; delete {first}, then the job.")


def _named(job_id: str, tenant: str | None) -> tuple[ColumnElement[bool], ...]:
    return (Job.id == job_id,) if tenant is None else (Job.id == job_id, Job.tenant == tenant)


def _locked(session: Session, job_id: str, tenant: str | None) -> Job:
    query = select(Job).where(*_named(job_id, tenant)).with_for_update()
    job = session.scalar(query, execution_options={"populate_existing": True})
    if job is None:
        raise JobNotFound(f"There is no job {clean(job_id, 100)}.")
    return job
