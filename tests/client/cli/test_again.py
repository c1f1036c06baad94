"""`loopline rerun` and `loopline reproduce`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopline import Client
from loopline.cli.app import app
from loopline.reproduction import compared
from safetensors.numpy import save
from typer.testing import CliRunner, Result

Run = Callable[..., Result]
MADE_WITH = {"torch": "2.12.0", "threads": 2}


@pytest.fixture
def run(service: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOPLINE_URL", service.url)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


def files(weight: float = 0.5, loss: float = 0.25, **made_with: Any) -> dict[str, bytes]:
    """Those of a model."""
    spec = {
        "name": str(weight),
        "tags": {"reproduces": f"job_{weight}"},
        "data": {"split": {"test": 0.2, "evaluate_test": weight != 0.5}},
        "training": {"seed": 1, "optimizer": {"lr": 0.001}},
    }
    card = {"spec": spec, "data": {"sha256": "ab12"}, "made_with": {**MADE_WITH, **made_with}}
    epochs = [{"epoch": 1, "train_loss": 1.0, "seconds": weight}, {"epoch": 2, "train_loss": loss, "seconds": 0.1}]
    return {
        "model.safetensors": save({"a": np.zeros(3, np.float32), "b": np.float32([[1.0, weight]])}),
        "model.json": json.dumps(card).encode(),
        "history.json": json.dumps({"epochs": epochs}).encode(),
    }


def folder(path: Path, content: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, data in content.items():
        (path / name).write_bytes(data)
    return path


def test_rerun_submits_the_same_spec_and_data_with_changes(
    run: Run, service: Any, client: Client, tiny: dict[str, Any], npz: Path
) -> None:
    first = client.upload(npz, name="mine")
    spec = {**tiny, "data": {"dataset": "mine"}, "tags": {"team": "a"}}
    job = client.submit(spec)
    client.upload(_another(npz), name="mine")  # a newer version, which the second job does not take
    done = run("rerun", job.id, "--set", "training.epochs=7", "-s", "name=again")
    again = client.job("last")
    assert done.stdout == f"Submitted {again.id} (again).\n"
    assert again.id != job.id
    assert (again.dataset_id, again.tags) == (first.id, {"team": "a"})
    assert again.spec["training"] == {**job.spec["training"], "epochs": 7}
    refused = run("rerun", job.id, "--set", "training.epoch=7", "-s", "x=1")
    assert refused.exit_code == 2
    assert "epochs" in refused.stderr


def _another(npz: Path) -> Path:
    arrays = dict(np.load(npz))
    arrays["x"] = arrays["x"] + 1
    path = npz.with_name("newer.npz")
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("weight", [0.5, 0.75])
def test_reproduce_trains_again_and_compares(
    run: Run, service: Any, client: Client, tiny: dict[str, Any], in_background: Any, weight: float
) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    service.succeed(job.id, files=files())

    def work() -> None:
        while (again := client.job("last")).id == job.id:
            pass
        assert again.tags == {"reproduces": job.id}
        service.start(again.id)
        service.succeed(again.id, files=files(weight))

    in_background(work)
    done = run("reproduce", job.id)
    submitted, *said = done.stdout.splitlines()
    assert submitted == f"Submitted {client.job('last').id}, which reproduces {job.id}."
    if weight == 0.5:
        assert done.exit_code == 0
        assert said[0].startswith("The weights are the same, bit for bit (sha256 ")
    else:
        assert done.exit_code == 1
        assert said[0] == "The weights differ by up to 0.25 (b)."


def test_reproduce_refuses_a_job_that_was_cut_short(
    run: Run, service: Any, client: Client, tiny: dict[str, Any]
) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    service.cut_short(job.id)
    done = run("reproduce", job.id)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: The model of {job.id} is incomplete: the best weights of epoch 2, after 3")
    assert client.job("last").id == job.id


def test_a_difference_is_told_with_what_was_different(tmp_path: Path) -> None:
    first = folder(tmp_path / "a", files())
    found = compared(first, folder(tmp_path / "b", files(0.5000001, 0.26, torch="2.13.0")))
    assert (found.is_same, found.first_epoch, found.where) == (False, 2, "b")
    assert found.largest_difference == pytest.approx(1.19e-7, rel=0.01)
    assert found.differences == (
        "torch was 2.12.0, and is 2.13.0",
    )  # not the name, the seconds, or whether it was tested
    assert compared(first, first).sentences()[0].startswith("The weights are the same")
    unlike = compared(first, folder(tmp_path / "c", files(0.75)))
    assert unlike.first_epoch is None
    assert "not deterministic" in unlike.sentences()[-1]
    wider = {**files(), "model.safetensors": save({"a": np.zeros(4, np.float32)})}
    assert compared(first, folder(tmp_path / "d", wider)).sentences()[0] == "The weights are different."
