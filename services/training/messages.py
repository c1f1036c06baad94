"""What a supervisor and its trainer say to each other: a line of JSON per message, on two pipes.

The supervisor sends requests (`Order`, `Lease`, `Stop`, ...), the trainer sends events. Each message is a frozen
dataclass here. `to_json` writes one; `read_event` and `read_request` read one, and refuse what is not understood with
a sentence that names the field and what was expected. The first event is `ready`, and carries the version of this
protocol: after an upgrade in place, a worker of the old version may start a trainer of the new one.

No torch here, because the supervisor has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from services.training.epochs import Epoch

PROTOCOL = 4
"""Raised by every change of these messages that the version before would not understand."""

NEWEST = "newest"
"""An order's `resume` that asks for the newest checkpoint of its directory, whichever that is."""

Level = Literal["info", "warning", "error"]


class ProtocolError(Exception):
    """The other end sent something that is not understood."""


class StopReason(StrEnum):
    """Why a trainer is asked to stop, or has stopped."""

    CANCEL = "cancel"
    PAUSE = "pause"
    TIME_LIMIT = "time_limit"
    PRUNED = "pruned"  # the search of this trial has stopped it: other trials were better
    DRAIN = "drain"  # the worker shuts down
    LEASE = "lease"  # the lease could not be renewed
    DEVICE_LOST = "device_lost"  # the device failed before training began
    SIGINT = "SIGINT"  # Ctrl-C, where there is no supervisor
    SIGTERM = "SIGTERM"


class _Message:
    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


# Parts of messages


@dataclass(frozen=True, slots=True)
class File(_Message):
    """A file as it lies on disk, or in the object store once it is there."""

    name: str
    bytes: int
    sha256: str
    object: str | None = None
    """Its key in the object store."""


@dataclass(frozen=True, slots=True)
class Place(_Message):
    """Where a run goes on: after `epoch` whole epochs and `step` updates."""

    epoch: int
    step: int


@dataclass(frozen=True, slots=True)
class Best(_Message):
    """The best epoch so far, and the number that it was judged by."""

    epoch: int
    metric: str
    value: float | None


@dataclass(frozen=True, slots=True)
class FoldProgress(_Message):
    """Which fold a job is at, and what all of them come to as far as is known: a fold may stop early. Epochs and steps
    are numbered over the whole job."""

    number: int
    """From 1; one more than `folds` is the final model."""
    folds: int
    epochs: int
    """Of this fold, at most."""
    epochs_before: int
    total_epochs: int
    total_steps: int


@dataclass(frozen=True, slots=True)
class SavedModel(_Message):
    """A version of a model and the folder of its files; None where they are gone."""

    model: str
    directory: str | None


@dataclass(frozen=True, slots=True)
class Selection(_Message):
    """How the spec of a final model was selected: as the best of so many trials of a search."""

    search: str
    trials: int
    """Those that were made before."""
    metric: str
    value: float | None
    """Of the best trial; None if it was deleted."""


@dataclass(frozen=True, slots=True)
class Allowance(_Message):
    """What reading a file may take."""

    memory_bytes: int
    """Beyond what the process has."""
    file_bytes: int
    """Of a file that is written meanwhile."""


# What the supervisor sends


@dataclass(frozen=True, slots=True)
class Order(_Message):
    """What to train, from what, and where."""

    spec: dict[str, Any]
    data: str | None
    """The path of the data set's file; None for synthetic data."""
    directory: str
    resume: str | None = None
    """A checkpoint's path in the directory, NEWEST for the newest one there, or None to begin. None of a job that
    predicts."""
    device: str = "auto"
    data_sha256: str | None = None
    """The hash of the data set's file, where it is known."""
    suspect: bool = False
    """Whether to report what may be wrong with the data. The service has reported it already."""
    job: str = ""
    attempt: int = 0
    baselines: dict[str, SavedModel | None] | None = None
    """Of a retraining, by role: the model to start from (`warm_start`) and the one to beat (`against`). Of a job that
    predicts: its model (`predicts`)."""
    ending: str | None = None
    """Of a data set that was kept as it came: the ending of its name, which may say its format."""
    allowance: Allowance | None = None
    """Of a data set that was kept as it came, and was not checked: what reading it may take. None: any amount."""
    pieces: tuple[File, ...] = ()
    """Of a job that predicts: the files of answers that earlier attempts have registered, by their place."""
    rungs: tuple[int, ...] = ()
    """Of a trial of a search: the epochs after which the trainer waits for a `RungAnswer`."""
    selection: Selection | None = None
    """Of the final model of a search."""


