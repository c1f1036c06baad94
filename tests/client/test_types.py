from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from loopline import Checkpoint, Dataset, Epoch, Job, Progress

JOB: dict[str, Any] = {
    "id": "job_1",
    "status": "running",
    "terminal": False,
    "queue": {"name": "night", "position": None},
    "progress": {"epoch": 2, "epochs": 5, "fraction": 0.4, "from_the_future": 1},
    "best": {"epoch": 1, "metric": "validation_loss", "value": 0.5, "from_the_future": 1},
    "dataset": {"id": "ds_1", "name": "vowels"},
    "created_at": "2026-01-02T03:04:05Z",
    "started_at": "2026-01-02T03:04:06.500+00:00",
    "finished_at": None,
    "from_the_future": {"a": 1},
}


def test_a_job_reads_what_it_knows_and_keeps_the_rest_as_raw() -> None:
    job = Job.of(JOB)
    assert (job.id, job.queue, job.dataset_name, job.progress.epochs) == ("job_1", "night", "vowels", 5)
    assert job.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert job.raw["from_the_future"] == {"a": 1}


def test_a_job_of_an_older_service_has_defaults_for_what_is_missing() -> None:
    job = Job.of({"id": "job_1", "status": "queued"})
    assert (job.queue, job.position, job.best, job.result, job.seconds) == ("default", None, None, None, None)
    assert job.progress == Progress()


def test_a_job_took_from_its_start_to_its_end() -> None:
    job = Job.of(JOB | {"finished_at": "2026-01-02T03:04:09Z"})
    assert job.seconds == timedelta(seconds=2.5).total_seconds()


def test_results_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Job.of(JOB).status = "succeeded"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Epoch(1).epoch = 2  # type: ignore[misc]


def test_an_epoch_tells_metrics_from_losses_and_timings() -> None:
    epoch = Epoch.of(
        {"epoch": 1, "train_loss": 0.5, "validation_macro_f1": None, "train_accuracy": 0.9, "seconds": 1.0}
    )
    assert epoch.metrics == {"validation_macro_f1": None, "train_accuracy": 0.9}
    assert epoch["train_accuracy"] == 0.9


def test_a_repr_has_what_is_there_in_few_letters() -> None:
    dataset = Dataset.of({"id": "ds_1", "name": "walks", "sha256": "a" * 64, "warnings": [], "samples": 0})
    assert repr(dataset).startswith("Dataset(id='ds_1', name='walks', version=1, status='ready', sha256='aaa")
    assert "aaa..., bytes=0" in repr(dataset)
    assert "warnings" not in repr(dataset)
    assert repr(Checkpoint(3, created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))) == (
        "Checkpoint(step=3, epoch=0, bytes=0, created_at=2026-01-02 03:04:05)"
    )


def test_results_can_be_kept_in_sets() -> None:
    records = [
        Job.of(JOB),
        Epoch.of({"epoch": 1}),
        Checkpoint.of({"step": 1}),
        Dataset.of({"id": "ds_1", "classes": [1]}),
    ]
    assert len({*records, *records}) == 4


def test_a_data_set_is_referred_to_by_name_and_version() -> None:
    assert Dataset.of({"id": "ds_1", "name": "vowels", "version": 3}).reference == "vowels@3"
