"""`make gpu-check`, on the CPU: the check itself has to be right before there is a GPU to check."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import forking
from worker import gpucheck
from worker.gpucheck import Bench, Wrong, main


@pytest.fixture(autouse=True)
def _forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run is a process of its own, which need not import torch again."""
    with_torch = {name: functools.partial(getattr(forking, name), torch=True) for name in ("Popen", "run")}
    monkeypatch.setattr(gpucheck, "subprocess", SimpleNamespace(**{**vars(subprocess), **with_torch}))


@pytest.mark.timeout(300)
def test_every_check_that_a_cpu_can_take_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--epochs", "4", "float32", "bf16", "fp16", "resume"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["ok", name] for name in ("float32", "bf16", "fp16", "resume")]
    assert "0.0e+00 of their size off the CPU's" in lines[0]
    assert all("the loss went from" in line for line in lines[1:3])
    assert "the same weights and history, bit for bit" in lines[3]
    assert lines[-1] == "All is well on cpu."


def test_an_accuracy_that_is_not_reached_is_told_and_changes_the_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--device", "cpu", "--epochs", "1", "--accuracy", "1.01", "vowels"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("FAIL  vowels")
    assert "and 1.01 was to be reached" in said
    assert said.endswith("Not right on cpu: vowels.\n")


def test_without_a_gpu_the_self_test_is_all_that_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda:63"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("FAIL  selftest")


def test_a_run_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    bench = Bench("cpu", tmp_path, 1, 0.0)
    with pytest.raises(Wrong, match=r"(?s)odd ended with status 2: .*training/epochs"):
        bench.train("odd", {**bench.spec(), "training": {"epochs": -1}})


@pytest.mark.parametrize(
    ("first", "last", "is_wrong"), [(2.0, 1.0, False), (2.0, 1.9, True), (2.0, float("nan"), True)]
)
def test_a_loss_that_does_not_fall_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: float, last: float, is_wrong: bool
) -> None:
    (tmp_path / "history.json").write_text(json.dumps({"epochs": [{"train_loss": first}, {"train_loss": last}]}))
    monkeypatch.setattr(Bench, "train", lambda *_, **__: tmp_path)
    bench = Bench("cuda", tmp_path, 1, 0.0)
    if is_wrong:
        with pytest.raises(Wrong, match="learns nothing"):
            gpucheck.fp16(bench)
    else:
        assert "from 2.0000 to 1.0000" in gpucheck.fp16(bench)
