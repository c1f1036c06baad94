"""The resources as clients see them. An answer is built through its model, so the OpenAPI document is true of it."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from services.datasets.versions import check_name
from services.errors import BadRequest
from services.schedules.definitions import CATCH_UP_SECONDS, MOST_CATCH_UP_SECONDS, MOST_JITTER_SECONDS
from services.text import PLAIN
from services.training.measures import MEASURES
from services.training.tasks.task import Target
from services.webhooks import news

T = TypeVar("T")
MAX_INTEGER = 2**31 - 1
MAX_ID = 2**53

SPEC_EXAMPLE: dict[str, Any] = {
    "name": "vowels",
    "architecture": {
        "cell": "gru",
        "hidden_size": 128,
        "num_layers": 2,
        "bidirectional": True,
        "dropout": 0.3,
        "pooling": "last",
        "batch_norm": False,
        "head_dropout": 0.5,
        "init": "default",
    },
    "training": {
        "epochs": 20,
        "batch_size": 64,
        "loss": {"name": "cross_entropy"},
        "optimizer": {"name": "adam", "lr": 1e-3, "weight_decay": 1e-5},
        "max_grad_norm": 1.0,
        "lr_schedule": {"name": "constant"},
        "early_stopping": None,
        "precision": "float32",
        "seed": 0,
    },
    "data": {"dataset": "japanese-vowels", "split": {"validation": 0.2, "test": 0.0}},
    "limits": {"max_runtime_seconds": 3600, "max_retries": 2},
    "priority": 0,
    "tags": {"team": "speech"},
}
PRESET_EXAMPLE: dict[str, Any] = {
    "preset": "basic_gru",
    "architecture": {"hidden_size": 32},
    "training": {"epochs": 5},
    "data": {"synthetic": {"samples": 1000, "length": 50, "features": 10, "classes": 2}},
}

MATRIX_EXAMPLE: dict[str, Any] = {
    **PRESET_EXAMPLE,
    "name": "nightly",
    "matrix": {"training.optimizer.lr": [1e-3, 1e-4], "architecture.hidden_size": [32, 64]},
}
BATCH_EXAMPLE: dict[str, Any] = {"name": "nightly", "jobs": [SPEC_EXAMPLE, PRESET_EXAMPLE]}
SCHEDULE_EXAMPLE: dict[str, Any] = {
    "name": "nightly",
    "cron": "30 2 * * *",
    "time_zone": "Europe/Berlin",
    "overlap": "skip",
    "submit": PRESET_EXAMPLE,
}


class Answer(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class FieldProblem(Answer):
    detail: str
    """What is wrong there and what is allowed."""
    pointer: str
    """JSON pointer (RFC 6901) into the body; parameters are under /query, /path and /header."""


class ProblemDocument(Answer):
    """An error, as RFC 9457 has it."""

    type: str
    """A URN that names the kind of problem: `urn:loopline:problem:` and the code."""
    title: str
    status: int
    detail: str
    code: str
    """For programs: `spec_invalid`, `job_not_found`, ..."""
    request_id: str | None
    """The X-Request-Id of the answer, and of the service's log lines."""
    errors: list[FieldProblem]


class Page(Answer, Generic[T]):
    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = False
    """Whether another page follows: ask for it with `after` = the id of the last item."""


class QueuePlace(Answer):
    name: str
    position: int | None
    """Jobs of the same tenant ahead of this one, at most 1,000; 0 is its next; null once it runs or has ended."""


class DatasetRef(Answer):
    id: str
    name: str


class Progress(Answer):
    epoch: int
    epochs: int | None
    step: int
    steps: int | None
    fraction: float
    eta_seconds: float | None
    """Seconds until training ends at the speed so far; null while there is nothing to go by."""


class Best(Answer):
    epoch: int
    metric: str
    value: float | None


class Retrained(Answer):
    """What became of a retraining."""

    model: str
    version: int | None
    """Of the model in the registry; null where it could not be registered."""
    alias: str | None
    """The one that was to be moved."""
    decision: Literal["promoted", "held_back", "registered", "failed"]
    """Whether the alias points at the version now; `registered` where none was to be moved."""
    message: str
    """Why, for people."""
    warm_start: str | None
    """The version whose weights it began with."""
    gate: dict[str, Any] | None
    """The comparison with the model before: metric, both values, improvement, p-value, reason."""
    drift: dict[str, Any] | None
    """How the training samples differ from those of the model before."""


