"""Small pictures of many jobs."""

from __future__ import annotations

import math
from collections.abc import Callable

from sqlalchemy.orm import Session

from services.jobs import curves, progress
from services.jobs.leases import Lease
from services.training.spec import Spec
from tests.rows import create_job


def test_a_curve_has_few_points_with_both_ends_and_no_more_than_there_are_epochs(
    session: Session, lease: Lease, make_spec: Callable[..., Spec]
) -> None:
    for epoch in range(1, 101):
        progress.record(session, lease, {"epoch": epoch, "train_loss": 1 / epoch, "validation_loss": None})
    waiting = create_job(session, make_spec())
    found = curves.of_jobs(session, [lease.job_id, waiting.id, "job_" + "0" * 26], tenant="default", points=5)
    assert found.keys() == {lease.job_id}
    curve = found[lease.job_id]
    assert curve.epoch == [1, 26, 50, 75, 100]
    assert curve.train_loss == [1 / epoch for epoch in curve.epoch]
    assert curve.validation_loss == [None] * 5
    [whole] = curves.of_jobs(session, [lease.job_id], tenant="default", points=100).values()
    assert whole.epoch == [*range(1, 101)]


def test_a_loss_that_is_not_finite_is_missing(session: Session, lease: Lease) -> None:
    progress.record(session, lease, {"epoch": 1, "train_loss": math.nan, "validation_loss": 2})
    [curve] = curves.of_jobs(session, [lease.job_id], tenant="default", points=9).values()
    assert (curve.train_loss, curve.validation_loss) == ([None], [2.0])


def test_another_tenant_sees_no_curve(session: Session, lease: Lease) -> None:
    progress.record(session, lease, {"epoch": 1, "train_loss": 1.0})
    assert curves.of_jobs(session, [lease.job_id], tenant="other", points=9) == {}