@dataclass(frozen=True, slots=True)
class Lease(_Message):
    """The lease was renewed: the trainer ends itself at `until`, by the monotonic clock, unless another one arrives."""

    until: float


@dataclass(frozen=True, slots=True)
class Stop(_Message):
    """Save your place and end."""

    reason: StopReason


@dataclass(frozen=True, slots=True)
class Recorded(_Message):
    """How many of the attempt's events about checkpoints are in the database; `heard` in a message."""

    count: int


@dataclass(frozen=True, slots=True)
class RungAnswer(_Message):
    """Whether a trial goes on after this epoch, which is one of its rungs."""

    epoch: int
    goes_on: bool


Request = Order | Lease | Stop | Recorded | RungAnswer


# What the trainer sends


@dataclass(frozen=True, slots=True)
class Ready(_Message):
    """The trainer is warm and waits for its order."""

    protocol: int
    device: str
    name: str = "cpu"
    """Of a GPU, what it is called."""
    memory: int | None = None
    """Bytes that the device has in all; of `cpu`, those that the machine or its container has. None: unknown."""


@dataclass(frozen=True, slots=True)
class Started(_Message):
    """The run is built and training begins, or begins again with smaller batches."""

    epochs: int
    steps_per_epoch: int
    resumed_from: Place | None
    best: Best | None
    parameters: int
    device: str
    threads: int
    torch: str
    checkpoints: list[int] | None = None
    """The steps of those on disk; None where the trainer does not list them."""
    details: dict[str, Any] = field(default_factory=dict)
    """What else a trainer reports about itself; stored with the job."""
    fold: FoldProgress | None = None
    """None of a job without folds. With folds, `epochs` are those of the whole job."""
    sequences: int | None = None
    """Of a job that predicts, how many there are to answer. Then there is one epoch, and each of them is a step."""

    def info(self) -> dict[str, Any]:
        """What is stored with the job."""
        written = to_json(self)
        for name in ("event", "epochs", "steps_per_epoch", "best", "details", "fold", "sequences"):
            written.pop(name, None)
        return {**written, **self.details}


@dataclass(frozen=True, slots=True)
class FoldStarted(_Message):
    """The next fold begins, or the training of the final model."""

    fold: FoldProgress


@dataclass(frozen=True, slots=True)
class Steps(_Message):
    """The numbers of neighbouring updates from `first_step` on; None for one that is not finite."""

    first_step: int
    loss: list[float | None]
    grad_norm: list[float | None]
    fold: int = 0
    """0 of a job without folds."""

    def __post_init__(self) -> None:
        if len(self.loss) != len(self.grad_norm) or not self.loss:
            raise ValueError("loss and grad_norm must have the same length, and at least one number")

    @property
    def last_step(self) -> int:
        return self.first_step + len(self.loss) - 1


@dataclass(frozen=True, slots=True)
class EpochEnded(_Message):
    """The record of an epoch, and which epoch is the best with it."""

    record: Epoch
    best: Best | None

    def __post_init__(self) -> None:
        if not isinstance(self.record.get("epoch"), int):
            raise ValueError("record must have its epoch, a whole number")

    @property
    def epoch(self) -> int:
        return int(self.record["epoch"] or 0)

    @property
    def fold(self) -> int:
        """0 of a job without folds."""
        return int(self.record.get("fold") or 0)


@dataclass(frozen=True, slots=True)
class DeviceMemory(_Message):
    """Bytes of the device's memory: allocated, reserved, peak. Empty of a CPU, as a mere sign of life."""

    memory: dict[str, int]


@dataclass(frozen=True, slots=True)
class CheckpointSaved(_Message):
    """A checkpoint lies whole on disk."""

    epoch: int
    step: int
    best: bool
    files: tuple[File, ...]
    fold: int = 0
    """0 of a job without folds."""


@dataclass(frozen=True, slots=True)
class CheckpointDeleted(_Message):
    """A checkpoint is about to be deleted: nobody may count on it any more."""

    step: int