class Baseline(Answer):
    """The plainest answer to the task, learnt from the training split and judged on the same splits as the model."""

    answer: str
    """What it always answers with: `the most frequent class (3)`."""
    metrics: dict[str, float | None]
    metric: str
    """The metric by which the model beats it or not."""
    is_beaten: bool
    message: str | None
    """A sentence if the model does not beat it."""


class Result(Answer):
    model_config = ConfigDict(extra="allow")

    complete: bool = True
    """False for the best weights of a job that was cancelled or met its time limit; they are never registered."""
    incomplete_because: Literal["cancelled", "time_limit"] | None = None
    metrics: dict[str, float | None]
    best_epoch: int | None
    epochs: int
    stopped_early: bool
    baseline: Baseline | None = None
    """Null for a job of an earlier version."""
    retrain: Retrained | None = None
    """Null unless the spec has a `retrain`."""


class JobLinks(Answer):
    self: str
    epochs: str
    steps: str
    checkpoints: str
    events: str
    logs: str
    model: str | None
    """Null until there is one: the job has succeeded, or has ended early and offers its best weights until then."""
    cancel: str
    pause: str
    resume: str


class JobSummary(Answer):
    """One request to train, without its spec."""

    object: Literal["job"] = "job"
    id: str
    name: str | None
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    terminal: bool
    """Whether the job has ended. Loops should end on this, not on the names of states."""
    reason: str | None
    """Why it ended, or why it waits again after an attempt that was lost or failed; for programs."""
    message: str | None
    """The same for people; why it is paused, too."""
    batch_id: str | None
    """The batch that it was submitted with."""
    waits_until: datetime | None
    """The time before which a job that is tried again does not start; null when nothing but its turn holds it."""
    silent_since: datetime | None
    """It runs, and its worker has given no sign of life since then; null while it gives them. If none comes, the job is
    queued again when its lease has run out."""
    queue: QueuePlace
    priority: int
    tags: dict[str, str]
    dataset: DatasetRef | None
    warnings: list[str]
    """What of its data may have been meant otherwise than it is taken, found when it was submitted."""
    attempt: int
    """Number of the newest attempt; 0 before the first."""
    failures: int
    """Attempts that failed and were tried again (limits.max_retries allows so many)."""
    lost: int
    """Attempts whose worker disappeared since the last new checkpoint."""
    progress: Progress
    best: Best | None
    result: Result | None
    cancel_requested: bool
    """It runs, and will be cancelled at its next step."""
    pause_requested: bool
    """It runs, and will be paused at its next step."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: JobLinks


class Job(JobSummary):
    """One request to train."""

    spec: dict[str, Any]
    """As asked for, with its preset and every default filled in."""


class ListedJob(JobSummary):
    """One request to train, as lists have it."""

    spec: dict[str, Any] = {}
    """With `full=true` only: as asked for, with its preset and every default filled in."""


class JobList(Page[ListedJob]):
    """Jobs, newest first."""


class BatchCounts(Answer):
    """Jobs by where they stand."""

    queued: int
    running: int
    paused: int
    succeeded: int
    failed: int
    cancelled: int


class BatchLinks(Answer):
    self: str
    cancel: str


class BatchSummary(Answer):
    """Jobs that were submitted together, counted."""

    object: Literal["batch"] = "batch"
    id: str
    name: str | None
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    """That of its jobs together: `running` once one has begun and until all have ended; then `failed` if one failed,
    else `cancelled` if one was cancelled."""
    terminal: bool
    """Whether every job has ended."""
    total: int
    """Jobs; one that was deleted no longer counts."""
    counts: BatchCounts
    varied: list[str]
    """The keys of its matrix: what differs between its jobs."""
    schedule_id: str | None
    """The schedule that submitted it, which may have been deleted since."""
    created_at: datetime
    ended_at: datetime | None
    """When its last job ended, once the scheduler has seen it, some seconds later; stays when jobs are deleted."""
    links: BatchLinks


class SelfLink(Answer):
    self: str


class BatchJob(Answer):
    """A row of a batch's table."""

    id: str
    name: str | None
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    terminal: bool
    reason: str | None
    message: str | None
    cell: dict[str, Any]
    """What this job has at each path of `varied`; null where its spec says nothing there."""
    warnings: list[str]
    """What of its data may have been meant otherwise than it is taken."""
    attempt: int
    epoch: int
    epochs: int | None
    fraction: float
    """Of its steps."""
    best: Best | None
    metrics: dict[str, float | None]
    """Of its result; empty until it has succeeded."""
    silent_since: datetime | None
    """As of the job itself: it runs, and its worker has given no sign of life since then."""
    seconds: float | None
    """From its start to its end; null before both."""
    links: SelfLink


