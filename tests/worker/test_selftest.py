"""The self-test of a device, as far as a CPU can take it; what only a GPU can fail at is injected."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forking
from worker.selftest import TESTS, Machine, _error, steps

ROOT = Path(__file__).parent.parent.parent


def test_the_cpu_passes_and_every_step_says_so() -> None:
    done = self_test("--device", "cpu")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in TESTS]
    assert all(" s  " in line for line in lines)


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the variable is for x86")
def test_layers_that_the_processor_lacks_are_counted() -> None:
    done = self_test("--device", "cpu", "--json", ONEDNN_MAX_CPU_ISA="AVX2")
    assert done.returncode == 0, done.stderr
    step = json.loads(done.stdout)["steps"][-1]
    assert (step["name"], step["passed"]) == ("precision", True)
    assert step["detail"] == (
        "12 of 16 kinds of recurrent layers train in bf16 or fp16; in float32 instead: lstm in bf16, lstm in fp16"
    )


def test_a_gpu_that_is_not_there_fails_with_the_fix_and_the_exit_status() -> None:
    done = self_test("--device", "cuda", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert not report["passed"]
    [step] = report["steps"]
    assert (step["name"], step["passed"]) == ("driver", False)
    assert "LOOPLINE_DEVICE" in step["detail"]


@pytest.mark.parametrize(
    ("name", "error", "fix"),
    [
        ("allocate", RuntimeError("CUDA out of memory. Tried to allocate 256.00 MiB."), "`nvidia-smi` shows who"),
        ("multiply", RuntimeError("CUDA error: no kernel image is available for execution"), "capability is 3.7"),
        ("recurrent", RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), "LD_LIBRARY_PATH"),
    ],
)
def test_a_step_that_fails_is_the_last_and_says_what_to_do(name: str, error: Exception, fix: str) -> None:
    def passes(machine: Machine) -> str:
        machine.facts |= {"name": "Tesla K80", "capability": "3.7"}
        return "well"

    def fails(machine: Machine) -> str:
        raise error

    taken = list(steps("cuda", {one: fails if one == name else passes for one in TESTS}))
    assert [step.passed for step in taken[:-1]] == [True] * (len(taken) - 1)
    assert (taken[-1].name, taken[-1].passed) == (name, False)
    assert fix in taken[-1].detail


def test_a_device_that_computes_something_else_fails() -> None:
    import torch

    right = torch.ones(3)
    assert _error(right, right) == 0.0
    for wrong in (torch.tensor([1.0, 1.0, 1.1]), torch.tensor([1.0, 1.0, float("nan")])):
        with pytest.raises(RuntimeError, match="computes something else"):
            _error(wrong, right)


def self_test(*arguments: str, **also: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    return forking.run(
        [sys.executable, "-m", "worker.selftest", *arguments],
        torch=True,
        cwd=ROOT,
        env={**environment, "CUDA_VISIBLE_DEVICES": "", **also},
        capture_output=True,
        text=True,
        timeout=100,
    )
