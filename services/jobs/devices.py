"""Whether a worker of a job's queue has memory enough for it, as far as its workers have told."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.db import Query, now
from services.errors import Problem
from services.jobs.workers import KEEP_SECONDS
from services.orm import Worker
from services.training.files.summary import DatasetSummary
from services.training.spec import Spec, room
from services.training.spec.footprint import shown
from services.training.spec.room import USUAL, Device

SHARED = "if several workers share that CPU, LOOPLINE_CPU_WORKERS=1 gives one job all its memory"


def of_queue(session: Session, queue: str) -> Sequence[Device]:
    """The devices of the queue's workers that were seen within the last hour. None if one of them has not told its
    memory yet: that one may have room for every job."""
    rows = [row for row in _workers().rows(session.connection()) if queue in row.queues.split(",")]
    if any(row.device is None or row.memory_bytes is None for row in rows):
        return []
    return sorted({Device(row.device, row.memory_bytes) for row in rows}, key=lambda one: (one.memory, one.name))


@cache
def _workers() -> Query:
    columns: tuple[Any, ...] = (Worker.queues, Worker.device, Worker.memory_bytes)
    return Query(select(*columns).where(Worker.seen_at >= now() - KEEP_SECONDS))


def problem(spec: Spec, summary: DatasetSummary, devices: Sequence[Device]) -> Problem | None:
    """Why no worker can run the job, if each has less memory than it surely needs there."""
    if (lacking := room.lacks(spec, summary, devices)) is None:
        return None
    need, device = lacking
    alone = f"; {SHARED}" if device.name == room.CPU else ""
    return Problem(
        need.largest.pointer,
        f"no worker of the queue {spec.queue} has enough memory: the one that comes closest has {_told(device)}, and "
        f"the job needs {need} there; {need.largest.way_out}, or start a worker with enough memory, which lets the job "
        f"pass{alone}",
    )


def caution(spec: Spec, summary: DatasetSummary, devices: Sequence[Device]) -> str | None:
    """A sentence about a job that may run out of memory on every worker of its queue."""
    if (near := room.is_near(spec, summary, devices)) is None:
        return None
    wanted, device = near
    then = "fails" if device.name == room.CPU else "goes on with smaller parts of a batch, which takes longer"
    return (
        f"The job may run out of memory: {shown(wanted)} are counted, jobs often take {USUAL} times what is counted or "
        f"more, and the workers of the queue {spec.queue} have at most {_told(device)}. Then it {then}. Lower "
        "training.batch_size, or architecture.hidden_size."
    )


def _told(device: Device) -> str:
    return f"{shown(device.memory)} ({device.name})"
