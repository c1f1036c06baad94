"""The tables. What may happen to their rows is in the folder of each noun (`jobs/`, `datasets/`).

Times are seconds since 1970 by the database's clock. Ids are `job_`, `ds_` and the like and 26 characters: 48 bits of
milliseconds and 80 random ones, so they sort by age and cannot be guessed.
"""

from __future__ import annotations

import secrets
import threading
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
_RANDOM_BITS = 80

DEFAULT_TENANT = "default"
"""Whose everything is that came without a key; it is always there."""

_GOING_ON = "status NOT IN ('succeeded', 'failed', 'cancelled')"
STATUSES = ("queued", "running", "paused", "succeeded", "failed", "cancelled")


class _Clock:
    """The last id of this process, so that two ids of one millisecond still sort by age."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self) -> int:
        fresh = (time.time_ns() // 1_000_000 << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
        with self._lock:
            if fresh >> _RANDOM_BITS <= self._last >> _RANDOM_BITS:
                # Within one millisecond (or while the clock steps back) go on by a random step: 2**64 to guess from.
                fresh = self._last + 1 + secrets.randbits(64)
            self._last = fresh
            return fresh


_clock = _Clock()


def new_id(prefix: str) -> str:
    """A new id: sorts by age, cannot be guessed."""
    value = _clock.next()
    return f"{prefix}_" + "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


class Base(DeclarativeBase):
    """Every table; names of constraints are given by rule, so that a migration can name them."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        str: sa.Text(),
        float: sa.Double(),
        dict[str, Any]: sa.JSON(none_as_null=True),
        list[dict[str, Any]]: sa.JSON(none_as_null=True),
        list[str]: sa.JSON(none_as_null=True),
    }


class Tenant(Base):
    """A team that shares jobs, data sets and keys, and sees nothing of any other. Limits are for all of it together."""

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[float]
    max_queued: Mapped[int | None]
    """Jobs that wait, queued or paused; None: as many as they like."""
    max_running: Mapped[int | None]
    max_bytes: Mapped[int | None] = mapped_column(sa.BigInteger)
    """Of uploaded data sets."""
    share: Mapped[float | None]
    """How many turns it gets while a tenant without a share gets one."""


class ApiKey(Base):
    """A key that clients show. Its secret is kept as a hash only; a revoked key keeps its row."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"))
    name: Mapped[str | None]
    scopes: Mapped[str]
    """`services.access.keys.Scope`, with commas between."""
    secret_sha256: Mapped[str]
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    last_used_at: Mapped[float | None]
    """To the minute."""
    revoked_at: Mapped[float | None]

    __table_args__ = (Index("ix_api_keys_tenant_id", "tenant", "id"),)


class WebSession(Base):
    """A browser that is signed in with an API key. Its cookie is kept as a hash only. It ends with its key."""

    __tablename__ = "web_sessions"

    id: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    secret_sha256: Mapped[str]
    created_at: Mapped[float]
    expires_at: Mapped[float] = mapped_column(index=True)

    __table_args__ = (Index("ix_web_sessions_key_id_id", "key_id", "id"),)


class AuditEntry(Base):
    """Something that somebody changed. Written with the change, in one transaction."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True)
    at: Mapped[float]
    tenant: Mapped[str]
    key_id: Mapped[str | None]
    """None: no key was needed, or it was done on the service's own host."""
    action: Mapped[str]
    """A noun and a verb: `job.submit`, `key.revoke`."""
    resource_id: Mapped[str | None]
    request_id: Mapped[str | None]
    remote_address: Mapped[str | None]

    __table_args__ = (Index("ix_audit_tenant_id", "tenant", "id"),)


