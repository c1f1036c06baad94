"""Cross-validation on the real service: from a CSV over HTTP to the results of the folds, also after a kill."""

from __future__ import annotations

import csv
import json
import math
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from loopline import Client

from tests.system.conftest import Service
from tests.system.test_files import loopline

SPEC: dict[str, Any] = {
    "architecture": {"cell": "gru", "hidden_size": 8, "pooling": "mean", "head_dropout": 0.2},
    "training": {"epochs": 10, "batch_size": 8, "optimizer": {"lr": 0.02}, "early_stopping": {"patience": 3}},
    "data": {
        "dataset": "./walks.csv",
        "schema": {"group": ["walk"], "order": "second", "target": ["activity"]},
        "split": {"test": 0.2, "folds": 3},
        "scaling": "standard",
    },
    "checkpoints": {"every_steps": 2},
}


@pytest.fixture
def walks(tmp_path: Path) -> Path:
    """Forty sequences; the frequency of the feature is the class."""
    noise = random.Random(1)
    with (tmp_path / "walks.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["walk", "second", "acc", "activity"])
        for number in range(40):
            for second in range(8 + number % 4):
                acc = math.sin(second * (0.3 + number % 2)) + noise.gauss(0, 0.4)
                writer.writerow([f"w{number:02}", second, round(acc, 4), ("walk", "run")[number % 2]])
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(SPEC))
    return tmp_path


def told(client: Client, job_id: str) -> tuple[Any, ...]:
    """All that does not depend on the clock, or on how often the job was tried."""
    job = client.job(job_id)
    epochs = [
        {name: value for name, value in epoch.raw.items() if name not in ("seconds", "samples_per_second")}
        for epoch in job.epochs()
    ]
    return job.status, job.raw["result"], epochs, job.steps(points=10_000)


@pytest.mark.timeout(300)
def test_folds_are_trained_shown_and_resumed_exactly(walks: Path, start: Callable[..., Service]) -> None:
    service = start(walks / "var")
    url = service.url()
    done = loopline(url, walks, "submit", "job.yaml", "--watch")
    assert done.returncode == 0, done.stderr
    assert "fold 2 of 3, epoch 1" in done.stdout
    assert "folds, by their validation parts" in done.stdout
    with Client(url) as client:
        job = client.job("last")
        result = job.result
        assert result is not None
        assert result.folds is not None
        assert len(result.folds) == 3
        assert sum(fold.samples["validation"] for fold in result.folds) == 32
        losses = [fold.metrics["validation_loss"] or math.nan for fold in result.folds]
        assert result.mean is not None
        assert result.mean["validation_loss"] == pytest.approx(statistics.fmean(losses))
        assert result.best_epoch == int(statistics.fmean(fold.best_epoch or 0 for fold in result.folds) + 0.5)
        assert (result.metrics["test_accuracy"] or 0.0) >= 0.5
        assert [event.type for event in job.events()].count("fold") == 6
        files = job.download(walks / "model")
        card = json.loads((walks / "model" / "model.json").read_text())
        assert {"model.safetensors", "model.json", "model.onnx", "history.json"} <= {file.name for file in files}
        assert card["folds"] == job.raw["result"]["folds"]

        broken = client.submit(walks / "job.yaml")
        killed = False
        while not (broken := broken.refresh()).terminal:
            if not killed and (broken.progress.fold or 0) >= 2:
                for one in service.family():
                    if is_trainer(one):
                        one.kill()
                killed = True
            time.sleep(0.02)
        assert killed
        assert broken.attempt == 2, broken.raw
        assert told(client, broken.id) == told(client, job.id)
        weights = [each.download(walks / each.id)[0].parent / "model.safetensors" for each in (job, broken)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert service.stop() == 0


def is_trainer(process: psutil.Process) -> bool:
    """One that trains, or one that waits for its order."""
    try:
        return "worker.trainer" in " ".join(process.cmdline())
    except psutil.Error:
        return False
