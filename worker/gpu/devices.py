"""Which GPUs a machine has, according to `nvidia-smi`, and whether the one of this worker can still be opened.

Neither costs an import of torch, and looking costs microseconds: a device file is opened and closed again.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from worker.gpu.advice import LOST_ACCESS, LOST_GPU, advised

ASK_SECONDS = 60.0
GPU = re.compile(r"GPU (\d+): (.+?) \(UUID: (GPU-[\w-]+)\)")
PART = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[\w/-]+)\)")
DEV = Path("/dev")
PROC = Path("/proc/driver/nvidia/gpus")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """Where one worker computes: a GPU, a MIG device of one, or the CPU."""

    label: str
    """`gpu-0` for GPU 0 of nvidia-smi, `gpu-0-mig-1` for a part of it, `cpu`, or `cpu-0` of several workers on it."""
    name: str
    uuid: str | None = None
    """What CUDA_VISIBLE_DEVICES takes, whatever the order in which CUDA counts; None: the CPU."""
    threads: int | None = None
    """Threads of each trainer on the CPU, where several workers share it. None: as the settings say."""
    workers: int = 1
    """How many workers share it, and its memory."""


CPU = Device("cpu", "the CPU")


class NoGpu(Exception):
    """There is no GPU that a worker could use; the message has the reason and the way out."""


def ask() -> str:
    """What `nvidia-smi -L` prints. Raises NoGpu."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except FileNotFoundError:
        raise NoGpu(advised("nvidia-smi is not on the PATH")) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoGpu(advised(f"nvidia-smi cannot be run, or hangs ({error})")) from error
    if done.returncode:
        raise NoGpu(advised(f"nvidia-smi fails: {(done.stdout + done.stderr).strip()}"))
    return done.stdout


def listed(text: str) -> list[Device]:
    """The devices of a listing by `nvidia-smi -L`; of a GPU that is cut into MIG devices those, for a process of CUDA
    sees one of them and not the whole."""
    found: list[Device] = []
    whole: Device | None = None
    for line in text.splitlines():
        if match := GPU.match(line):
            index, name, uuid = match.groups()
            whole = Device(f"gpu-{index}", name, uuid)
            found.append(whole)
        elif whole is not None and (match := PART.match(line)):
            if found[-1] is whole:
                found.pop()
            profile, index, uuid = match.groups()
            found.append(Device(f"{whole.label}-mig-{index}", f"{whole.name} MIG {profile}", uuid))
    return found


def visible(devices: Sequence[Device], environment: Mapping[str, str]) -> list[Device]:
    """Those that an inherited CUDA_VISIBLE_DEVICES leaves, in its order; as with CUDA, what follows a wrong entry is
    not there. Its numbers are taken for those of nvidia-smi.

    NVIDIA_VISIBLE_DEVICES is heeded by NVIDIA's container runtime: nvidia-smi does not list what it left out.
    """
    if environment.get("NVIDIA_VISIBLE_DEVICES") in ("none", "void"):
        return []
    wanted = environment.get("CUDA_VISIBLE_DEVICES")
    return list(devices) if wanted is None else _named(devices, wanted)


def _named(devices: Sequence[Device], wanted: str) -> list[Device]:
    chosen: list[Device] = []
    for entry in wanted.split(","):
        matching = [one for one in devices if _is_meant(one, entry.strip())]
        if len(matching) != 1 or matching[0] in chosen:
            break
        chosen += matching
    return chosen


def _is_meant(device: Device, entry: str) -> bool:
    if entry.isdigit():
        return device.label == f"gpu-{entry}"
    return bool(entry) and device.uuid is not None and device.uuid.startswith(entry)


def chosen(
    setting: str, environment: Mapping[str, str], ask: Callable[[], str] = ask, *, gpus: str = "all"
) -> list[Device]:
    """The devices to start a worker for each, by the setting `device`: auto, cpu, cuda (all) or cuda:1 (that one); of
    GPUs those that the setting `gpus` names.

    `auto` is the CPU where there is no GPU. Raises NoGpu where one was asked for.
    """
    if setting == "cpu":
        return [CPU]
    kind, _, number = setting.partition(":")
    if kind not in ("auto", "cuda") or (number and not number.isdigit()):
        raise NoGpu(f'LOOPLINE_DEVICE must be auto, cpu, cuda or cuda:1; got "{setting}".')
    try:
        found = visible(listed(ask()), environment)
        if gpus != "all":
            found = _named(found, gpus)
        if number:
            found = found[int(number) : int(number) + 1]
        if not found:
            raise NoGpu(advised(f"No devices were found for LOOPLINE_DEVICE={setting} and LOOPLINE_GPUS={gpus}"))
    except NoGpu as error:
        if setting != "auto":
            raise
        log.info("no usable GPU, the worker uses the CPU: %s", error)
        return [CPU]
    return found


class Gpu:
    """The GPU of this process. Once lost it stays lost: what mends it starts the process anew."""

    def __init__(self, nodes: Sequence[Path] = ()) -> None:
        """`nodes` are the device files that have to open; one that does not now is not asked again."""
        self._nodes = [node for node in nodes if _refusal(node) is None]
        self.trouble: str | None = None
        """Why there is none any more."""

    def look(self) -> bool:
        """Whether it is there."""
        for node in () if self.trouble else self._nodes:
            if (error := _refusal(node)) is not None:
                fix = LOST_ACCESS if isinstance(error, PermissionError) else LOST_GPU
                self.lose(f"{node} cannot be opened any more ({error.strerror}): {fix}.")
        return self.trouble is None

    def lose(self, trouble: str) -> None:
        """It is not there any more, and this is why."""
        if self.trouble is None:
            self.trouble = trouble
            log.error("the GPU is lost, this worker claims no more jobs: %s", trouble)


def gpu_of(setting: str, environment: Mapping[str, str]) -> Gpu:
    """The GPU of a process with this setting `device`; where that is the CPU, one that is never lost."""
    if setting == "cpu":
        return Gpu()
    names = ["nvidiactl", "nvidia-uvm"]
    with suppress(OSError):
        names += [f"nvidia{minor}" for minor in _minors(environment.get("CUDA_VISIBLE_DEVICES", ""))]
    return Gpu([DEV / name for name in names])


def _minors(uuid: str) -> list[str]:
    """The number in the device file of the GPU with this UUID; none for a MIG device."""
    found = []
    for information in PROC.glob("*/information"):
        facts = dict(re.findall(r"^(.+?):\s*(.*?)\s*$", information.read_text(), re.MULTILINE))
        if uuid and facts.get("GPU UUID") == uuid:
            found.append(facts["Device Minor"])
    return found


def _refusal(node: Path) -> OSError | None:
    """What opening a device file for reading and writing fails with: that, and no more, is what CUDA needs of it."""
    try:
        os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error
    return None