class Batch(BatchSummary):
    """Jobs that were submitted together, as one table."""

    fraction: float
    """Of the work of all jobs; one that has ended counts as whole."""
    finished_at: datetime | None
    """When the last job ended; null before that."""
    jobs: list[BatchJob]
    """In the order in which they were asked for."""


class BatchList(Page[BatchSummary]):
    """Batches, newest first."""


def _with_measures(schema: dict[str, Any]) -> None:
    """Adds the metrics of both splits to a schema."""
    number = {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None}
    named = [f"{split}_{name}" for name in MEASURES for split in ("train", "validation")]
    schema["properties"] |= {name: {**number, "title": name.replace("_", " ").title()} for name in named}


class Epoch(Answer):
    """The numbers of one epoch; its metrics depend on the target: accuracy and macro F1, or MAE, RMSE and R2."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_with_measures)

    epoch: int
    lr: float | None = None
    grad_norm_mean: float | None = None
    """Before clipping."""
    grad_norm_max: float | None = None
    clipped_fraction: float | None = None
    """Share of the updates whose gradient was clipped."""
    seconds: float | None = None
    samples_per_second: float | None = None


class EpochList(Page[Epoch]):
    """Epochs, ascending; `after` takes the last epoch's number."""


class Steps(Answer):
    """Loss and gradient norm by step, thinned out to at most `points`; three lists of one length."""

    object: Literal["steps"] = "steps"
    step: list[int]
    loss: list[float | None]
    grad_norm: list[float | None]
    """Before clipping."""
    total: int
    """Steps recorded."""


class CheckpointLinks(Answer):
    self: str


class Checkpoint(Answer):
    """A place from which training goes on exactly."""

    id: int
    epoch: int
    step: int
    best: bool
    bytes: int
    sha256: str
    """Of the weights and optimiser state (the .safetensors file)."""
    created_at: datetime
    links: CheckpointLinks


class CheckpointList(Page[Checkpoint]):
    """Checkpoints, ascending."""


class Event(Answer):
    """Something that happened to a job."""

    id: int
    at: datetime
    type: str
    """`status` is a change of state; the others are told in the documents, and more may come."""
    level: Literal["info", "warning", "error"]
    attempt: int
    worker: str | None
    """Who owned the job's newest attempt then."""
    from_status: str | None
    to_status: str | None
    reason: str | None
    message: str | None
    data: dict[str, Any] | None
    """Numbers, for programs; their names depend on the type."""


class EventList(Page[Event]):
    """Events, in the order they happened; `after` takes the last event's id."""


class LogLine(Answer):
    """A line that a trainer logged (`info`, `warning`, `error`) or printed (`output`)."""

    number: int
    """From 1 on, over all attempts. The newest 2,000 lines are kept."""
    at: datetime
    attempt: int
    level: Literal["output", "info", "warning", "error"]
    text: str


class LogLineList(Page[LogLine]):
    """Log lines, ascending; `after` takes the last line's number."""


class Worker(Answer):
    """A process that takes jobs, as it was last seen."""

    name: str
    """Host, process id and a token: another one for each start. Host and device where no worker can be started."""
    queues: list[str]
    state: Literal["idle", "busy", "broken"]
    job_id: str | None
    """Null while it is idle, and of another tenant's job."""
    started_at: datetime
    seen_at: datetime
    heard_at: datetime | None
    """When a doorbell last reached it; null before the first."""


class WorkerList(Page[Worker]):
    """The workers that were seen within the last minute, by name."""


