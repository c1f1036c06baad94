"""Which GPUs there are, told by an `nvidia-smi` that says what the real one does; and whether they still are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.gpu import devices
from worker.gpu.advice import advice, advised, is_device_trouble
from worker.gpu.devices import CPU, Device, Gpu, NoGpu, ask, chosen, gpu_of, listed

TWO = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
GPU 1: NVIDIA GeForce RTX 4090 (UUID: GPU-7a11c2de-0000-4b4b-9d9d-123456789abc)
"""
CUT = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 2g.10gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-7a11c2de-0000-4b4b-9d9d-123456789abc)
"""
FIRST, SECOND = "GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f", "GPU-7a11c2de-0000-4b4b-9d9d-123456789abc"

Smi = Callable[[str], None]


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Smi:
    """Puts a shell script in the place of nvidia-smi; without it there is none."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    def make(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return make


def test_every_gpu_is_found_by_its_uuid(smi: Smi) -> None:
    smi(f"[ \"$1\" = -L ] && cat <<'END'\n{TWO}END")
    assert listed(ask()) == [
        Device("gpu-0", "NVIDIA A100-SXM4-40GB", FIRST),
        Device("gpu-1", "NVIDIA GeForce RTX 4090", SECOND),
    ]


def test_of_a_gpu_that_is_cut_the_parts_are_found_and_not_the_whole() -> None:
    assert [(one.label, one.name, (one.uuid or "")[:8]) for one in listed(CUT)] == [
        ("gpu-0-mig-0", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "MIG-c6d4"),
        ("gpu-0-mig-1", "NVIDIA A100-SXM4-40GB MIG 2g.10gb", "MIG-cba6"),
        ("gpu-1", "NVIDIA A100-SXM4-40GB", "GPU-7a11"),
    ]


@pytest.mark.parametrize(
    ("setting", "environment", "labels"),
    [
        ("auto", {}, ["gpu-0", "gpu-1"]),
        ("cuda", {}, ["gpu-0", "gpu-1"]),
        ("cuda:1", {}, ["gpu-1"]),
        ("cpu", {}, ["cpu"]),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "1,0"}, ["gpu-1", "gpu-0"]),
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": "1,0"}, ["gpu-1"]),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "GPU-7a11"}, ["gpu-1"]),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "1,7,0"}, ["gpu-1"]),
        ("auto", {"CUDA_VISIBLE_DEVICES": ""}, ["cpu"]),
        ("auto", {"CUDA_VISIBLE_DEVICES": "-1"}, ["cpu"]),
        ("auto", {"NVIDIA_VISIBLE_DEVICES": "void"}, ["cpu"]),
        ("auto", {"NVIDIA_VISIBLE_DEVICES": "all"}, ["gpu-0", "gpu-1"]),
    ],
)
def test_what_is_asked_for_and_visible_is_chosen(setting: str, environment: dict[str, str], labels: list[str]) -> None:
    assert [one.label for one in chosen(setting, environment, lambda: TWO)] == labels


@pytest.mark.parametrize(
    ("gpus", "environment", "labels"),
    [
        ("all", {}, ["gpu-0", "gpu-1"]),
        ("1", {}, ["gpu-1"]),
        ("1,0", {}, ["gpu-1", "gpu-0"]),
        ("GPU-7a11", {"NVIDIA_VISIBLE_DEVICES": "all"}, ["gpu-1"]),  # as Docker sets it for a reservation of all
        ("0", {"CUDA_VISIBLE_DEVICES": "1"}, []),
    ],
)
def test_of_the_gpus_those_are_used_that_the_setting_names(
    gpus: str, environment: dict[str, str], labels: list[str]
) -> None:
    if labels:
        assert [one.label for one in chosen("cuda", environment, lambda: TWO, gpus=gpus)] == labels
        return
    with pytest.raises(NoGpu, match="LOOPLINE_GPUS=0"):
        chosen("cuda", environment, lambda: TWO, gpus=gpus)


