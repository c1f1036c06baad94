"""What a job with folds records: each epoch and step with its fold, numbered over the whole job."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.jobs import events, progress, queries
from services.jobs.leases import Lease
from services.orm import Checkpoint, Epoch, Event, Job, StepChunk
from services.training.messages import FoldProgress, as_dict

FIRST = as_dict(FoldProgress(number=1, folds=2, epochs=3, epochs_before=0, total_epochs=9, total_steps=36))
SECOND = as_dict(FoldProgress(number=2, folds=2, epochs=3, epochs_before=2, total_epochs=8, total_steps=32))
FINAL = as_dict(FoldProgress(number=3, folds=2, epochs=2, epochs_before=5, total_epochs=7, total_steps=28))


def record(epoch: int, fold: int, fold_epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "fold": fold, "fold_epoch": fold_epoch, "train_loss": 1 / epoch}


def begun(session: Session, lease: Lease, fold: dict[str, Any], **resumed: int) -> Job:
    info = {"device": "cpu", "resumed_from": resumed or None}
    return progress.started(session, lease, epochs=fold["total_epochs"], steps_per_epoch=4, info=info, fold=fold)


def two_folds(session: Session, lease: Lease) -> Job:
    """Two epochs of the first fold, and one and a half of the second."""
    begun(session, lease, FIRST)
    progress.record_steps(session, lease, 1, [1.0] * 8, [1.0] * 8, 1)
    progress.record_all(
        session, lease, [record(1, 1, 1), record(2, 1, 2)], best={"epoch": 1, "metric": "m", "value": 1}
    )
    progress.checkpoint(session, lease, epoch=2, step=8, best=False, files=[], fold=1)
    progress.fold_started(session, lease, SECOND)
    progress.record_steps(session, lease, 9, [2.0] * 6, [2.0] * 6, 2)
    return progress.record(session, lease, record(3, 2, 1))


def test_the_job_says_which_fold_it_is_at_and_how_far_all_of_them_are(session: Session, lease: Lease) -> None:
    job = begun(session, lease, FIRST)
    assert (job.fold, job.epochs, job.steps) == (FIRST, 9, 36)
    job = two_folds(session, lease)
    assert (job.fold, job.epochs, job.steps, job.epoch, job.step) == (SECOND, 8, 32, 3, 14)
    job = progress.fold_started(session, lease, FINAL)
    assert (job.fold, job.epochs, job.steps, job.best) == (FINAL, 7, 28, None)
    told = session.scalars(
        sa.select(Event.message).where(Event.job_id == job.id, Event.type == events.Type.FOLD).order_by(Event.id)
    ).all()
    assert told == [
        "Fold 2 of 2 begins.",
        "The training of the final model begins: 2 epochs on all samples outside the test.",
    ]


def test_epochs_steps_and_checkpoints_have_their_fold(session: Session, lease: Lease) -> None:
    job = two_folds(session, lease)
    assert session.execute(sa.select(Epoch.epoch, Epoch.fold).order_by(Epoch.epoch)).all() == [(1, 1), (2, 1), (3, 2)]
    chunks = session.execute(sa.select(StepChunk.first_step, StepChunk.fold).order_by(StepChunk.first_step)).all()
    assert chunks == [(1, 1), (9, 2)]  # no chunk is of two folds
    assert session.scalars(sa.select(Checkpoint.fold)).all() == [1]
    steps = progress.steps(session, job.id)
    assert (list(steps.step), steps.fold) == (list(range(1, 15)), [1] * 8 + [2] * 6)
    steps = progress.steps(session, job.id, fold=2)
    assert (list(steps.step), set(steps.loss), steps.total) == (list(range(9, 15)), {2.0}, 6)
    assert progress.steps(session, job.id, fold=3).total == 0
    connection = session.connection()
    assert queries.epochs(connection, job.id, 0, 10, 2)[0].count(b'"epoch"') == 1
    assert queries.epochs(connection, job.id, 0, 1, 1)[1]
    assert queries.epochs(connection, job.id, 0, 10)[0].count(b'"epoch"') == 3


def test_an_attempt_that_goes_on_within_a_fold_forgets_what_lies_beyond_it(session: Session, lease: Lease) -> None:
    two_folds(session, lease)
    job = begun(session, lease, SECOND, epoch=2, step=10)  # in the first epoch of the second fold
    assert (job.epoch, job.step, job.fold) == (2, 10, SECOND)
    assert progress.steps(session, job.id).fold == [1] * 8 + [2] * 2
    progress.record_steps(session, lease, 11, [3.0] * 2, [3.0] * 2, 2)
    progress.record_steps(session, lease, 11, [3.0] * 2, [3.0] * 2, 2)  # written twice: the commit was not answered
    assert progress.steps(session, job.id, fold=2).total == 4
    job = begun(session, lease, FIRST, epoch=1, step=4)  # the newest checkpoints were damaged
    assert (job.epoch, job.fold) == (1, FIRST)
    assert progress.steps(session, job.id).fold == [1] * 4


def test_a_job_without_folds_says_nothing_of_them(session: Session, lease: Lease) -> None:
    job = progress.started(session, lease, epochs=3, steps_per_epoch=4, info={})
    progress.record_steps(session, lease, 1, [1.0], [1.0])
    progress.record(session, lease, {"epoch": 1})
    assert (job.fold, progress.steps(session, job.id).fold) == (None, None)
    assert session.scalars(sa.select(Epoch.fold)).all() == session.scalars(sa.select(StepChunk.fold)).all() == [0]