class Dataset(Base):
    """One immutable version of uploaded sequences. A deleted one keeps its row, so that its version is never reused."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(server_default=DEFAULT_TENANT)
    name: Mapped[str]
    version: Mapped[int]
    sha256: Mapped[str] = mapped_column(index=True)
    bytes: Mapped[int] = mapped_column(sa.BigInteger)
    """Size of the stored file."""
    format: Mapped[str] = mapped_column(server_default="npz")
    """Of the uploaded file: a `loopline.files.table.Format`, or `npz`, which is stored as it came. Of a raw one, the
    ending of its name."""
    source_sha256: Mapped[str | None]
    source_bytes: Mapped[int | None] = mapped_column(sa.BigInteger)
    """Hash and size of the uploaded file, if another form of it is stored."""
    schema: Mapped[dict[str, Any] | None]
    """A `loopline.files.schema.Schema`, whole: which columns of the file are what. An `.npz` has none."""
    report: Mapped[dict[str, Any] | None]
    """A `loopline.files.report.Report`. An `.npz` has none."""
    summary: Mapped[dict[str, Any]]
    """A `services.training.files.summary.DatasetSummary`."""
    suspicions: Mapped[list[dict[str, Any]] | None]
    """`services.training.files.suspicion.Suspicion`s: what may have been meant otherwise. None: nobody looked."""
    status: Mapped[str] = mapped_column(server_default="ready")
    """A `services.states.DatasetStatus`. Until it is ready, `sha256` and `bytes` are of the file as it was uploaded,
    and `summary` is empty."""
    message: Mapped[str | None]
    """Why it was rejected, in a sentence."""
    problems: Mapped[list[dict[str, Any]] | None]
    """What is wrong with a rejected one: `pointer` and `detail` of each problem."""
    same_as: Mapped[str | None]
    """The id of the version that had this content already, as the check found; then this one is deleted."""
    created_at: Mapped[float]
    deleted_at: Mapped[float | None]

    __table_args__ = (UniqueConstraint("tenant", "name", "version"), Index("ix_datasets_tenant_id", "tenant", "id"))


class DatasetCheck(Base):
    """The check of a data set that is `validating`: what it needs, and who does it. It is deleted when it has ended."""

    __tablename__ = "dataset_checks"

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    file_name: Mapped[str]
    """What the sender calls the file."""
    schema: Mapped[dict[str, Any]] = mapped_column(sa.JSON())
    """The fields of a `loopline.files.schema.Schema` that are not to be inferred."""
    schema_of: Mapped[str | None]
    """The version, such as `walks@2`, that `schema` was taken over from; None: the sender gave it."""
    attempt: Mapped[int] = mapped_column(default=0)
    """Counts the claims, and is the fencing token."""
    lost: Mapped[int] = mapped_column(default=0)
    """How many attempts ended without a word."""
    lease_until: Mapped[float | None]
    """None: nobody is checking it."""
    not_before: Mapped[float] = mapped_column(default=0.0)


class InboxFile(Base):
    """The result for a file in the inbox: a data set, or a sentence that says why there is none."""

    __tablename__ = "inbox_files"

    place: Mapped[str] = mapped_column(primary_key=True)
    """`TENANT/NAME/FILE`"""
    tenant: Mapped[str]
    stamp: Mapped[str]
    """Its size and time, as it was looked at."""
    at: Mapped[float]
    dataset_id: Mapped[str | None]
    error: Mapped[str | None]

    __table_args__ = (Index("ix_inbox_files_tenant_at", "tenant", "at"),)


class Batch(Base):
    """Jobs that were submitted together. Everything about a batch but its end is in the rows of its jobs. The
    row of a batch outlives its jobs."""

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"))
    name: Mapped[str | None]
    varied: Mapped[list[str]] = mapped_column(sa.JSON(none_as_null=True))
    """The keys of its matrix: dotted paths into the specs of its jobs."""
    schedule_id: Mapped[str | None]
    """The schedule that submitted it, which may have been deleted since."""
    request_id: Mapped[str | None]
    created_at: Mapped[float]
    ended_at: Mapped[float | None]
    """When its last job ended. A scheduler sets it when it announces the end, and nobody changes it after that."""

    __table_args__ = (
        Index("ix_batches_tenant_id", "tenant", "id"),
        Index(
            "ix_batches_going_on",
            "id",
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        ),
    )


class Search(Base):
    """A search for the best values of some fields of a spec. Its trials and its final model are jobs, and their results
    are in the rows of the jobs. Whoever makes a trial or changes the search locks this row first."""

    __tablename__ = "searches"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"))
    name: Mapped[str | None]
    document: Mapped[dict[str, Any]]
    """The spec with its `search`, as it was sent."""
    settings: Mapped[dict[str, Any]]
    """What `services.searches.control` writes at the submission: the space, the metric, the versions of data sets."""
    status: Mapped[str]
    """A `services.states.SearchStatus`."""
    message: Mapped[str | None]
    """A sentence for a person: what it waits for, why it was paused, or why it ended without what was wanted."""
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    """It makes no more trials, and is cancelled when those that go on have ended."""
    parallel: Mapped[int]
    """How many trials may wait or run at once."""
    trials: Mapped[int]
    """How many are wanted."""
    made: Mapped[int] = mapped_column(default=0)
    """How many were made, with those that were refused; the number of the newest."""
    refused: Mapped[list[dict[str, Any]]]
    """Trials that no spec allows, which are no jobs: `[{"trial", "choices", "problems"}]`."""
    due_at: Mapped[float | None]
    """From when on the scheduler looks whether there is something to do; None while it is paused or has ended."""
    request_id: Mapped[str | None]
    revision: Mapped[int] = mapped_column(default=1)
    """Raised by every change of this row that a reader can see."""
    created_at: Mapped[float]
    ended_at: Mapped[float | None]

    __table_args__ = (
        Index("ix_searches_tenant_id", "tenant", "id"),
        Index(
            "ix_searches_due_at",
            "due_at",
            sqlite_where=sa.text("due_at IS NOT NULL"),
            postgresql_where=sa.text("due_at IS NOT NULL"),
        ),
    )


class Job(Base):
    """One request to train, or to predict."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(server_default=DEFAULT_TENANT)
    """Whose it is; no foreign key, because SQLite could add none to a table that has rows."""
    kind: Mapped[str] = mapped_column(default="train", server_default="train")
    """A `services.states.Kind`."""
    name: Mapped[str | None]
    status: Mapped[str]
    reason: Mapped[str | None]
    """Why a job is where it is: why it ended, or what an attempt failed of that is tried again."""
    message: Mapped[str | None]
    """A sentence for a person: why it ended, or what it waits for after an attempt that failed."""
    spec: Mapped[dict[str, Any]]
    """The resolved spec."""
    requested: Mapped[dict[str, Any]]
    """The spec as it was sent."""
    queue: Mapped[str]
    priority: Mapped[int]
    turn: Mapped[float] = mapped_column(default=0.0, server_default="0")
    """Its place among the queued jobs of its lane, which is run in the order of `turn` and `id`."""
    tags: Mapped[dict[str, Any]]
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"))

    attempt: Mapped[int] = mapped_column(default=0)
    """Number of the newest attempt, never reset: the fencing token."""
    lost: Mapped[int] = mapped_column(default=0)
    """Attempts whose lease ran out since the last new checkpoint."""
    failures: Mapped[int] = mapped_column(default=0)
    """Attempts that failed and were tried again."""
    max_retries: Mapped[int] = mapped_column(default=0)
    max_runtime_seconds: Mapped[float | None]
    worker: Mapped[str | None]
    """Who owns the newest attempt: `host:pid:token`."""
    lease_until: Mapped[float | None]
    attempt_started_at: Mapped[float | None]
    ran_seconds: Mapped[float] = mapped_column(default=0.0)
    """Running time of the attempts that have ended."""
    not_before: Mapped[float] = mapped_column(default=0.0)
    """A queued job is runnable from this time on."""
    queue_deadline: Mapped[float | None]
    """A job that was never claimed fails at this time."""
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False)
    revision: Mapped[int] = mapped_column(default=1)
    """Raised by every write that a reader can see (renewing a lease is none)."""

    log_lines: Mapped[int] = mapped_column(sa.BigInteger, default=0, server_default="0")
    """Lines ever logged; the newest are kept."""
    epoch: Mapped[int] = mapped_column(default=0)
    epochs: Mapped[int | None]
    step: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    """Updates of the weights; of a job that predicts, sequences that are answered and recorded. So is `steps`."""
    steps: Mapped[int | None] = mapped_column(sa.BigInteger)
    checkpoint_step: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    """The furthest step that a checkpoint was ever made at."""
    fold: Mapped[dict[str, Any] | None]
    """Of a job with folds: the `services.training.messages.FoldProgress` that it is at."""
    best: Mapped[dict[str, Any] | None]
    """`{"epoch", "metric", "value"}`"""
    trainer: Mapped[dict[str, Any] | None]
    """What the newest trainer said of itself: device, threads, parameters, where it resumed."""
    result: Mapped[dict[str, Any] | None]
    files: Mapped[list[dict[str, Any]] | None]
    """Files of the result: `[{"name", "bytes", "sha256"}]`."""

    warnings: Mapped[list[str] | None]
    """Sentences: what of its data and spec may have been meant otherwise, as found when it was submitted."""
    baselines: Mapped[dict[str, Any] | None]
    """Of a retraining, once it was claimed: the versions that it begins with and has to beat, None for none. Of a job
    that predicts: its model, `{"predicts": {"name", "job_id"}}`."""
    batch_id: Mapped[str | None]
    """The batch that it was submitted with, which is never deleted; no foreign key, as for the tenant."""
    search_id: Mapped[str | None] = mapped_column(ForeignKey("searches.id"))
    """The search of which it is a trial or the final model."""
    trial: Mapped[int | None]
    """Its number there, from 1; None for the final model."""
    choices: Mapped[dict[str, Any] | None]
    """The values that the search chose for it, by dotted path into the spec."""
    request_id: Mapped[str | None]
    """Of the request that submitted it: its log lines carry it, in every process."""
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    updated_at: Mapped[float]
    progress_at: Mapped[float | None]

    __table_args__ = (
        CheckConstraint(_one_of("status", STATUSES), name="status"),
        CheckConstraint("attempt >= 0", name="attempt"),
        CheckConstraint("(status = 'running') = (lease_until IS NOT NULL)", name="lease"),
        # The claim reads one lane of this index in order and stops at the first row.
        Index(
            "ix_jobs_queued",
            "queue",
            "tenant",
            sa.text("priority DESC"),
            "turn",
            "id",
            "not_before",
            sqlite_where=sa.text("status = 'queued'"),
            postgresql_where=sa.text("status = 'queued'"),
        ),
        # A job without a batch is put behind the last one of these in its lane.
        Index(
            "ix_jobs_queued_alone",
            "queue",
            "tenant",
            "priority",
            "turn",
            sqlite_where=sa.text("status = 'queued' AND batch_id IS NULL"),
            postgresql_where=sa.text("status = 'queued' AND batch_id IS NULL"),
        ),
        Index(
            "ix_jobs_running",
            "lease_until",
            sqlite_where=sa.text("status = 'running'"),
            postgresql_where=sa.text("status = 'running'"),
        ),
        # Whether a batch has ended is asked every few seconds, and must not look at the jobs that have, of which there
        # may be millions. With the status it covers the query, so SQLite prefers it to ix_jobs_batch_id_id.
        Index(
            "ix_jobs_batch_going_on",
            "batch_id",
            "status",
            sqlite_where=sa.text("status NOT IN ('succeeded', 'failed', 'cancelled')"),
            postgresql_where=sa.text("status NOT IN ('succeeded', 'failed', 'cancelled')"),
        ),
        # Lists are of one tenant; what it has running and waiting is counted in the second of these.
        Index("ix_jobs_tenant_id", "tenant", "id"),
        Index(
            "ix_jobs_tenant_id_no_trials",
            "tenant",
            "id",
            sqlite_where=sa.text("trial IS NULL"),
            postgresql_where=sa.text("trial IS NULL"),
        ),
        Index("ix_jobs_tenant_status_id", "tenant", "status", "id"),
        Index("ix_jobs_tenant_queue_id", "tenant", "queue", "id"),
        Index("ix_jobs_tenant_name_id", "tenant", "name", "id"),
        Index("ix_jobs_tenant_kind_id", "tenant", "kind", "id"),
        Index("ix_jobs_tenant_dataset_id_id", "tenant", "dataset_id", "id"),
        Index("ix_jobs_batch_id_id", "batch_id", "id"),
        Index(
            "ix_jobs_search_id_trial",
            "search_id",
            "trial",
            unique=True,
            sqlite_where=sa.text("search_id IS NOT NULL"),
            postgresql_where=sa.text("search_id IS NOT NULL"),
        ),
        # The scheduler counts the jobs that have not ended twice a second, of each search that goes on.
        Index(
            "ix_jobs_search_going_on",
            "search_id",
            sqlite_where=sa.text(f"search_id IS NOT NULL AND {_GOING_ON}"),
            postgresql_where=sa.text(f"search_id IS NOT NULL AND {_GOING_ON}"),
        ),
    )


