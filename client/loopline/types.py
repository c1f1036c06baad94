"""The answers of the service, as frozen dataclasses.

Fields that this version does not know are only in `raw`. Fields that an older service does not send have their
defaults. Numbers that were not finite are None. Times are aware datetimes in UTC.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from functools import cache
from types import UnionType
from typing import Any, NamedTuple, Self, Union, get_args, get_origin, get_type_hints

from loopline.errors import ServiceError

Document = Mapping[str, Any]
LONGEST = 60
"""Letters of a value in a `repr`."""
LARGEST = 2**63
"""The service never sends a larger number."""


class Short:
    """A dataclass whose `repr` is one short line: without what is empty or missing, and with long values cut."""

    def __repr__(self) -> str:
        shown = []
        for each in fields(self):  # type: ignore[arg-type]  # its heirs are dataclasses
            value = getattr(self, each.name)
            is_empty = value is None or value is False or (hasattr(value, "__len__") and not len(value))
            if each.repr and not is_empty:
                words = repr(value) if not isinstance(value, datetime) else f"{value:%Y-%m-%d %H:%M:%S}"
                shown.append(f"{each.name}={words if len(words) <= LONGEST else f'{words[: LONGEST - 3]}...'}")
        return f"{type(self).__name__}({', '.join(shown)})"


class _Known(NamedTuple):
    kind: Any
    required: bool


def known(cls: type, document: Document, *, besides: Collection[str] = ()) -> dict[str, Any]:
    """The entries of a document that are fields of the dataclass, and the document itself for the field `raw`.

    `besides`: fields that the document has in another form. Raises ServiceError if a field has a wrong type, or if a
    field without a default is missing: then the service is not Loopline, or another version of it.
    """
    if not isinstance(document, Mapping):
        raise _strange(f"a {cls.__name__} is no object")
    chosen: dict[str, Any] = {}
    for name, (kind, required) in _fields(cls).items():
        value = document.get(name)
        if value is None and required:
            raise _strange(f"a {cls.__name__} has no `{name}`")
        if value is None or name in besides:
            continue
        if not _fits(value, kind):
            raise _strange(f"`{name}` of a {cls.__name__} is not what it should be")
        chosen[name] = value
    return chosen | ({"raw": document} if any(each.name == "raw" for each in fields(cls)) else {})


def below(document: Document, name: str) -> Document:
    """The object under a name in a document; empty if there is none."""
    found = document.get(name) or {}
    if not isinstance(found, Mapping):
        raise _strange(f"`{name}` is no object")
    return found


def moment(text: object) -> datetime | None:
    """An RFC 3339 time, or None for none."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise _strange("a time is none of RFC 3339")
    return at


def _strange(what: str) -> ServiceError:
    return ServiceError(f"The answer is not Loopline's, or not of this version: {what}.")


@cache
def _fields(cls: type) -> dict[str, _Known]:
    hints = get_type_hints(cls)
    return {
        each.name: _Known(hints[each.name], each.default is MISSING and each.default_factory is MISSING)
        for each in fields(cls)
        if each.name != "raw" and not each.name.startswith("_")
    }


def _fits(value: object, kind: Any) -> bool:
    """Whether a JSON value has the type of a field."""
    origin, of = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in of)
    if origin in (list, tuple):
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(each, of[0]) for each in value)
    if origin is not None:  # Mapping
        return isinstance(value, Mapping) and all(_fits(each, of[1]) for each in value.values())
    if kind in (int, float):
        allowed = int if kind is int else (int, float)
        return isinstance(value, allowed) and not isinstance(value, bool) and abs(value) < LARGEST
    if kind in (str, datetime):
        return isinstance(value, str)
    if kind in (bool, type(None)):
        return isinstance(value, kind)
    return isinstance(value, Mapping)  # a dataclass


@dataclass(frozen=True, repr=False)
class Progress(Short):
    """The progress of a job: epochs and steps, done and total, the fraction (0 to 1), and the expected seconds left.

    With folds these are of all folds together. `fold_epoch` and `fold_epochs` are of the fold that is trained; a `fold`
    above `folds` is the final model.
    """

    epoch: int = 0
    epochs: int | None = None
    fold: int | None = None
    folds: int | None = None
    fold_epoch: int | None = None
    fold_epochs: int | None = None
    step: int = 0
    steps: int | None = None
    answered: int | None = None
    """Of a job that predicts, the sequences that are answered, of all `sequences`; None of one that trains."""
    sequences: int | None = None
    sequences_per_second: float | None = None
    fraction: float = 0.0
    eta_seconds: float | None = None

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document))