class Dataset(Answer):
    """An immutable version of uploaded sequences."""

    object: Literal["dataset"] = "dataset"
    id: str
    name: str
    version: int
    sha256: str
    bytes: int
    samples: int
    features: int
    min_length: int
    max_length: int
    target: Target
    target_dim: int
    """Classes, tags, yes-or-no labels or values to predict."""
    classes: list[int | str] | None
    class_counts: list[int] | None
    """Sequences of each of `classes`; steps if there is a class for each step."""
    given_split: dict[str, int] | None
    warnings: list[str]
    """What may have been meant otherwise than it is taken by a job that leaves everything at its default."""
    created_at: datetime


class DatasetList(Page[Dataset]):
    """Data sets, newest first."""


class ModelData(Answer):
    """The version of a data set that a model was trained from; it may have been deleted since."""

    id: str
    name: str
    version: int
    sha256: str


class ModelFile(Answer):
    name: str
    bytes: int
    sha256: str


class ModelVersionLinks(Answer):
    self: str
    job: str
    download: str


class ModelVersion(Answer):
    """The result of a job, as a version of a model."""

    object: Literal["model_version"] = "model_version"
    model: str
    version: int
    aliases: list[str]
    """Those that point at it now."""
    job_id: str
    dataset: ModelData | None
    """Null for one that was trained on synthetic data, which the spec describes."""
    spec: dict[str, Any]
    """The job's, with every default filled in."""
    metrics: dict[str, float | None]
    """As in the job's result."""
    files: list[ModelFile]
    note: str | None
    created_at: datetime
    created_by: str | None
    """The API key that registered it; null where none was needed."""
    links: ModelVersionLinks


class ModelVersionList(Page[ModelVersion]):
    """Versions of a model, newest first; `after` takes the last one's number."""


class ModelLinks(Answer):
    self: str
    versions: str
    history: str


class Model(Answer):
    """A name in the registry."""

    object: Literal["model"] = "model"
    name: str
    aliases: dict[str, int]
    """By alias, the version that it points at."""
    latest: ModelVersion
    """The newest version."""
    links: ModelLinks


class ModelList(Page[Model]):
    """Models by name; `after` takes the last one's name."""


class ModelMove(Answer):
    """An alias of a model was moved."""

    id: int
    at: datetime
    alias: str
    action: Literal["promote", "rollback", "demote"]
    from_version: int | None
    to_version: int | None
    by: str | None
    """The API key; null where none was needed."""
    reason: str | None


class ModelMoveList(Page[ModelMove]):
    """Moves of a model's aliases, newest first; `after` takes the last one's id."""


class Body(BaseModel):
    """What a request asks for."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class VersionRequest(Body):
    """A job's result that is to be a version of a model."""

    job: str = Field(min_length=1, max_length=100)
    """The id of a job that has succeeded."""
    note: Annotated[str, Field(max_length=1000)] | None = None


class RollbackRequest(Body):
    reason: Annotated[str, Field(max_length=1000)] | None = None
    expected: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    """Do it only if the alias points at this version now; 0: only if there is no such alias. Null: in any case."""


class AliasRequest(RollbackRequest):
    """Where an alias is to point."""

    version: Annotated[int, Field(ge=1, le=MAX_INTEGER)] | Annotated[str, Field(min_length=1, max_length=63)]
    """A number, another alias, or `latest`."""


class Preset(Answer):
    name: str
    description: str
    spec: dict[str, Any]
    """The fragment of a spec that the preset stands for; any field may be overridden."""


class PresetList(Page[Preset]):
    """The named architectures."""


class Key(Answer):
    """An API key, without its secret."""

    object: Literal["key"] = "key"
    id: str
    name: str | None
    tenant: str
    scopes: list[Literal["read", "submit", "admin"]]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None


class NewKey(Key):
    """An API key that was just made."""

    key: str
    """The key itself, `ll_...`. It is shown this once: the service keeps a hash of it."""


class KeyList(Page[Key]):
    """The keys of the tenant, newest first, with those that have ended."""