class Lane(Base):
    """The queued jobs of one tenant in one queue at one priority, and when its next turn comes.

    `services/jobs/lanes.py` says who takes turns. The database makes the row when such a job is queued, so no job can
    wait outside of a lane.
    """

    __tablename__ = "lanes"

    queue: Mapped[str] = mapped_column(primary_key=True)
    priority: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[str] = mapped_column(primary_key=True)
    turn: Mapped[float]
    """Of the lanes of a queue and priority, the one with the least goes next. Each turn adds 1 / share."""
    last_turn: Mapped[float]
    """What `turn` was when this lane last went."""
    has_jobs: Mapped[bool]
    """False: no job of it is queued. True: jobs of it may be."""

    __table_args__ = (
        # The claim reads this index in order and stops at the second row.
        Index(
            "ix_lanes_order",
            "queue",
            sa.text("priority DESC"),
            "turn",
            "tenant",
            sqlite_where=sa.text("has_jobs = 1"),
            postgresql_where=sa.text("has_jobs"),
        ),
        Index("ix_lanes_last_turn", "queue", "priority", "last_turn"),
    )


class JobTag(Base):
    """A tag of a job once more, for lists by tag. The database writes it with the job, and deletes it with it."""

    __tablename__ = "job_tags"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(primary_key=True)
    """No foreign key: to find the tags of a job by its id would take another index."""

    __table_args__ = ({"sqlite_with_rowid": False},)


