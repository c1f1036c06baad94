"""The losses of many jobs at a few of their epochs, for small pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.orm import Epoch, Job

LOSSES = ("train_loss", "validation_loss")


@dataclass
class Curve:
    """Lists of one length."""

    epoch: list[int] = field(default_factory=list)
    train_loss: list[float | None] = field(default_factory=list)
    validation_loss: list[float | None] = field(default_factory=list)


def of_jobs(session: Session, job_ids: Sequence[str], *, tenant: str, points: int) -> Mapping[str, Curve]:
    """The curves of those jobs of the tenant that have epochs, by id, each with `points` (2 or more) epochs at most.

    One lookup of the primary key for each point, so a long job costs no more than a short one.
    """
    newest = select(Job.id, Job.epoch).where(Job.id.in_(job_ids), Job.tenant == tenant, Job.epoch > 0)
    wanted = [(row.id, epoch) for row in session.execute(newest) for epoch in _spread(row.epoch, points)]
    if not wanted:
        return {}
    these = sa.values(sa.column("job_id", sa.Text), sa.column("epoch", sa.Integer), name="these").data(wanted).cte()
    numbers = [Epoch.record[name].as_float() for name in LOSSES]
    query = select(Epoch.job_id, Epoch.epoch, *numbers).join(
        these, sa.and_(these.c.job_id == Epoch.job_id, these.c.epoch == Epoch.epoch)
    )
    curves: dict[str, Curve] = {}
    for job_id, epoch, train, validation in session.execute(query.order_by(Epoch.job_id, Epoch.epoch)):
        curve = curves.setdefault(job_id, Curve())
        curve.epoch.append(epoch)
        curve.train_loss.append(train)
        curve.validation_loss.append(validation)
    return curves


def _spread(newest: int, points: int) -> list[int]:
    """At most so many epochs from 1 to the newest, evenly, with both of these."""
    chosen = np.linspace(1, newest, min(points, newest)).round()
    return [int(epoch) for epoch in np.unique(chosen)]
