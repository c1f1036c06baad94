"""Numbers of epochs and steps: kept, overwritten by a resumed run, thinned out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.db import rowcount
from services.jobs import attempts, progress, series
from services.jobs.leases import Lease
from services.orm import Job, StepChunk
from tests.services.conftest import claimed


def begun(
    session: Session, lease: Lease, resumed_from: dict[str, int] | None = None, best: dict[str, Any] | None = None
) -> Job:
    info = {"device": "cpu", "resumed_from": resumed_from}
    return progress.started(session, lease, epochs=3, steps_per_epoch=4, info=info, best=best)


def best_at(epoch: int) -> dict[str, Any]:
    """What a trainer says of an epoch that is the best so far."""
    return {"epoch": epoch, "metric": "train_loss", "value": 1 / epoch}


def test_starting_tells_the_size_of_the_run(session: Session, lease: Lease) -> None:
    job = begun(session, lease)
    assert (job.epochs, job.steps, job.epoch, job.step) == (3, 12, 0, 0)
    assert job.trainer == {"device": "cpu", "resumed_from": None, "steps_per_epoch": 4}


def test_epochs_are_read_in_order_and_in_pages(session: Session, lease: Lease) -> None:
    for epoch in (1, 2, 3):
        job = progress.record(session, lease, {"epoch": epoch, "train_loss": 1 / epoch})
    assert job.epoch == 3
    assert [record["epoch"] for record in progress.epochs(session, lease.job_id)] == [1, 2, 3]
    assert progress.epochs(session, lease.job_id, after=1, limit=1) == [{"epoch": 2, "train_loss": 0.5}]


def test_what_is_not_finite_is_stored_as_null(session: Session, lease: Lease) -> None:
    progress.record(session, lease, {"epoch": 1, "train_loss": math.inf, "validation_loss": math.nan})
    assert progress.epochs(session, lease.job_id) == [{"epoch": 1, "train_loss": None, "validation_loss": None}]
    progress.record_steps(session, lease, 1, [math.inf, None, 1e300], [0.5, math.nan, -math.inf])
    found = progress.steps(session, lease.job_id)
    assert (found.loss, found.grad_norm) == ([None, None, None], [0.5, None, None])


def test_steps_come_back_as_they_were_recorded(session: Session, lease: Lease) -> None:
    progress.record_steps(session, lease, 1, [4.0], [1.0])
    job = progress.record_steps(session, lease, 2, [3.0, 2.0], [1.5, None])
    assert job.step == 3
    found = progress.steps(session, lease.job_id)
    assert found == progress.Steps([1, 2, 3], [4.0, 3.0, 2.0], [1.0, 1.5, None], 3)


def test_a_job_without_steps_has_none(session: Session, queued_job: Job) -> None:
    assert progress.steps(session, queued_job.id).total == 0


def test_small_reports_grow_into_few_chunks(session: Session, lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "CHUNK_STEPS", 100)
    for first in range(1, 1001, 10):
        progress.record_steps(session, lease, first, [float(first)] * 10, [0.0] * 10)
    assert session.scalar(sa.select(sa.func.count()).select_from(StepChunk)) == 10
    found = progress.steps(session, lease.job_id, points=2000)
    assert found.step == [*range(1, 1001)]
    assert found.loss == [float(step // 10 * 10 + 1) for step in range(1000)]


@pytest.mark.parametrize("position", [1, 2, 5, 6, 7, 9, 10])
def test_a_resumed_run_overwrites_from_its_position(
    session: Session, lease: Lease, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    monkeypatch.setattr(progress, "CHUNK_STEPS", 4)
    for first in (1, 4, 7):
        progress.record_steps(session, lease, first, [1.0] * 3, [1.0] * 3)
    progress.record_steps(session, lease, position, [2.0] * 2, [2.0] * 2)
    found = progress.steps(session, lease.job_id)
    assert found.step == [*range(1, position + 2)]
    assert found.loss == found.grad_norm == [1.0] * (position - 1) + [2.0] * 2


def test_a_gap_is_left_where_a_report_was_lost(session: Session, lease: Lease) -> None:
    progress.record_steps(session, lease, 1, [1.0, 2.0], [0.0, 0.0])
    progress.record_steps(session, lease, 5, [5.0], [0.0])
    assert progress.steps(session, lease.job_id).step == [1, 2, 5]


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(engine: Engine, lease: Lease) -> None:
    with db.session_scope(engine) as session:
        begun(session, lease)
        for epoch in (1, 2):
            steps = range(epoch * 4 - 3, epoch * 4 + 1)
            progress.record_steps(session, lease, steps[0], [float(step) for step in steps], [0.0] * 4)
            progress.record(session, lease, {"epoch": epoch, "train_loss": 1 / epoch}, best=best_at(epoch))
            progress.checkpoint(session, lease, epoch=epoch, step=steps[-1], best=True, files=[])
        attempts.give_back(session, lease)
    again = claimed(engine)
    with db.session_scope(engine) as session:
        job = begun(session, again, {"epoch": 1, "step": 4}, best=best_at(1))
        assert (job.epoch, job.step, job.best) == (1, 4, best_at(1))
        assert [record["epoch"] for record in progress.epochs(session, job.id)] == [1]
        assert progress.steps(session, job.id).step == [1, 2, 3, 4]
        assert [row.step for row in progress.checkpoints(session, job.id)] == [4]
    with db.session_scope(engine) as session:
        job = begun(session, again)
        assert (job.epoch, job.step, job.best, progress.steps(session, job.id).total) == (0, 0, None, 0)


def test_the_best_epoch_is_the_one_that_the_trainer_says(session: Session, lease: Lease) -> None:
    """Losses alone would say otherwise: by (0.9, 0.7), (0.5, none), (0.45, 0.6) the second epoch's were once taken."""
    first = {"epoch": 1, "metric": "validation_loss", "value": 0.7}
    third = {"epoch": 3, "metric": "validation_loss", "value": 0.6}
    told = []
    for epoch, (train, validation), best in (
        (1, (0.9, 0.7), first),
        (2, (0.5, None), first),
        (3, (0.45, 0.6), third),
    ):
        record = {"epoch": epoch, "train_loss": train, "validation_loss": validation}
        told.append(progress.record(session, lease, record, best=best).best)
    assert told == [first, first, third]