class KeyRequest(BaseModel):
    """A key that is to be made."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    scopes: list[Literal["read", "submit", "admin"]] = Field(min_length=1, max_length=10)
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=PLAIN)] | None = None
    """What it is for, to tell it from others."""
    expires_days: float | None = Field(None, gt=0, le=36_500, allow_inf_nan=False)
    """It ends after so many days; null: it does not end by itself."""


def _event(name: str) -> str:
    if name not in news.EVENTS:
        raise PydanticCustomError(
            "unknown_event",
            "there is no event {name}; there are {events}",
            {"name": name, "events": ", ".join(news.EVENTS)},
        )
    return name


EventName = Annotated[
    str,
    Field(max_length=100),
    AfterValidator(_event),
    WithJsonSchema(
        {
            "type": "string",
            "enum": [*news.EVENTS],
            "description": "\n".join(f"- `{event}`: {sentence}" for event, sentence in news.EVENTS.items()),
        }
    ),
]


class Webhook(Answer):
    """An address that is told what happens to jobs, batches, schedules and models."""

    object: Literal["webhook"] = "webhook"
    id: str
    url: str
    events: list[EventName]
    only: str | None
    """The id of the job, batch or schedule that it is for; null: for all."""
    tags: dict[str, str]
    """It hears only of jobs that have all of these."""
    created_at: datetime
    delivered_at: datetime | None
    """When a message last arrived."""
    failures: int
    """Attempts in a row that failed."""
    disabled_at: datetime | None
    """Since then nothing is sent."""
    disabled_reason: str | None
    old_secret_until: datetime | None
    """The secret was changed: until then the one before signs too."""


class NewWebhook(Webhook):
    """A webhook that was just made, or has a new secret."""

    secret: str
    """What messages are verified with, `whsec_...`. It is shown this once."""


class WebhookList(Page[Webhook]):
    """The webhooks of the tenant, newest first."""


class Delivery(Answer):
    """A message for a webhook, and what came of it."""

    object: Literal["delivery"] = "delivery"
    id: str
    """The `webhook-id`, the same at every attempt."""
    webhook_id: str
    job_id: str | None
    event: str
    state: Literal["pending", "delivered", "given_up"]
    attempts: int
    created_at: datetime
    attempted_at: datetime | None
    """When the newest attempt began."""
    next_at: datetime | None
    """When it is sent next, unless its webhook is left alone for longer; null when it is not."""
    delivered_at: datetime | None
    last_status: int | None
    """What the receiver answered to the newest attempt; null when it did not."""
    last_error: str | None
    last_answer: str | None
    """The beginning of what the receiver said."""
    payload: dict[str, Any]


class DeliveryList(Page[Delivery]):
    """The messages of a webhook, newest first; those of the last 30 days."""


PLAIN_TAG = Field(max_length=200, pattern=PLAIN)


class WebhookRequest(BaseModel):
    """A webhook that is to be made."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    url: str = Field(max_length=2000, pattern="^https?://")
    """Where messages are posted to: a public address."""
    events: list[EventName] | None = Field(None, min_length=1, max_length=len(news.EVENTS))
    """Null: the three ends of jobs; `batch.ended` where it is for a batch only."""
    only: str | None = Field(None, max_length=100)
    """The id of a job or batch that has not ended, or of a schedule: nothing else is told."""
    tags: dict[Annotated[str, PLAIN_TAG], Annotated[str, PLAIN_TAG]] = Field({}, max_length=16)
    """Only of jobs that have all of these; of a batch, if one of its jobs has."""


class InboxFile(Answer):
    """A file in the inbox, and what came of it."""

    id: str
    """Its place: `TENANT/NAME/FILE`."""
    at: datetime
    """When it was taken in, or refused."""
    dataset_id: str | None
    dataset: str | None
    """As a spec names it, `vowels@7`; null where it is none, or was deleted."""
    error: str | None
    """Why it is no data set; it is tried again when it was written anew."""
    warnings: list[str]
    """Those of the data set."""


class InboxList(Page[InboxFile]):
    """What came of the files in the inbox, newest first; `after` takes the last one's id."""


OverlapPolicy = Literal["skip", "queue", "replace"]


class ScheduleRequest(Body):
    """A schedule as it is wanted."""

    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """1 to 100 of a-z, 0-9, dot, dash and underscore; may be left out where it stands in the address."""
    cron: str = Field(min_length=1, max_length=1000)
    """Five fields, `30 2 * * *`, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`."""
    time_zone: str = Field("UTC", min_length=1, max_length=100)
    """In which the expression is read: a name of IANA's, such as `Europe/Berlin`."""
    submit: dict[str, Any]
    """What is submitted, as `POST /v1/batches` takes it: a spec, one with a `matrix`, or `{name, jobs: [...]}`."""
    overlap: OverlapPolicy = "skip"
    """What becomes of a slot while the batch before has not ended."""
    catch_up_seconds: int = Field(CATCH_UP_SECONDS, ge=0, le=MOST_CATCH_UP_SECONDS)
    """So late a slot is fired still; 0: never late."""
    jitter_seconds: int = Field(0, ge=0, le=MOST_JITTER_SECONDS)
    """Each slot is fired up to so much later, by a share of its own."""
    only_new_data: bool = False
    """Leave a slot out while no data set has a newer version than at the run before."""