class Schedule(Base):
    """When to submit what. Whoever fires or changes it holds this row, so that happens one by one."""

    __tablename__ = "schedules"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"))
    name: Mapped[str]
    cron: Mapped[str]
    time_zone: Mapped[str]
    submit: Mapped[dict[str, Any]]
    """A document as `POST /v1/batches` takes it."""
    overlap: Mapped[str]
    """A `services.schedules.definitions.Overlap`."""
    catch_up_seconds: Mapped[int]
    jitter_seconds: Mapped[int]
    only_new_data: Mapped[bool]
    created_by: Mapped[str | None]
    """The API key; None where none was needed."""
    created_at: Mapped[float]
    updated_at: Mapped[float]
    """When somebody last changed it; its firings do not."""
    paused_at: Mapped[float | None]
    revision: Mapped[int]
    """Raised by every change that somebody asks for; its firings do not."""
    next_slot: Mapped[float | None]
    """The next moment at which it is due; None while it is paused, or when none comes any more."""
    due_at: Mapped[float | None]
    """That and its jitter: when it is to be fired."""

    __table_args__ = (
        UniqueConstraint("tenant", "name"),
        Index(
            "ix_schedules_due_at",
            "due_at",
            sqlite_where=sa.text("due_at IS NOT NULL"),
            postgresql_where=sa.text("due_at IS NOT NULL"),
        ),
    )