@dataclass(frozen=True, repr=False)
class Answers(Short):
    """The result of a job that predicts: a file with so many rows, and the version of the model that answered."""

    model: str
    file: str
    format: str
    bytes: int
    sequences: int
    rows: int
    sha256: str | None = None
    sequences_per_second: float | None = None
    backend: str | None = None
    warnings: list[str] = field(default_factory=list)
    """What makes the answers less sure, in sentences."""

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document))


@dataclass(frozen=True, repr=False)
class Best(Short):
    """The best epoch so far, and the metric that decides this."""

    epoch: int
    metric: str = ""
    value: float | None = None

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document))


@dataclass(frozen=True, repr=False)
class FoldResult(Short):
    """One fold of a cross-validation: the metrics of its validation part, with the weights of its best epoch."""

    fold: int
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    best_epoch: int | None = None
    epochs: int | None = None
    stopped_early: bool = False
    seed: int | None = None
    samples: Mapping[str, int] = field(default_factory=dict)
    """How many samples it was trained on (`train`) and judged by (`validation`)."""
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document))


@dataclass(frozen=True, repr=False)
class Result(Short):
    """The result of a training: final metrics, the best epoch, and whether it stopped early. For a retraining,
    `retrain` has `model`, `version`, `decision` (such as `promoted`), `message` and `gate`.
    """

    metrics: Mapping[str, float | None] = field(default_factory=dict)
    best_epoch: int | None = None
    complete: bool = True
    """False if the job was stopped early; then the result has its best weights until then."""
    incomplete_because: str | None = None
    epochs: int | None = None
    stopped_early: bool = False
    folds: list[FoldResult] | None = None
    """The folds that have ended, if `data.split.folds` was set; `mean` and `std` are over them, by metric."""
    mean: Mapping[str, float | None] | None = None
    std: Mapping[str, float | None] | None = None
    fold: int | None = None
    """Of an incomplete model of a job with folds: the fold that was trained."""
    retrain: Document | None = None
    baseline: Document | None = None
    """A trivial answer to the task, such as always the most frequent class: `answer`, its `metrics`, the `metric` by
    which the model is compared with it, `is_beaten`, and a `message` if it is not beaten."""
    selection: Document | None = None
    """Of the final model of a search, how its spec was selected: `search`, `trials`, `metric` and the best `value`."""
    details: Mapping[str, Document] | None = None
    """By split: for `classes`, `labels` or `targets` a list for each column (`name`, `f1`, ...), the averages `macro`
    and `weighted`, and `confusion`. `pandas.DataFrame(result.details["test"]["classes"])` is a table of them."""
    gradients: Document | None = None
    """What the gradient is like inside the network with its best weights: `gradient_reach`, `grad_norm_head`, ..."""
    advice: list[str] = field(default_factory=list)
    """What to do about the run, in sentences; empty where nothing is clear."""
    sample: Document | None = None
    """Of `task: next_step`: `text` that the model wrote, with its `start`, `steps`, `temperature` and `seed`."""
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        found = known(cls, document)
        return cls(**found | {"folds": [FoldResult.of(each) for each in found["folds"]] if "folds" in found else None})


