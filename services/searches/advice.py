"""What would help more after a search has ended: more trials, more data, or neither. Hints by rules of thumb.

More trials help as long as they still find better values. After that the best trial itself tells: a model that is much
better on the samples that it was trained on than on others would learn more from more of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.orm import Epoch, Job
from services.training.measures import Measure, recorded

LEAST_TRIALS = 8
"""With fewer trials nothing is said."""
LATE = 2 / 3
"""A best trial that comes after this share of the trials is late."""
GAIN = 0.01
"""A late trial counts if the best value got better by this share of its size."""
GAP = 0.05
"""From this difference on, a share such as accuracy is much better on training samples."""
RATIO = 1.3
"""From this ratio on, an error such as a loss is much smaller on training samples."""


def of(session: Session, metric: str, best_so_far: Sequence[float | None], trial: int, job_id: str) -> list[str]:
    """What would help after a search, by the best value after each trial, its best trial and the job of that."""
    many = len(best_so_far)
    if many < LEAST_TRIALS:
        return []
    if is_late(best_so_far, trial, recorded(metric)):
        return [f"Trial {trial} of {many} is the best one so far, so more trials may find a better one."]
    found = [f"The last {many - trial} of {many} trials were not better, so more trials will hardly help."]
    measured = pair(*_measured(session, job_id)) if trial < many else None
    if measured is None:
        return found
    (train, on_trained), (validation, on_others) = measured
    values = f"{train} is {on_trained:.4g} and {validation} {on_others:.4g} after the best epoch of trial {trial}"
    if is_much_better(on_trained, on_others, recorded(train)):
        return [*found, f"More data would probably help: {values}."]
    return [*found, f"More data of this kind will hardly help either: {values}. Other features may."]


def is_late(best_so_far: Sequence[float | None], trial: int, measure: Measure) -> bool:
    """Whether the best trial came late, and was better than those before by more than a trifle."""
    before = best_so_far[math.ceil(LATE * len(best_so_far)) - 1]
    last = best_so_far[-1]
    if last is None or trial <= LATE * len(best_so_far):
        return False
    return before is None or (measure.is_better(last, before) and abs(last - before) > GAIN * abs(before))


def pair(record: Mapping[str, Any], mean: Mapping[str, Any]) -> tuple[tuple[str, float], tuple[str, float]] | None:
    """A metric of training and of validation samples with their names, by the record of an epoch and the mean over
    folds: a share such as accuracy if there is one, else the loss."""
    judged = {**record, **mean}
    names = [name.removeprefix("validation_") for name in judged if name.startswith("validation_")]
    shares = [name for name in names if name != "loss" and recorded(f"validation_{name}").higher_is_better]
    for name in (*shares, "loss"):
        values = judged.get(f"train_{name}"), judged.get(f"validation_{name}")
        if all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            return (f"train_{name}", float(values[0])), (f"validation_{name}", float(values[1]))  # type: ignore[arg-type]
    return None


def is_much_better(on_trained: float, on_others: float, measure: Measure) -> bool:
    """Whether a model is much better on the samples that it was trained on."""
    if measure.higher_is_better:
        return on_trained - on_others > GAP
    return on_others > RATIO * on_trained


def _measured(session: Session, job_id: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The record of the job's best epoch, or with folds of its last one, and the mean over its folds."""
    columns = (Job.epoch, Job.result["best_epoch"].label("best"), Job.result["mean"].label("mean"))
    row = session.execute(select(*columns).where(Job.id == job_id)).one()
    at = row.epoch if row.mean else row.best
    record = session.scalar(select(Epoch.record).where(Epoch.job_id == job_id, Epoch.epoch == at))
    return record or {}, row.mean or {}