class Firing(Base):
    """A slot of a schedule, or a run that somebody requested, and its outcome. One row per slot: it fires once."""

    __tablename__ = "schedule_firings"

    id: Mapped[str] = mapped_column(primary_key=True)
    schedule_id: Mapped[str] = mapped_column(ForeignKey("schedules.id", ondelete="CASCADE"))
    tenant: Mapped[str]
    slot: Mapped[float | None]
    """The moment at which it was due; None for one that was asked for."""
    outcome: Mapped[str]
    """A `services.schedules.firings.Outcome`."""
    reason: Mapped[str | None]
    """Of `services.schedules.firings.REASONS`, or the code of the error by which it was refused."""
    message: Mapped[str | None]
    batch_id: Mapped[str | None]
    datasets: Mapped[list[str] | None]
    """The versions of data sets that its jobs were submitted with."""
    counts: Mapped[dict[str, Any] | None]
    """When its batch had ended: how many jobs stood where. It outlives the jobs."""
    created_at: Mapped[float]
    ended_at: Mapped[float | None]

    __table_args__ = (
        UniqueConstraint("schedule_id", "slot"),
        Index("ix_schedule_firings_schedule_id_id", "schedule_id", "id"),
        Index("ix_schedule_firings_created_at", "created_at"),
        # Those with which the scheduler is not done.
        Index(
            "ix_schedule_firings_outcome",
            "outcome",
            "schedule_id",
            sqlite_where=sa.text("outcome IN ('fired', 'waiting')"),
            postgresql_where=sa.text("outcome IN ('fired', 'waiting')"),
        ),
    )


