"""A search on the whole service: three trials, the best one's model, and three more after a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from loopline import Client

from tests.system.conftest import Service
from tests.system.test_local import wait_until

TINY: dict[str, Any] = {
    "name": "tiny",
    "architecture": {"cell": "gru", "hidden_size": 4},
    "training": {"epochs": 2},
    "data": {"synthetic": {"samples": 40, "length": 5, "features": 2, "classes": 2}},
    "search": {
        "space": {
            "training.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True},
            "architecture.cell": ["lstm", "gru"],
        },
        "trials": 3,
        "stop_early": None,
    },
}


def test_a_search_finds_the_best_of_its_trials_and_goes_on_after_a_restart(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    service = start(tmp_path / "var", LOOPLINE_CPU_WORKERS="2")
    with Client(service.url()) as client:
        wait_until(lambda: len(client.workers()) == 2)
        search = client.searches.submit(TINY).wait(timeout=120)
        assert search.parallel == 2
        assert (search.status, search.counts["succeeded"]) == ("succeeded", 3)
        values = [trial.value for trial in search.trials]
        assert None not in values
        assert search.best is not None
        assert search.best.value == min(value for value in values if value is not None)
        job = search.best_job()
        assert job is not None
        assert job.spec["training"]["optimizer"]["lr"] == search.best.choices["training.optimizer.lr"]
        assert job.result is not None
        assert job.result.metrics["validation_loss"] == search.best.value
        assert (tmp_path / "model" / "model.json") in job.download(tmp_path / "model")
    assert service.stop() == 0
    with Client(start(tmp_path / "var").url()) as client:
        more = client.searches.get(search.id).add(1).wait(timeout=120)
        assert [trial.value for trial in more.trials[:3]] == values
        assert (more.status, more.made) == ("succeeded", 4)
