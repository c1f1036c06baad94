"""What the command prints about a job with folds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from loopline import Client, Job
from loopline.cli.app import app
from loopline.types import Epoch, Progress, Result
from loopline.view import folds, jobs
from typer.testing import CliRunner

from services.jobs import progress
from services.training.messages import FoldProgress, as_dict

FOLD = {"best_epoch": 1, "epochs": 2, "stopped_early": False, "seed": 0, "samples": {"train": 20, "validation": 10}}
FOLDS = [
    {**FOLD, "fold": number, "metrics": {"validation_loss": loss, "validation_r2": None}}
    for number, loss in ((1, 0.5), (2, 0.25))
]
CROSSED = {
    "folds": FOLDS,
    "mean": {"validation_loss": 0.375, "validation_r2": None},
    "std": {"validation_loss": 0.1768, "validation_r2": None},
}
EPOCHS = [(1, 1, 1), (2, 1, 2), (3, 2, 1), (4, 2, 2), (5, 3, 1)]
"""Of each epoch: its number, its fold, and its number there."""


@pytest.fixture
def run(service: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("LOOPLINE_URL", service.url)
    return lambda *args: str(CliRunner().invoke(app, list(args), catch_exceptions=False).stdout)


@pytest.fixture
def crossed_job(service: Any, client: Client, tiny: dict[str, Any]) -> str:
    """It has trained two folds and is training the final model."""
    data = {**tiny["data"], "split": {"test": 0.2, "folds": 2}}
    job = client.submit({**tiny, "data": data})
    service.start(job.id, epochs=6)
    for epoch, fold, fold_epoch in EPOCHS:
        if fold_epoch == 1:
            place = FoldProgress(fold, 2, 1 if fold == 3 else 2, epoch - 1, 5, 20)
            service.do(progress.fold_started, job.id, as_dict(place))
        service.do(progress.record_steps, job.id, 4 * epoch - 3, [1.0] * 4, [1.0] * 4, fold)
        record = {"epoch": epoch, "fold": fold, "fold_epoch": fold_epoch, "train_loss": 1.0 / epoch, "seconds": 0.2}
        best = {"epoch": epoch, "metric": "train_loss", "value": 1.0 / epoch}
        service.do(progress.record, job.id, record, best=best)
    return job.id


def test_the_place_of_a_job_is_its_fold_and_the_epoch_there(run: Callable[..., str], crossed_job: str) -> None:
    shown = run("show", crossed_job)
    assert "final model, epoch 1 of 1, step 20/20 (100%)" in shown
    assert "train_loss 0.2000 (final model, epoch 1)" in shown


def test_watching_tells_each_epoch_with_its_fold_and_ends_with_a_table(
    run: Callable[..., str], service: Any, crossed_job: str
) -> None:
    service.succeed(crossed_job, **CROSSED)
    lines = run("watch", crossed_job).splitlines()
    assert [line.partition("  ")[0] for line in lines if "loss 0" in line or "loss 1" in line][:5] == [
        "fold 1 of 2, epoch 1",
        "fold 1 of 2, epoch 2",
        "fold 2 of 2, epoch 1",
        "fold 2 of 2, epoch 2",
        "final model, epoch 1 of 1",
    ]
    at = lines.index("folds, by their validation parts")
    assert [line.split() for line in lines[at + 1 : at + 5]] == [
        ["fold", "best", "epoch", "samples", "loss"],
        ["1", "1", "of", "2", "20", "+", "10", "0.5000"],
        ["2", "1", "of", "2", "20", "+", "10", "0.2500"],
        ["mean", "±", "std", "0.3750", "±", "0.1768"],
    ]
    assert "2 folds: validation_loss 0.3750 ± 0.1768" in lines
    shown = run("show", crossed_job)
    assert "folds, by their validation parts" in shown
    assert "0.3750 ± 0.1768" in shown
    assert "mean validation_loss 0.3750 ± 0.1768 over 2 folds" in shown
    assert "mean val loss 0.3750 ± 0.1768" in " ".join(run("list").split())


def test_python_reads_the_folds_and_asks_for_one(service: Any, client: Client, crossed_job: str) -> None:
    job = client.job(crossed_job)
    assert [(each.epoch, each.fold, each.fold_epoch) for each in job.epochs()] == EPOCHS
    assert [each.epoch for each in job.epochs(fold=2)] == [3, 4]
    steps = job.steps(fold=2)
    assert (steps.step, set(steps.fold)) == (tuple(range(9, 17)), {2})
    assert (job.progress.fold, job.progress.folds, job.progress.fold_epochs) == (3, 2, 1)
    service.succeed(crossed_job, **CROSSED)
    result = job.refresh().result
    assert result is not None
    assert result.folds is not None
    assert [fold.metrics["validation_loss"] for fold in result.folds] == [0.5, 0.25]
    assert result.std == CROSSED["std"]


def test_an_epoch_of_an_earlier_fold_is_not_shown_with_the_epochs_of_this_one() -> None:
    now = Progress(epoch=22, epochs=60, fold=3, folds=5, fold_epoch=2, fold_epochs=20)
    assert folds.place(now) == "fold 3 of 5, epoch 2 of 20"
    assert folds.head(Epoch(7, fold=2, fold_epoch=4), now) == "fold 2 of 5, epoch 4"
    assert folds.head(Epoch(22, fold=3, fold_epoch=2), now) == "fold 3 of 5, epoch 2 of 20"
    assert jobs.epoch_line(Epoch(3), Progress(epochs=20)).startswith("epoch  3/20  ")


def test_the_mean_is_said_to_be_of_the_folds_that_have_ended() -> None:
    result = Result.of({**CROSSED, "metrics": {}, "folds": FOLDS[:1]})
    job = Job("job_1", "cancelled", progress=Progress(fold=2, folds=5), result=result)
    assert jobs.best_of(job) == "mean validation_loss 0.3750 ± 0.1768 over 1 fold"


def test_an_incomplete_model_says_whose_weights_it_has() -> None:
    result = Result.of({"metrics": {}, "complete": False, "best_epoch": 3, "epochs": 7, "fold": 2, "folds": FOLDS[:1]})
    assert jobs.cut_short(result) == "the best weights of epoch 3 of fold 2, after 7 epochs (cut short)"
