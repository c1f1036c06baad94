"""What a run leaves behind, as plain data for the checks: acknowledgements, the database, tick logs, files, logs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.blobs.storage import sha256
from services.orm import Checkpoint, Epoch, Event, Job, LogLine, StepChunk

UNTIMED = frozenset({"seconds", "samples_per_second"})
"""What a record says of the clock; no two runs have it equal."""


@dataclass(frozen=True)
class Ack:
    """A job that the API has answered for with a 2xx."""

    key: str
    job: str
    spec: str
    seed: int


@dataclass(frozen=True)
class Move:
    """One event of a job, in the order of its id."""

    id: int
    type: str
    attempt: int
    before: str | None
    after: str | None
    reason: str | None
    at: float = 0.0
    worker: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class Chunk:
    """Recorded steps, both ends included; loss and gradient norm as little-endian float32."""

    first: int
    last: int
    loss: bytes
    grad_norm: bytes


@dataclass(frozen=True)
class Saved:
    """A registered checkpoint."""

    step: int
    attempt: int
    files: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Tick:
    """One update, made by a trainer."""

    ns: int
    step: int
    pid: int


@dataclass
class JobSeen:
    """All that the database has of a job when everything is over."""

    id: str
    status: str
    reason: str | None
    attempt: int
    step: int
    max_retries: int
    key: str | None
    spec: Mapping[str, Any]
    result: Mapping[str, Any] | None = None
    files: Sequence[Mapping[str, Any]] = ()
    events: list[Move] = field(default_factory=list)
    checkpoints: list[Saved] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    epochs: list[Mapping[str, Any]] = field(default_factory=list)
    search: str | None = None
    trial: int | None = None
    choices: Mapping[str, Any] | None = None
    batch: str | None = None

    @property
    def name(self) -> tuple[str, int] | None:
        """Which spec and seed it was; None of a job of a search, and of a retraining, which are compared with those
        before the storm."""
        tags = self.spec["tags"]
        return (tags["spec"], int(tags["seed"])) if "spec" in tags else None


@dataclass(frozen=True)
class Thaw:
    """A process that was frozen from one moment to another, in CLOCK_MONOTONIC ns."""

    pid: int
    start: int
    end: int


@dataclass(frozen=True)
class Twin:
    """The same spec and seed, trained without faults."""

    result: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]
    loss: bytes
    grad_norm: bytes
    model_sha256: str
    files: frozenset[str]
    """Their names."""
    history: Any


@dataclass
class Evidence:
    acknowledged: list[Ack] = field(default_factory=list)
    jobs: dict[str, JobSeen] = field(default_factory=dict)
    ticks: dict[str, dict[int, list[Tick]]] = field(default_factory=dict)
    """By job and attempt."""
    thaws: list[Thaw] = field(default_factory=list)
    blobs: Path = Path()
    """The folder that holds one folder a job."""
    damaged: set[tuple[str, str]] = field(default_factory=set)
    """Files that the nemesis has damaged: job and name."""
    cancelled: set[str] = field(default_factory=set)
    """Jobs that somebody asked to be cancelled."""
    texts: dict[str, str] = field(default_factory=dict)
    """Everything written for people to read: log files, and what the database holds of that."""
    secrets: Sequence[str] = ()
    leftovers: list[str] = field(default_factory=list)
    """Processes that were still there after everything was told to end."""
    wall_minus_monotonic: float = 0.0
    """Seconds to add to CLOCK_MONOTONIC for the time of the database, which is on the same machine."""
    exits: list[tuple[str, int]] = field(default_factory=list)
    """Every end of a worker or scheduler before it was told to: its name, its status."""
    unexpected: list[str] = field(default_factory=list)
    """Answers of the API that no fault explains."""
    answers: int = 0
    twins: dict[tuple[str, int], Twin] = field(default_factory=dict)


def read_database(engine: Engine) -> dict[str, JobSeen]:
    """Every job with all that hangs on it."""
    with db.read_scope(engine) as session:
        jobs = {row.id: _job(row) for row in session.scalars(sa.select(Job))}
        for event in session.scalars(sa.select(Event).order_by(Event.id)):
            before, after = event.from_status, event.to_status
            told = (event.reason, event.at, event.worker, event.message)
            jobs[event.job_id].events.append(Move(event.id, event.type, event.attempt, before, after, *told))
        for saved in session.scalars(sa.select(Checkpoint).order_by(Checkpoint.step)):
            jobs[saved.job_id].checkpoints.append(Saved(saved.step, saved.attempt, saved.files))
        for chunk in session.scalars(sa.select(StepChunk).order_by(StepChunk.first_step)):
            place = Chunk(chunk.first_step, chunk.last_step, chunk.loss, chunk.grad_norm)
            jobs[chunk.job_id].chunks.append(place)
        for epoch in session.scalars(sa.select(Epoch).order_by(Epoch.epoch)):
            jobs[epoch.job_id].epochs.append(epoch.record)
    return jobs


def _job(row: Job) -> JobSeen:
    told = (row.id, row.status, row.reason, row.attempt, row.step, row.max_retries, row.tags.get("key"), row.spec)
    group = {"search": row.search_id, "trial": row.trial, "choices": row.choices, "batch": row.batch_id}
    return JobSeen(*told, row.result, row.files or (), **group)


def database_texts(engine: Engine) -> str:
    """Every text in the database that people read."""
    with db.read_scope(engine) as session:
        return "\n".join(_texts(session))


def _texts(session: Session) -> Iterator[str]:
    for column in (
        Job.message,
        Event.message,
        LogLine.text,
        sa.cast(Event.data, sa.Text),
        sa.cast(Job.trainer, sa.Text),
    ):
        yield from (text for text in session.scalars(sa.select(column)) if text)


def read_ticks(folder: Path) -> dict[str, dict[int, list[Tick]]]:
    """The tick logs, by job and attempt, in the order of time."""
    found: dict[str, dict[int, list[Tick]]] = {}
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            when, job, attempt, step, pid = line.split(" ")
            ticks = found.setdefault(job, {}).setdefault(int(attempt), [])
            if when != "begin":
                ticks.append(Tick(int(when), int(step), int(pid)))
    for attempts in found.values():
        for ticks in attempts.values():
            ticks.sort(key=lambda tick: tick.ns)
    return found


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, if there is one."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def untimed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of an epoch without what depends on the clock."""
    return {key: value for key, value in record.items() if key not in UNTIMED}


def history_of(path: Path) -> Any:
    """A history.json without what depends on the clock."""
    document = json.loads(path.read_text())
    return {**document, "epochs": [untimed(record) for record in document["epochs"]]}


def hash_of(path: Path) -> str | None:
    """The hash of a file; None where there is none."""
    try:
        return sha256(path)
    except FileNotFoundError:
        return None