class Epoch(Base):
    """The recorded numbers of one epoch; a resumed run overwrites from its position."""

    __tablename__ = "epochs"
    __table_args__ = ({"sqlite_with_rowid": False},)  # the records lie in the order in which they are read

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Over the whole job, with all its folds."""
    fold: Mapped[int] = mapped_column(default=0, server_default="0")
    """0 of a job without folds."""
    record: Mapped[dict[str, Any]]


class StepChunk(Base):
    """Loss and gradient norm of neighbouring steps, as little-endian float32; NaN stands for null."""

    __tablename__ = "step_chunks"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    first_step: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    last_step: Mapped[int] = mapped_column(sa.BigInteger)
    fold: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of all these steps; 0 of a job without folds."""
    loss: Mapped[bytes] = mapped_column(sa.LargeBinary)
    grad_norm: Mapped[bytes] = mapped_column(sa.LargeBinary)
    peaks: Mapped[bytes | None] = mapped_column(sa.LargeBinary)
    """What a chart of a long run reads instead (`series.peaks`). None while the chunk still grows."""


class Checkpoint(Base):
    """A checkpoint that lies whole on disk. Of a job that predicts: a piece of its answers, up to sequence `step`."""

    __tablename__ = "checkpoints"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    epoch: Mapped[int]
    fold: Mapped[int] = mapped_column(default=0, server_default="0")
    """0 of a job without folds."""
    best: Mapped[bool]
    attempt: Mapped[int]
    files: Mapped[list[dict[str, Any]]]
    """`[{"name", "bytes", "sha256"}]`"""
    created_at: Mapped[float]


class Event(Base):
    """Something that happened to a job. Changes of state are written by a trigger of the database."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    at: Mapped[float]
    type: Mapped[str]
    """A `services.jobs.events.Type`."""
    level: Mapped[str]
    attempt: Mapped[int]
    worker: Mapped[str | None]
    """Who owned the job's newest attempt then."""
    from_status: Mapped[str | None]
    to_status: Mapped[str | None]
    reason: Mapped[str | None]
    message: Mapped[str | None]
    data: Mapped[dict[str, Any] | None]

    __table_args__ = (Index("ix_events_job_id_id", "job_id", "id"),)


class LogLine(Base):
    """A line that a trainer logged or printed."""

    __tablename__ = "log_lines"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    """From 1 on, over all attempts."""
    at: Mapped[float]
    attempt: Mapped[int]
    level: Mapped[str]
    text: Mapped[str]


class Worker(Base):
    """A process that takes jobs, as it was last seen."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    """`host:pid:token`, another one for each start."""
    queues: Mapped[str]
    """With commas between. Empty if the worker shuts down."""
    state: Mapped[str]
    job_id: Mapped[str | None]
    started_at: Mapped[float]
    seen_at: Mapped[float]
    heard_at: Mapped[float | None]
    """When it last heard a doorbell."""
    device: Mapped[str | None]
    """What it computes on: `cpu`, or the name of a GPU. None until its first trainer has told it."""
    memory_bytes: Mapped[int | None] = mapped_column(sa.BigInteger)
    """The memory of that device; of `cpu`, this worker's share of what the machine or its container has."""


class IdempotencyKey(Base):
    """A key that a client sent with a request, and what the request made."""

    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    """SHA-256 of the request, in hex."""
    resource_id: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(index=True)


class Model(Base):
    """A name in the registry. Whoever changes its versions or aliases holds this row, so they change one by one."""

    __tablename__ = "models"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    newest_version: Mapped[int]
    """The newest that ever was: a number never means another model."""


class ModelVersion(Base):
    """The result of a job that succeeded, under a name. Spec, data, numbers and files are the job's, which neither
    changes any more nor can be deleted while this row is there."""

    __tablename__ = "model_versions"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    note: Mapped[str | None]
    created_by: Mapped[str | None]
    """The API key; None where none was needed."""
    created_at: Mapped[float]

    __table_args__ = (
        UniqueConstraint("tenant", "name", "job_id"),
        ForeignKeyConstraint(["tenant", "name"], ["models.tenant", "models.name"]),
    )