@dataclass(frozen=True, repr=False)
class Epoch(Short):
    """One pass over the training data. `raw` has every recorded number; `epoch["train_accuracy"]` reads one.

    `epoch` is numbered over the whole job, `fold_epoch` within its fold.
    """

    epoch: int
    fold: int | None = None
    fold_epoch: int | None = None
    train_loss: float | None = None
    validation_loss: float | None = None
    lr: float | None = None
    grad_norm_mean: float | None = None
    grad_norm_max: float | None = None
    clipped_fraction: float | None = None
    gradient_reach: int | None = None
    """How many steps back in time the gradient reaches, of `gradient_steps`. These and the next two are of the probe,
    which is not made in every epoch."""
    gradient_steps: int | None = None
    saturated_fraction: float | None = None
    dead_units: int | None = None
    seconds: float | None = None
    samples_per_second: float | None = None
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document))

    def __getitem__(self, name: str) -> Any:
        return self.raw[name]

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics other than the losses: accuracy, macro F1, MAE and so on, of both splits."""
        return {name: value for name, value in self.raw.items() if _is_metric(name, value)}


def _is_metric(name: str, value: object) -> bool:
    split, _, measure = name.partition("_")
    return split in {"train", "validation", "test"} and measure != "loss" and isinstance(value, int | float | None)


@dataclass(frozen=True, repr=False)
class Steps(Short):
    """Loss and gradient norm (before clipping) of the steps, reduced to the requested number of points."""

    step: tuple[int, ...] = ()
    loss: tuple[float | None, ...] = ()
    grad_norm: tuple[float | None, ...] = ()
    total: int = 0
    fold: tuple[int, ...] = ()
    """The fold of each step; empty for a job without folds."""

    @classmethod
    def of(cls, document: Document) -> Self:
        found = known(cls, document)
        series = {name: tuple(found.get(name, ())) for name in ("step", "loss", "grad_norm", "fold")}
        return cls(**series, total=found.get("total", 0))

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True, repr=False)
class Checkpoint(Short):
    """Files from which training continues exactly. `step` is the step after which they were written."""

    step: int
    epoch: int = 0
    fold: int | None = None
    best: bool = False
    bytes: int = 0
    sha256: str | None = None
    created_at: datetime | None = None
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document) | {"created_at": moment(document.get("created_at"))})


@dataclass(frozen=True, repr=False)
class Event(Short):
    """Something that happened to a job: a change of state (`from_status`, `to_status`), a checkpoint, a warning."""

    id: int
    type: str = ""
    level: str = "info"
    at: datetime | None = None
    attempt: int = 0
    worker: str | None = None
    from_status: str | None = None
    to_status: str | None = None
    reason: str | None = None
    message: str | None = None
    data: Document = field(default_factory=dict, hash=False)
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document) | {"at": moment(document.get("at"))})


@dataclass(frozen=True, repr=False)
class LogLine(Short):
    """A line that a trainer logged (level `info`, `warning`, `error`) or printed (`output`), numbered from 1 on."""

    number: int
    text: str = ""
    level: str = "output"
    at: datetime | None = None
    attempt: int = 0
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document) | {"at": moment(document.get("at"))})


@dataclass(frozen=True, repr=False)
class Worker(Short):
    """A process that runs jobs, as of its last heartbeat. `heard_at` is when it last received a doorbell."""

    name: str
    queues: list[str] = field(default_factory=list, hash=False)
    state: str = ""
    job_id: str | None = None
    started_at: datetime | None = None
    seen_at: datetime | None = None
    heard_at: datetime | None = None
    device: str | None = None
    """`cpu`, or the name of a GPU; None until it is known."""
    memory_bytes: int | None = None
    """Of that device."""
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        times = {name: moment(document.get(name)) for name in ("started_at", "seen_at", "heard_at")}
        return cls(**known(cls, document) | times)


@dataclass(frozen=True, repr=False)
class InboxFile(Short):
    """A file in the service's inbox, with its path there, and its data set or the error."""

    id: str
    dataset_id: str | None = None
    dataset: str | None = None
    """The name for a spec: `vowels@7`."""
    error: str | None = None
    warnings: list[str] = field(default_factory=list, hash=False)
    """The warnings about the data set."""
    at: datetime | None = None
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document) | {"at": moment(document.get("at"))})


@dataclass(frozen=True, repr=False)
class Dataset(Short):
    """An immutable version of uploaded sequences. `reference` (`vowels@3`) always names this version in a spec."""

    id: str
    name: str = ""
    version: int = 1
    status: str = "ready"
    """`validating` while the service checks the file, then `ready` or `rejected`. Only a ready one has counts. A `raw`
    one was kept as it came, for jobs that predict."""
    message: str | None = None
    """Why it was rejected."""
    problems: list[Document] = field(default_factory=list, hash=False)
    """What is wrong with a rejected one: `pointer` and `detail` of each problem."""
    sha256: str = ""
    bytes: int = 0
    format: str = "npz"
    """Of the file that was uploaded."""
    schema: Mapping[str, Any] | None = field(default=None, hash=False)
    """Which columns of the file are what; None for an `.npz`."""
    report: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)
    """What the check of the file found; None for an `.npz`, and in lists."""
    samples: int = 0
    features: int = 0
    min_length: int = 0
    max_length: int = 0
    target: str = ""
    target_dim: int | None = None
    classes: list[int | str] | None = field(default=None, hash=False)
    class_counts: list[int] | None = field(default=None, hash=False)
    given_split: Mapping[str, int] | None = field(default=None, hash=False)
    warnings: list[str] = field(default_factory=list, hash=False)
    """Warnings that the service may have understood the data in another way than you meant."""
    created_at: datetime | None = None
    is_new: bool = field(default=False, compare=False)
    """Whether this upload made the version. Otherwise the name had the same content already."""
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document) | {"created_at": moment(document.get("created_at"))})

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}" if self.name else self.id