@dataclass(frozen=True, slots=True)
class RolledBack(_Message):
    """The run diverged and goes on from an earlier place."""

    epoch: int
    step: int
    best: Best | None
    message: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Note(_Message):
    """Something that happened to the job and that people should see: it becomes an event of the job."""

    type: str
    level: Level
    message: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Log(_Message):
    """A line for the job's log."""

    level: Level
    message: str


@dataclass(frozen=True, slots=True)
class Finished(_Message):
    """Training has ended and the model is on disk."""

    result: dict[str, Any]
    files: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class Stopped(_Message):
    """Training ended early for `reason`. A run that nobody goes on with may offer its best weights as a model."""

    reason: StopReason
    result: dict[str, Any] | None = None
    files: tuple[File, ...] | None = None


@dataclass(frozen=True, slots=True)
class Failed(_Message):
    """Training ended with an error."""

    reason: str
    """One of services.states.Reason."""
    message: str
    traceback: str | None


Event = (
    Ready
    | Started
    | FoldStarted
    | Steps
    | EpochEnded
    | DeviceMemory
    | CheckpointSaved
    | CheckpointDeleted
    | RolledBack
    | Note
    | Log
    | Finished
    | Stopped
    | Failed
)
End = Finished | Stopped | Failed

REQUESTS: Mapping[str, type[Request]] = {
    "order": Order,
    "lease": Lease,
    "stop": Stop,
    "heard": Recorded,
    "rung": RungAnswer,
}
EVENTS: Mapping[str, type[Event]] = {
    "ready": Ready,
    "started": Started,
    "fold": FoldStarted,
    "steps": Steps,
    "epoch": EpochEnded,
    "device": DeviceMemory,
    "checkpoint": CheckpointSaved,
    "checkpoint_deleted": CheckpointDeleted,
    "rolled_back": RolledBack,
    "note": Note,
    "log": Log,
    "finished": Finished,
    "stopped": Stopped,
    "failed": Failed,
}
_TAGS: Mapping[type, tuple[str, str]] = {
    **{kind: ("request", name) for name, kind in REQUESTS.items()},
    **{kind: ("event", name) for name, kind in EVENTS.items()},
}

_READERS: Mapping[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in _TAGS}

M = TypeVar("M")


def to_json(message: Event | Request) -> dict[str, Any]:
    """The message as plain values for JSON; fields at their default are left out."""
    key, name = _TAGS[type(message)]
    return {key: name, **as_dict(message)}


def as_dict(part: Any) -> dict[str, Any]:
    """A message, or a part of one, as plain values."""
    return {
        one.name: _plain(value)
        for one in fields(part)
        if (value := getattr(part, one.name)) != one.default
        and not (one.default_factory is not MISSING and value == one.default_factory())
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return as_dict(value) if is_dataclass(value) else value  # a list holds numbers alone


def read_event(document: object) -> Event:
    """What a trainer sent. Raises ProtocolError."""
    if isinstance(document, dict) and document.get("event") == "ready":
        _check_version(document.get("protocol", 0))
    return _read("trainer", "event", EVENTS, document)


def read_request(document: object) -> Request:
    """What a supervisor sent. Raises ProtocolError."""
    return _read("supervisor", "request", REQUESTS, document)


def _check_version(protocol: object) -> None:
    if protocol != PROTOCOL:
        raise ProtocolError(
            f"The trainer speaks version {protocol} of the protocol and this worker version {PROTOCOL}: Loopline was "
            "replaced while the worker ran. Restart the worker."
        )


def _read(sender: str, key: str, kinds: Mapping[str, type[M]], document: object) -> M:
    if not isinstance(document, dict) or not isinstance(document.get(key), str):
        raise ProtocolError(f"The {sender} sent a line that is no {key}: {document!r:.200}.")
    name = document[key]
    if name not in kinds:
        raise ProtocolError(f"The {sender} sent an unknown {key}, {name!r:.50}; known are {', '.join(kinds)}.")
    try:
        read: M = _READERS[kinds[name]].validate_python({one: document[one] for one in document if one != key})
        return read
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        detail = first["msg"].removeprefix("Value error, ")
        what = f"`{where}`: {detail[:1].lower()}{detail[1:]}" if where else detail
        got = "" if first["type"] in ("missing", "value_error") else f"; got {first['input']!r:.100}"
        raise ProtocolError(f"The {sender} sent a message `{name}` that is not whole: {what}{got}.") from error
