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

from services.orm import Epoch, Job, Search
from services.searches.queries import PRUNED, Detail, Row
from services.searches.reading import read_space
from services.training.measures import Measure, recorded

LEAST_TRIALS = 8
"""With fewer trials that can be compared nothing is said."""
LATE = 2 / 3
"""A best trial that comes after this share of the trials is late."""
GAIN = 0.01
"""A late trial counts if the best value got better by this share of its size."""
GAP = 0.05
"""From this difference on, an answer is much better on training samples."""
RATIO = 1.3
"""And of an error such as a loss, from this ratio on."""
CEILING = 0.99
"""Above it, there is little left to gain in a share such as accuracy."""


def of(session: Session, search: Search, found: Detail) -> list[str]:
    """What would help after a search has ended; nothing where the trials do not tell."""
    rows = [row for row in found.rows if row.value is not None or row.status == PRUNED]
    if found.best is None or search.ended_at is None or len(rows) < LEAST_TRIALS:
        return []
    measure, trial = recorded(search.settings["metric"]), found.best.trial
    after = sum(row.trial > trial for row in rows)
    if is_late([row.best_so_far for row in rows], len(rows) - after, measure):
        if _is_exhausted(search, found.rows):
            return []
        return [f"Trial {trial} is the best one so far and came late, so more trials may find a better one."]
    if after < (1 - LATE) * len(rows):
        return []
    said = [f"The last {after} of {len(rows)} trials were not better than trial {trial}, so more will hardly help."]
    measured = pair(*_measured(session, found.best.job_id))
    return said if measured is None else [*said, *about_data(*measured)]


def is_late(best_so_far: Sequence[float | None], place: int, measure: Measure) -> bool:
    """Whether the best trial, the `place`-th, came late, and was better than those before by more than a trifle."""
    before = best_so_far[math.ceil(LATE * len(best_so_far)) - 1]
    last = best_so_far[-1]
    if last is None or place <= LATE * len(best_so_far):
        return False
    return before is None or (measure.is_better(last, before) and abs(last - before) > GAIN * abs(before))


def about_data(trained: tuple[str, float], others: tuple[str, float]) -> list[str]:
    """Whether more data would help, by a metric of training and of validation samples with their names."""
    (name, on_trained), (other, on_others) = trained, others
    measure = recorded(name)
    if measure.higher_is_better and on_others >= CEILING:
        return []
    values = f"{name} is {on_trained:.4g} and {other} {on_others:.4g} for the best trial"
    if is_much_better(on_trained, on_others, measure):
        return [f"More data would probably help: {values}."]
    return [f"More data of this kind will hardly help either: {values}. Other features may."]


def pair(record: Mapping[str, Any], mean: Mapping[str, Any]) -> tuple[tuple[str, float], tuple[str, float]] | None:
    """A metric of training and of validation samples with their names, by the record of an epoch and the mean over
    folds: a share such as accuracy if there is one, else the loss."""
    judged = {**record, **mean}
    names = [name.removeprefix("validation_") for name in judged if name.startswith("validation_")]
    shares = [name for name in names if name != "loss" and recorded(f"validation_{name}").higher_is_better]
    for name in (*shares, "loss"):
        on_trained, on_others = _number(judged.get(f"train_{name}")), _number(judged.get(f"validation_{name}"))
        if on_trained is not None and on_others is not None:
            return (f"train_{name}", on_trained), (f"validation_{name}", on_others)
    return None


def is_much_better(on_trained: float, on_others: float, measure: Measure) -> bool:
    """Whether a model is much better on the samples that it was trained on."""
    if measure.higher_is_better:
        return on_trained - on_others > GAP
    return on_others - on_trained > GAP and on_others > RATIO * on_trained


def _is_exhausted(search: Search, rows: Sequence[Row]) -> bool:
    """Whether every combination was tried."""
    space, _ = read_space(search.settings["space"], {})
    most = None if space is None else space.count(len(rows) + 1)
    return search.settings["algorithm"] == "grid" or (most is not None and most <= len(rows))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _measured(session: Session, job_id: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The record of the job's best epoch, or with folds of its last one, and the mean over its folds. Empty if the job
    was deleted meanwhile."""
    columns = (Job.epoch, Job.result["best_epoch"].label("best"), Job.result["mean"].label("mean"))
    row = session.execute(select(*columns).where(Job.id == job_id)).one_or_none()
    if row is None:
        return {}, {}
    at = row.epoch if row.mean else row.best
    record = session.scalar(select(Epoch.record).where(Epoch.job_id == job_id, Epoch.epoch == at))
    return record or {}, row.mean or {}