@dataclass(frozen=True, repr=False)
class DryRun(Short):
    """What a job would be. Of one whose data is a file that is to be uploaded, most is unknown: None."""

    spec: Document = field(repr=False, hash=False)
    """With every default filled in."""
    name: str | None = None
    dataset: Document | None = field(default=None, hash=False)
    """`id` and `name`."""
    unchecked: str | None = None
    """Why the data set was not looked at."""
    parameters: int | None = None
    samples: Mapping[str, int] | None = field(default=None, hash=False)
    """Of `train`, `validation` and `test`."""
    steps_per_epoch: int | None = None
    steps: int | None = None
    memory_bytes: int | None = None
    """At least."""
    warnings: list[str] = field(default_factory=list, hash=False)
    estimate: Document = field(default_factory=dict, hash=False)
    """`epoch_seconds`, `seconds`, `device`, `jobs` and `message`."""
    cheaper: str | None = None
    """How an epoch would take less time."""
    chosen: list[Document] = field(default_factory=list, hash=False)
    """What was chosen for the data, because the spec names no network: `field`, `value` and `why`."""
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document))

    @property
    def message(self) -> str:
        """How long the job will take, or why that is unknown."""
        return str(self.estimate.get("message") or "How long it takes is unknown.")

    @property
    def is_estimated(self) -> bool:
        """Whether it is known about how long the job will take."""
        return self.estimate.get("epoch_seconds") is not None