class FiringLinks(Answer):
    schedule: str
    batch: str | None


class Firing(Answer):
    """A slot of a schedule, or a run that somebody asked for, and what came of it."""

    object: Literal["firing"] = "firing"
    id: str
    schedule_id: str
    slot: datetime | None
    """When it was due, by the clocks of the schedule's time zone; null for a run that somebody asked for."""
    outcome: Literal["fired", "waiting", "succeeded", "failed", "cancelled", "deleted", "skipped", "missed", "refused"]
    """`fired` until its batch has ended; then how."""
    reason: str | None
    message: str | None
    """A sentence for a person: why, and what to do."""
    batch_id: str | None
    counts: dict[str, int] | None
    """Jobs of its batch by where they stand, or stood when it ended; null where there is none."""
    created_at: datetime
    ended_at: datetime | None
    links: FiringLinks


class FiringList(Page[Firing]):
    """What came of a schedule's slots, newest first; those of the last 400 days."""


class ScheduleLinks(Answer):
    self: str
    firings: str
    run: str
    pause: str
    resume: str


class ScheduleSummary(Answer):
    """When to submit something, without what that is."""

    object: Literal["schedule"] = "schedule"
    id: str
    name: str
    cron: str
    time_zone: str
    overlap: OverlapPolicy
    catch_up_seconds: int
    jitter_seconds: int
    only_new_data: bool
    next: list[datetime]
    """The next three slots, by the clocks of its time zone; none while it is paused."""
    due_at: datetime | None
    """When the first of them is to be fired: with its jitter."""
    last: Firing | None
    """Its newest firing."""
    paused_at: datetime | None
    created_at: datetime
    created_by: str | None
    """The API key; null where none was needed."""
    updated_at: datetime
    links: ScheduleLinks


class Schedule(ScheduleSummary):
    """When to submit what."""

    submit: dict[str, Any]
    """As it was sent."""


class ScheduleList(Page[ScheduleSummary]):
    """Schedules, by name; `after` takes the last one's name."""


class AuditEntry(Answer):
    """Something that somebody changed."""

    id: int
    at: datetime
    key_id: str | None
    """Null where no key was needed, and for what was done on the service's own host."""
    action: str
    """A noun and a verb: `job.submit`, `key.revoke`."""
    resource_id: str | None
    request_id: str | None
    remote_address: str | None


class AuditList(Page[AuditEntry]):
    """What was changed in the tenant, newest first; `after` takes the last entry's id."""


class Quota(Answer):
    """How much of something there is, and may be."""

    used: int
    limit: int | None
    """Null where there is none."""


class Quotas(Answer):
    queued: Quota
    """Jobs that wait: queued or paused."""
    running: Quota
    bytes: Quota
    """Of uploaded data sets."""


class Identity(Answer):
    """Who the request is from."""

    object: Literal["identity"] = "identity"
    tenant: str
    key_id: str | None
    """Null where no key is needed."""
    scopes: list[Literal["read", "submit", "admin"]]
    quotas: Quotas


class Alive(Answer):
    status: Literal["alive"] = "alive"


class Ready(Answer):
    status: Literal["ready", "degraded", "unavailable"]
    checks: dict[str, str]
    """`ok`, or a sentence, by what was tried: `database`, `folder`, `workers`, `broker`, and `blobs` in a store."""


class Working(Answer):
    status: Literal["working", "stuck"]
    checks: dict[str, str]
    """`ok`, or a sentence, by what was looked at: `database`, `workers`."""


# What requests carry besides a body. The titles say where a problem lies: see errors.parameters_invalid.

Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


def _dataset_name(name: str) -> str:
    try:
        check_name(name)
    except BadRequest as error:
        raise PydanticCustomError("dataset_name", error.problems[0].detail) from None
    return name