class ModelMove(Base):
    """An alias was moved: the history of each, oldest first."""

    __tablename__ = "model_moves"

    id: Mapped[int] = mapped_column(sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True)
    at: Mapped[float]
    tenant: Mapped[str]
    name: Mapped[str]
    alias: Mapped[str]
    action: Mapped[str]
    """`promote`, `rollback` or `demote`."""
    from_version: Mapped[int | None]
    to_version: Mapped[int | None]
    by: Mapped[str | None]
    """The API key; None where none was needed."""
    reason: Mapped[str | None]
    before_id: Mapped[int | None] = mapped_column(sa.BigInteger().with_variant(sa.Integer(), "sqlite"))
    """Of a promotion: the one that it took the place of, to which a rollback goes back."""

    __table_args__ = (
        ForeignKeyConstraint(["tenant", "name"], ["models.tenant", "models.name"]),
        Index("ix_model_moves_tenant_name_id", "tenant", "name", "id"),
    )


class ModelAlias(Base):
    """A name such as `production` that points at one version of a model."""

    __tablename__ = "model_aliases"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    move_id: Mapped[int] = mapped_column(
        sa.BigInteger().with_variant(sa.Integer(), "sqlite"), ForeignKey("model_moves.id")
    )
    """The promotion that is in force, after rollbacks an old one."""

    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant", "name", "version"],
            ["model_versions.tenant", "model_versions.name", "model_versions.version"],
        ),
    )


class Webhook(Base):
    """An address to which events of a tenant's jobs, batches, searches, schedules and models are sent."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"))
    url: Mapped[str]
    events: Mapped[list[str]]
    """Those of `services.webhooks.news.EVENTS` that are sent to it."""
    only: Mapped[str | None]
    """The id of the job, batch or schedule that it is for; None: for all of the tenant's."""
    tags: Mapped[dict[str, Any]]
    """Only of jobs that have all these tags."""
    secret: Mapped[str]
    """As it was shown: a signature needs the secret itself, and no hash of it would do."""
    old_secrets: Mapped[list[dict[str, Any]] | None]
    """Those before it that sign too for a while: each `secret` and its `until`, newest first."""
    created_at: Mapped[float]
    delivered_at: Mapped[float | None]
    """When a message last arrived."""
    failures: Mapped[int] = mapped_column(default=0)
    """Attempts in a row that failed."""
    quiet_until: Mapped[float] = mapped_column(default=0.0)
    """After a failure nothing is sent before this time, so that a receiver that hangs takes nobody's turn."""
    disabled_at: Mapped[float | None]
    disabled_reason: Mapped[str | None]

    __table_args__ = (Index("ix_webhooks_tenant_id", "tenant", "id"),)


class Delivery(Base):
    """A message for a webhook: the outbox, and afterwards the log. Neither its webhook nor its job is a foreign key: no
    move of a job may wait for the deletion of a webhook, or fail by it."""

    __tablename__ = "deliveries"

    id: Mapped[str] = mapped_column(primary_key=True)
    """The `webhook-id`, the same at every attempt."""
    webhook_id: Mapped[str]
    job_id: Mapped[str | None]
    event: Mapped[str]
    payload: Mapped[str]
    """The very text that is signed and sent."""
    created_at: Mapped[float]
    next_at: Mapped[float | None]
    """When it is sent next; while it is sent, when another sender may take it over. None: it is not sent any more."""
    attempts: Mapped[int] = mapped_column(default=0)
    """Attempts that were begun."""
    attempted_at: Mapped[float | None]
    delivered_at: Mapped[float | None]
    given_up_at: Mapped[float | None]
    last_status: Mapped[int | None]
    last_error: Mapped[str | None]
    last_answer: Mapped[str | None]

    __table_args__ = (
        Index("ix_deliveries_webhook_id_id", "webhook_id", "id"),
        Index("ix_deliveries_created_at", "created_at"),
        Index(
            "ix_deliveries_next_at",
            "next_at",
            sqlite_where=sa.text("next_at IS NOT NULL"),
            postgresql_where=sa.text("next_at IS NOT NULL"),
        ),
    )
