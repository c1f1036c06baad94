"""How long a job will take, from what earlier jobs took.

Each of the tenant's latest jobs that trained and succeeded says how many times longer its epochs were than
`spec/effort.py` counts. The jobs whose updates are the most alike say it of the new one. Nothing is learnt or stored.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.errors import SpecInvalid
from services.orm import Dataset, Epoch, Job
from services.states import Kind, Status
from services.training.files.summary import DatasetSummary
from services.training.spec import parsing
from services.training.spec.effort import PACES, Effort, effort
from services.training.spec.fields import Limits, Spec
from services.training.spec.footprint import of_synthetic

LOOKED_AT = 40
"""Earlier jobs that are compared."""
FIRST_EPOCHS = 6
"""Epochs of each that are read. The first one of a job takes longer, so it counts only if there is no other."""
MOST_ALIKE = 5
MOST_UNLIKE = 30.0
"""An update of a job that is compared takes at most so many times as long, or as short."""
UNKNOWN = "How long it takes is unknown"


@dataclass(frozen=True)
class Past:
    """An earlier job: what was counted for an epoch, and how many seconds it took."""

    queue: str
    device: str
    """`cpu`, or the name of a GPU."""
    counted: Effort
    epoch_seconds: float


@dataclass(frozen=True)
class Estimate:
    """How long a job will take."""

    epoch_seconds: float | None
    """None if it is unknown; so are the next two."""
    seconds: float | None
    """Of all epochs, at most."""
    device: str | None
    jobs: int
    """How many earlier jobs the estimate is from."""
    message: str
    """The same in a sentence, or why it is unknown."""


def past(session: Session, tenant: str) -> Sequence[Past]:
    """The tenant's latest jobs that trained and succeeded, newest first."""
    query = (
        select(Job.id, Job.queue, Job.spec, Job.trainer, Dataset.summary)
        .outerjoin(Dataset, Dataset.id == Job.dataset_id)
        .where(Job.tenant == tenant, Job.kind == Kind.TRAIN, Job.status == Status.SUCCEEDED)
        .order_by(Job.id.desc())
        .limit(LOOKED_AT)
    )
    rows = session.execute(query).all()
    took = _epoch_seconds(session, [row.id for row in rows])
    found = []
    for row in rows:
        counted = _counted(row.spec, row.summary) if row.id in took and row.trainer else None
        if counted is not None:
            found.append(Past(row.queue, _device(row.trainer), counted, took[row.id]))
    return found


def _epoch_seconds(session: Session, job_ids: Sequence[str]) -> dict[str, float]:
    """The median duration of the first epochs of each job."""
    query = select(Epoch.job_id, Epoch.record).where(Epoch.job_id.in_(job_ids), Epoch.epoch <= FIRST_EPOCHS)
    durations: dict[str, list[float]] = defaultdict(list)
    for job_id, record in session.execute(query.order_by(Epoch.job_id, Epoch.epoch)):
        if seconds := record.get("seconds"):
            durations[job_id].append(float(seconds))
    return {job_id: statistics.median(each[1:] or each) for job_id, each in durations.items()}


def _counted(document: Mapping[str, Any], summary: Mapping[str, Any] | None) -> Effort | None:
    """None of a job whose spec or data set this version cannot read, or whose data set is gone."""
    try:
        spec = parsing.stored(document)
        if spec.data.synthetic is not None:
            return effort(spec, of_synthetic(spec.data.synthetic))
        return None if summary is None else effort(spec, DatasetSummary(**summary))
    except (SpecInvalid, ValueError):
        return None


def _device(trainer: Mapping[str, Any]) -> str:
    return str(trainer.get("device_name") or str(trainer.get("device")).partition(":")[0])


def estimate(spec: Spec, counted: Effort, earlier: Sequence[Past]) -> Estimate:
    """How long a job with this spec will take on the device that ran the latest job of its queue."""
    here = [each for each in earlier if each.queue == spec.queue]
    if not here:
        return unknown(f"no job of the queue {spec.queue} has succeeded yet, so there is none to compare with")
    device = here[0].device
    pace = PACES["cpu" if device == "cpu" else "cuda"]

    def update(one: Effort) -> float:
        return math.log(one.seconds(pace) / one.steps_per_epoch)

    alike = [
        (abs(update(each.counted) - update(counted)), each.epoch_seconds / each.counted.seconds(pace))
        for each in here
        if each.device == device
    ]
    alike = [each for each in sorted(alike, key=lambda each: each[0]) if each[0] <= math.log(MOST_UNLIKE)][:MOST_ALIKE]
    if not alike:
        return unknown(f"no earlier job of the queue {spec.queue} on {_named(device)} was of a similar size")
    epoch_seconds = counted.seconds(pace) * statistics.median(factor for _, factor in alike)
    seconds = epoch_seconds * counted.epochs
    return Estimate(epoch_seconds, seconds, device, len(alike), _told(epoch_seconds, seconds, counted.epochs))


def exceeds(found: Estimate, limits: Limits) -> str | None:
    """A sentence about a job that would reach its time limit."""
    most = limits.max_runtime_seconds
    if found.seconds is None or most is None or found.seconds <= most:
        return None
    return (
        f"All epochs will take about {about(found.seconds)}, and limits.max_runtime_seconds ends the job after "
        f"{about(most)}: raise it, or train fewer epochs."
    )


def unknown(why: str) -> Estimate:
    """No estimate, and the reason."""
    return Estimate(None, None, None, 0, f"{UNKNOWN}: {why}.")


def _named(device: str) -> str:
    return "a processor" if device == "cpu" else device


def _told(epoch_seconds: float, seconds: float, epochs: int) -> str:
    if epochs == 1:
        return f"The epoch will take about {about(epoch_seconds)}."
    return f"An epoch will take about {about(epoch_seconds)}, the job about {about(seconds)} at most."


def about(seconds: float) -> str:
    """`0.05 s`, `40 s`, `20 min`, `3 h`, `2 days`: two digits, because an estimate has no more."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= 2 * size or (size == 1):
            return f"{_rounded(seconds / size)} {unit}"
    raise AssertionError("a second is the smallest unit")


def _rounded(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"