@pytest.mark.parametrize(
    ("script", "way_out"),
    [
        ("", "nvidia-ctk runtime configure --runtime=docker && systemctl restart docker"),
        ("echo 'Failed to initialize NVML: Unknown Error'; exit 255", "create-dev-char-symlinks"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "reboot the host"),
        ('echo "NVIDIA-SMI has failed because it couldn\'t communicate with the NVIDIA driver."; exit 9', "modprobe"),
        ("echo 'No devices were found'; exit 6", "CUDA_VISIBLE_DEVICES"),
        ("true", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_was_asked_for_and_is_not_there_is_an_error_with_the_way_out(
    smi: Smi, script: str, way_out: str, caplog: pytest.LogCaptureFixture
) -> None:
    if script:
        smi(script)
    with pytest.raises(NoGpu, match=r".{20}") as refused:
        chosen("cuda", {})
    assert way_out in str(refused.value)
    with caplog.at_level("INFO", logger="worker.gpu.devices"):
        assert chosen("auto", {}) == [CPU]
    assert "no usable GPU, the worker uses the CPU" in caplog.text


@pytest.mark.parametrize("setting", ["tpu", "cuda:x", "cuda:9"])
def test_a_device_that_is_none_is_refused(setting: str) -> None:
    with pytest.raises(NoGpu, match="LOOPLINE_DEVICE"):
        chosen(setting, {}, lambda: TWO)


# Whether it still is there


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /dev and a /proc with two GPUs, whose numbers are not those of nvidia-smi."""
    dev, proc = tmp_path / "dev", tmp_path / "gpus"
    dev.mkdir()
    for name in ("nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1"):
        (dev / name).touch()
    for address, uuid, minor in (("0000:01:00.0", FIRST, 1), ("0000:02:00.0", SECOND, 0)):
        (proc / address).mkdir(parents=True)
        text = f"Model: \t\t NVIDIA A100\nIRQ:   \t\t 0\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n"
        (proc / address / "information").write_text(text)
    monkeypatch.setattr(devices, "DEV", dev)
    monkeypatch.setattr(devices, "PROC", proc)
    return dev


def test_a_gpu_is_lost_when_a_file_of_its_own_does_not_open_any_more(nodes: Path) -> None:
    one, other = (gpu_of("cuda", {"CUDA_VISIBLE_DEVICES": uuid}) for uuid in (FIRST, SECOND))
    assert one.look()
    assert other.look()
    (nodes / "nvidia1").unlink()
    assert not one.look()
    assert "nvidia1 cannot be opened any more (No such file or directory)" in (one.trouble or "")
    assert other.look()
    (nodes / "nvidia1").touch()
    assert not one.look(), "what mends it starts the process anew"
    (nodes / "nvidiactl").unlink()
    assert not other.look()


def test_a_gpu_that_may_not_be_opened_any_more_is_said_to_want_a_restart_of_the_container(
    nodes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = gpu_of("auto", {"CUDA_VISIBLE_DEVICES": FIRST})
    monkeypatch.setattr(os, "open", refuse)  # as a device cgroup does, to root too
    assert not gpu.look()
    assert "Operation not permitted" in (gpu.trouble or "")
    assert "Restart the container" in (gpu.trouble or "")
    assert "create-dev-char-symlinks" in (gpu.trouble or "")


def refuse(*_: object) -> int:
    raise PermissionError(1, "Operation not permitted")


def test_what_was_never_there_is_not_missed(tmp_path: Path, nodes: Path) -> None:
    assert gpu_of("cpu", {}).look()
    assert Gpu([tmp_path / "dxg"]).look()
    (nodes / "nvidia-uvm").unlink()
    assert gpu_of("cuda", {"CUDA_VISIBLE_DEVICES": "MIG-c6d4f1ef"}).look()


# Advice


class AcceleratorError(RuntimeError):
    """As torch's own, which this process does not import."""


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "nvidia-ctk runtime configure"),
        ("Found no NVIDIA driver on your system. Please check that you have", "`nvidia-smi` must work"),
        (
            "The NVIDIA driver on your system is too old (found version 11040).",
            "driver 470.1 is too old for torch 2.13",
        ),
        ("CUDA error: no kernel image is available for execution on the device", "code for Tesla K80, whose"),
        ("CUDA out of memory. Tried to allocate 256.00 MiB.", "`nvidia-smi` shows who"),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", "LD_LIBRARY_PATH"),
        ("CUDA error: unspecified launch failure", "Xid"),
        ("CUDA error: uncorrectable ECC error encountered", "Xid"),
        ("No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES"),
        ("Torch not compiled with CUDA enabled", "TORCH_INDEX"),
        ("Failed to initialize NVML: Unknown Error", "Restart the container"),
        ("Unable to determine the device handle for GPU0: GPU is lost.", "reboot of the host"),
    ],
)
def test_what_goes_wrong_comes_with_a_fix(words: str, fix: str) -> None:
    facts = {"driver": "470.1", "torch": "2.13", "cuda": "13.0", "name": "Tesla K80", "capability": "3.7"}
    assert fix in advised(f"{words}\nCUDA kernel errors might be asynchronously reported", facts)
    assert "{" not in advised(words)


def test_what_is_not_known_gets_no_advice() -> None:
    assert advice("the moon is full") is None
    assert advised("The moon is full.") == "The moon is full."


@pytest.mark.parametrize(
    ("error", "is_trouble"),
    [
        (AcceleratorError("CUDA error: unspecified launch failure"), True),
        (RuntimeError("CUDA error: the launch timed out and was terminated"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), True),
        (RuntimeError("No CUDA GPUs are available"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (AcceleratorError("CUDA error: out of memory"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False),
        (ValueError("CUDA error"), False),
    ],
)
def test_trouble_of_the_device_is_told_from_that_of_the_job(error: Exception, is_trouble: bool) -> None:
    assert is_device_trouble(error) is is_trouble