class Parameters(BaseModel):
    @classmethod
    @cache
    def model_json_schema(cls, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """The schema, made once: flask-openapi asks for it at every request, and making it takes half a millisecond."""
        return super().model_json_schema(**options)


class Query(Parameters):
    model_config = ConfigDict(title="query", extra="forbid", use_attribute_docstrings=True)


class Header(Parameters):
    model_config = ConfigDict(title="header", populate_by_name=True, use_attribute_docstrings=True)


class Path(Parameters):
    model_config = ConfigDict(title="path", use_attribute_docstrings=True)


class PageQuery(Query):
    limit: int = Field(20, ge=1, le=100)
    """Items a page."""
    after: Text | None = None
    """The id of the last item of the page before."""


class JobsQuery(PageQuery):
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"] | None = None
    queue: Text | None = None
    tag: Annotated[str, Field(max_length=201, pattern=r"^[^\x00-\x1f\x7f:]+:[^\x00-\x1f\x7f]+$")] | None = None
    """`key:value`"""
    name: Text | None = None
    full: bool = False
    """With the spec of each job."""


class JobQuery(Query):
    wait: float = Field(0, ge=0, le=60, allow_inf_nan=False)
    """Seconds to hold the answer back until there is news."""


class EpochsQuery(Query):
    after: int = Field(0, ge=0, le=MAX_INTEGER)
    limit: int = Field(1000, ge=1, le=10_000)


class EventsQuery(Query):
    after: int = Field(0, ge=0, le=MAX_ID)
    """The id of the last event of the page before."""
    limit: int = Field(100, ge=1, le=1000)


class LogsQuery(Query):
    after: int = Field(0, ge=0, le=MAX_ID)
    """The number of the last line of the page before."""
    limit: int = Field(1000, ge=1, le=2000)


class StepsQuery(Query):
    points: int = Field(500, ge=2, le=10_000)
    """At most so many points, evenly thinned out."""


class UploadQuery(Query):
    name: Annotated[str, AfterValidator(_dataset_name)]
    """The data set's name; the same name again with other content makes its next version."""


class DatasetsQuery(PageQuery):
    name: Text | None = None
    """Only the versions of this name."""


class SubmitHeader(Header):
    idempotency_key: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")] | None = Field(
        None, alias="Idempotency-Key"
    )
    """Any string of your own. A second request with the same key and body gets the first one's answer."""


class InboxQuery(Query):
    after: str | None = Field(None, max_length=1000)
    """The id of the last file of the page before."""
    limit: int = Field(100, ge=1, le=1000)


class AuditQuery(Query):
    after: int | None = Field(None, ge=1, le=MAX_ID)
    """The id of the last entry of the page before."""
    limit: int = Field(100, ge=1, le=1000)


class KeyPath(Path):
    key_id: str


class WebhookPath(Path):
    webhook_id: str


class DeliveryPath(WebhookPath):
    delivery_id: str


class JobPath(Path):
    job_id: str


class BatchPath(Path):
    batch_id: str


class SchedulePath(Path):
    schedule: str
    """Its name or id."""


class SchedulesQuery(PageQuery):
    after: Text | None = None
    """The name of the last schedule of the page before."""


class CheckpointPath(JobPath):
    step: int = Field(ge=0, le=MAX_ID)


class FilePath(JobPath):
    file: str


class ModelsQuery(PageQuery):
    after: Text | None = None
    """The name of the last model of the page before."""


class ModelVersionsQuery(Query):
    after: int | None = Field(None, ge=1, le=MAX_INTEGER)
    """The number of the last version of the page before."""
    limit: int = Field(20, ge=1, le=100)


class ModelPath(Path):
    model: str


class ModelVersionPath(ModelPath):
    ref: str
    """A number, an alias, or `latest`."""


class AliasPath(ModelPath):
    alias: str
    """`production`, say."""


class DatasetPath(Path):
    dataset: str
    """An id, `name`, `name@3` or `name@latest`."""


def moment(seconds: float) -> datetime:
    """Database time, seconds since 1970, as a UTC datetime."""
    return datetime.fromtimestamp(seconds, UTC)


def moment_or_none(seconds: float | None) -> datetime | None:
    """The same where there may be none."""
    return None if seconds is None else moment(seconds)