def test_thinning_a_long_run_is_quick_and_keeps_the_spike(session: Session, lease: Lease) -> None:
    loss = np.linspace(5, 1, 100_000)
    loss[43_210] = 99.0
    for first in range(0, len(loss), 20_000):
        part = loss[first : first + 20_000].tolist()
        progress.record_steps(session, lease, first + 1, part, part)
    found = progress.steps(session, lease.job_id, points=300)
    assert len(found.step) <= 300
    assert (found.step[0], found.step[-1], found.total) == (1, 100_000, 100_000)
    assert found.loss[list(found.step).index(43_211)] == 99.0


def test_a_part_of_a_run_has_more_points_and_no_other_steps(session: Session, lease: Lease) -> None:
    loss, grad_norm = np.linspace(5, 1, 10_000), np.ones(10_000)
    grad_norm[4_321] = 50.0
    progress.record_steps(session, lease, 1, loss[:6_000].tolist(), grad_norm[:6_000].tolist())
    progress.record_steps(session, lease, 6_001, loss[6_000:].tolist(), grad_norm[6_000:].tolist())
    whole = progress.steps(session, lease.job_id, points=100)
    assert len(whole.step) <= 100
    assert whole.grad_norm[list(whole.step).index(4_322)] == 50.0  # a spike of either is kept
    part = progress.steps(session, lease.job_id, points=100, first=5_990, last=6_010)
    assert (list(part.step), part.total) == ([*range(5_990, 6_011)], 21)
    assert part.loss == [float(np.float32(value)) for value in loss[5_989:6_010]]
    assert list(progress.steps(session, lease.job_id, first=9_999).step) == [9_999, 10_000]
    assert progress.steps(session, lease.job_id, first=10_001).total == 0