@dataclass(frozen=True, repr=False)
class SearchDryRun(Short):
    """What a search would be."""

    trial: DryRun
    """A trial with the values of the spec, or with the first valid values of the space if those are not valid."""
    name: str | None = None
    space: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What the search would vary: the values that each field may have, by path."""
    combinations: int | None = None
    """None if the space is unbounded or has more than 10,000."""
    trials: int = 0
    """The most trials that it makes."""
    parallel: int = 1
    metric: str = ""
    minutes: float | None = None
    seconds: float | None = None
    """Of all trials and the final model, roughly; None if it is unknown."""
    message: str = ""
    """How long a trial and the search take, or why that is unknown."""
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document) | {"trial": DryRun.of(below(document, "trial"))})


@dataclass(frozen=True, repr=False)
class ModelVersion(Short):
    """The result of a job as a version of a model. `dataset` (id, name, version, sha256) is None for synthetic data."""

    model: str
    version: int
    aliases: list[str] = field(default_factory=list, hash=False)
    job_id: str = ""
    dataset: Document | None = field(default=None, hash=False)
    spec: Document = field(default_factory=dict, repr=False, hash=False)
    metrics: Mapping[str, float | None] = field(default_factory=dict, hash=False)
    files: list[Document] = field(default_factory=list, repr=False, hash=False)
    note: str | None = None
    created_at: datetime | None = None
    created_by: str | None = None
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document) | {"created_at": moment(document.get("created_at"))})

    @property
    def reference(self) -> str:
        return f"{self.model}@{self.version}"

    @property
    def dataset_reference(self) -> str | None:
        return f"{self.dataset.get('name')}@{self.dataset.get('version')}" if self.dataset else None


@dataclass(frozen=True, repr=False)
class Model(Short):
    """A name in the registry. `aliases` has the version of each alias; `latest` is the newest version."""

    name: str
    latest: ModelVersion
    aliases: Mapping[str, int] = field(default_factory=dict, hash=False)
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document) | {"latest": ModelVersion.of(below(document, "latest"))})


@dataclass(frozen=True, repr=False)
class Prediction(Short):
    """What a model answered: `rows` is a table, whose columns depend on the `task` (docs/predict.md). `model` says
    which version or job answered."""

    task: str
    rows: list[Document] = field(repr=False, hash=False)
    warnings: list[str] = field(default_factory=list, hash=False)
    model: Mapping[str, Any] = field(default_factory=dict, hash=False)
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document))

    @property
    def reference(self) -> str:
        """`vowels@3`, or the id of the job, or a folder."""
        if self.model.get("name"):
            return f"{self.model['name']}@{self.model.get('version')}"
        return str(self.model.get("job_id") or self.model.get("folder") or "a model")


@dataclass(frozen=True, repr=False)
class ModelMove(Short):
    """One move of an alias: `promote`, `rollback` or `demote`, the API key that did it, and the reason."""

    id: int
    alias: str = ""
    action: str = ""
    from_version: int | None = None
    to_version: int | None = None
    at: datetime | None = None
    by: str | None = None
    reason: str | None = None
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document) | {"at": moment(document.get("at"))})


@dataclass(frozen=True, repr=False)
class Preset(Short):
    """A named part of a spec. A spec that uses it can override every field."""

    name: str
    description: str = ""
    spec: Document = field(default_factory=dict, hash=False)
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document))


@dataclass(frozen=True, repr=False)
class Key(Short):
    """An API key. `key`, the key itself, is set only in the answer to the request that created it."""

    id: str
    name: str | None = None
    tenant: str = ""
    scopes: list[str] = field(default_factory=list, hash=False)
    key: str | None = field(default=None, repr=False)
    created_at: datetime | None = None
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        times = ("created_at", "expires_at", "last_used_at", "revoked_at")
        return cls(**known(cls, document) | {name: moment(document.get(name)) for name in times})


@dataclass(frozen=True, repr=False)
class Webhook(Short):
    """A URL that receives news about jobs, batches, searches, schedules and models. `secret` is set only in the answer
    to the request that created or changed it."""

    id: str
    url: str = field(default="", repr=False)
    events: list[str] = field(default_factory=list, hash=False)
    only: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    secret: str | None = field(default=None, repr=False)
    failures: int = 0
    created_at: datetime | None = None
    delivered_at: datetime | None = None
    disabled_at: datetime | None = None
    disabled_reason: str | None = None
    old_secret_until: datetime | None = None
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        times = ("created_at", "delivered_at", "disabled_at", "old_secret_until")
        return cls(**known(cls, document) | {name: moment(document.get(name)) for name in times})


@dataclass(frozen=True, repr=False)
class Delivery(Short):
    """A message for a webhook: `pending`, `delivered` or `given_up`, with the result of the newest attempt."""

    id: str
    webhook_id: str = ""
    job_id: str | None = None
    event: str = ""
    state: str = "pending"
    attempts: int = 0
    last_status: int | None = None
    last_error: str | None = None
    last_answer: str | None = None
    payload: Document = field(default_factory=dict, hash=False, repr=False)
    created_at: datetime | None = None
    attempted_at: datetime | None = None
    next_at: datetime | None = None
    delivered_at: datetime | None = None
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        times = ("created_at", "attempted_at", "next_at", "delivered_at")
        return cls(**known(cls, document) | {name: moment(document.get(name)) for name in times})


@dataclass(frozen=True, repr=False)
class Quota(Short):
    """How much a tenant uses, and its limit; None means no limit."""

    used: int = 0
    limit: int | None = None

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document))


@dataclass(frozen=True, repr=False)
class Identity(Short):
    """The tenant and key of the client. `quotas` are those of the tenant: `queued`, `running`, `bytes`."""

    tenant: str
    key_id: str | None = None
    scopes: list[str] = field(default_factory=list, hash=False)
    quotas: Mapping[str, Quota] = field(default_factory=dict, hash=False)
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        quotas = {name: Quota.of(quota) for name, quota in below(document, "quotas").items()}
        return cls(**known(cls, document) | {"quotas": quotas})


@dataclass(frozen=True, repr=False)
class Health(Short):
    """Whether the service can accept jobs: `ready`, `degraded` (for example without its broker) or `unavailable`."""

    status: str
    checks: Mapping[str, str] = field(default_factory=dict, hash=False)
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document))

    @property
    def ready(self) -> bool:
        return self.status in {"ready", "degraded"}