@pytest.fixture
def long_run(session: Session, lease: Lease) -> str:
    """The id of a job with 20,000 steps in ten chunks: a spike at step 4,322, a gradient of 50 at 9,000, a dip at
    15,000. Nothing but the peaks is left of the chunks that have them."""
    loss, grad_norm = np.linspace(5, 1, 20_000), np.ones(20_000)
    loss[4_321], grad_norm[8_999], loss[14_999] = 99.0, 50.0, -9.0
    for first in range(0, 20_000, 2_000):
        part = slice(first, first + 2_000)
        progress.record_steps(session, lease, first + 1, loss[part].tolist(), grad_norm[part].tolist())
    with_peaks = sa.update(StepChunk).where(StepChunk.peaks.is_not(None)).values(loss=b"", grad_norm=b"")
    assert rowcount(session.execute(with_peaks)) == 9
    session.expire_all()
    return lease.job_id


def test_a_long_run_is_drawn_from_the_peaks_of_its_chunks_alone(session: Session, long_run: str) -> None:
    found = progress.steps(session, long_run, points=300)
    assert 150 < len(found.step) <= 300
    assert (found.step[0], found.step[-1], found.total) == (1, 20_000, 20_000)
    assert (max(map(float, found.loss)), min(map(float, found.loss))) == (99.0, -9.0)  # type: ignore[arg-type]
    at = {step: place for place, step in enumerate(found.step)}
    assert (found.loss[at[4_322]], found.grad_norm[at[9_000]], found.loss[at[15_000]]) == (99.0, 50.0, -9.0)
    assert found.loss[at[20_000]] == 1.0


def test_a_long_part_of_a_run_is_read_whole_only_at_its_ends(session: Session, long_run: str) -> None:
    rows = session.scalars(sa.select(StepChunk).order_by(StepChunk.first_step)).all()
    rows[1].loss = rows[1].grad_norm = rows[8].loss = rows[8].grad_norm = series.pack([2.0] * 2_000)
    session.flush()
    found = progress.steps(session, long_run, points=300, first=2_501, last=17_500)
    assert (found.step[0], found.step[-1], found.total) == (2_501, 17_500, 15_000)
    assert (found.loss[0], found.loss[-1], found.grad_norm[list(found.step).index(9_000)]) == (2.0, 2.0, 50.0)


@pytest.mark.parametrize("position", [3_001, 4_001])
def test_what_was_recorded_anew_is_in_the_curve_of_a_long_run(session: Session, lease: Lease, position: int) -> None:
    for first in (1, 2_001, 4_001):
        progress.record_steps(session, lease, first, [1.0] * 2_000, [1.0] * 2_000)
    progress.record_steps(session, lease, position, [9.0] * 10, [9.0] * 10)
    progress.record_steps(session, lease, position + 10, [3.0] * 2_000, [3.0] * 2_000)
    found = progress.steps(session, lease.job_id, points=50)
    assert (found.total, found.step[-1]) == (position + 2_009, position + 2_009)
    numbers = dict(zip(found.step, found.loss, strict=True))
    assert {numbers[step] for step in numbers if step < position} == {1.0}
    assert {numbers[step] for step in numbers if position <= step < position + 10} == {9.0}
    assert {numbers[step] for step in numbers if step >= position + 10} == {3.0}


@given(
    st.lists(st.floats(width=32, allow_infinity=False), min_size=1, max_size=200),
    st.integers(2, 60),
)
def test_thinned_points_are_few_ascending_and_hold_the_ends_and_the_greatest(values: list[float], points: int) -> None:
    array = np.array(values, dtype=np.float32)
    chosen = series.thin(array, points)
    assert len(chosen) <= max(points, 2)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert (chosen[0], chosen[-1]) == (0, len(values) - 1)
    if points >= 4 and not np.isnan(array).any():
        assert array[chosen].max() == array.max()
        assert array[chosen].min() == array.min()
