"""Advice for GPU errors: from a message of the driver, CUDA or torch to the likely cause and the remedy.

Written after the manuals of the NVIDIA driver and the NVIDIA Container Toolkit and torch's own messages. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

LOST_ACCESS = (
    "this process is no longer allowed to open the GPU; in a container that is what `systemctl daemon-reload` on the "
    "host does. Restart the container. For good: run `nvidia-ctk system create-dev-char-symlinks --create-all` on the "
    "host at every boot (docs/gpu.md)"
)
LOST_GPU = (
    "the GPU is gone from the bus or has failed. Look for `Xid` in the host's kernel log (`dmesg | grep -i xid`); "
    "`nvidia-smi --gpu-reset -i N` or a reboot of the host brings it back, unless the hardware is broken"
)

ADVICE: tuple[tuple[str, str], ...] = (
    (
        r"could not select device driver",
        "Docker has no NVIDIA runtime: install the NVIDIA Container Toolkit on the host, then "
        "`nvidia-ctk runtime configure --runtime=docker && systemctl restart docker`",
    ),
    (
        r"driver/library version mismatch",
        "the NVIDIA driver was upgraded under a running kernel: reboot the host, or unload and load its kernel modules",
    ),
    (
        r"couldn't communicate with the NVIDIA driver|driver not loaded|driver initiali[sz]ation failed",
        "the driver's kernel module is not loaded: `modprobe nvidia` on the host, or install the driver anew (after an "
        "upgrade of the kernel it has to be built again); `nvidia-smi` must work on the host",
    ),
    (r"NVML: (unknown error|insufficient permissions)|operation not permitted|permission denied", LOST_ACCESS),
    (
        r"driver on your system is too old|driver version is insufficient|forward compatibility",
        "the NVIDIA driver {driver} is too old for torch {torch}, which is built for CUDA {cuda}: update the driver, "
        "or install torch for an older CUDA (`make setup TORCH_INDEX=https://download.pytorch.org/whl/cu126`)",
    ),
    (
        r"not compiled with CUDA|built without CUDA",
        "this torch ({torch}) computes on CPUs only: make the environment again without TORCH_INDEX, or build the "
        "image with a CUDA build; LOOPLINE_DEVICE=cpu does without a GPU",
    ),
    (
        r"found no NVIDIA driver|nvidia-smi is not|no such file or directory: .?nvidia-smi",
        "there is no NVIDIA driver here. On a host: install it, `nvidia-smi` must work. In a container: install the "
        "NVIDIA Container Toolkit on the host (`nvidia-ctk runtime configure --runtime=docker && systemctl restart "
        "docker`) and give the container its GPUs (`--gpus all`, in compose a reservation of devices). "
        "LOOPLINE_DEVICE=cpu does without a GPU",
    ),
    (
        r"no kernel image is available|not compatible with the current PyTorch",
        "this build of torch ({torch}, for {architectures}) has no code for {name}, whose compute capability is "
        "{capability}: install a build that has (TORCH_INDEX), newer for a new GPU, older for an old one",
    ),
    (
        r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|only .* are free",
        "others hold the GPU's memory: `nvidia-smi` shows who; end them, or give them another GPU",
    ),
    (r"fallen off the bus|GPU is lost|device.* lost|no such device|uncorrectable|input/output error", LOST_GPU),
    (
        r"no CUDA GPUs are available|no CUDA-capable device|invalid device ordinal|no devices were found|no such GPU",
        "there is no GPU that this process may use: look at `nvidia-smi -L`, LOOPLINE_DEVICE, CUDA_VISIBLE_DEVICES, "
        "and in a container, at the devices it was given",
    ),
    (
        r"cudnn",
        "cuDNN does not work: another one may be found before torch's own (is LD_LIBRARY_PATH set?), or the driver is "
        "too old; `pip install --force-reinstall torch` brings torch's own back",
    ),
    (
        r"CUDA|CUBLAS|AcceleratorError",
        "CUDA has failed: look for `Xid` in the host's kernel log (`dmesg | grep -i xid`); "
        "`nvidia-smi --gpu-reset -i N` on the host clears most errors, else reboot it",
    ),
)
"""A pattern (whatever the case), and the advice for the first that is found; `{words}` are facts."""

DEVICE_LOST = "device_lost"
"""The reason that a trainer gives for such a failure; the job is given to another worker."""

OUT_OF_MEMORY = re.compile(r"CUDA.*out of memory|(CUDNN|CUBLAS)_STATUS_ALLOC_FAILED", re.IGNORECASE)
TROUBLE = re.compile(
    r"CUDA (error|driver|initiali[sz]ation)|CUDNN_STATUS|cuDNN error|CUBLAS_STATUS|NVIDIA driver|No CUDA GPUs|NVML",
    re.IGNORECASE,
)
UNSUPPORTED = re.compile(r"(CUDNN|CUBLAS)_STATUS_(NOT_SUPPORTED|BAD_PARAM|ARCH_MISMATCH)")
"""What these libraries answer where they have nothing for what is asked of them: the device is well."""
SHORTAGE = re.compile(r"can't start new thread|Resource temporarily unavailable|Too many open files", re.IGNORECASE)


class _Facts(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "(unknown)"


def advice(words: str, facts: Mapping[str, str] | None = None) -> str | None:
    """How to mend what these words complain of; None where nothing is known about it."""
    for pattern, fix in ADVICE:
        if re.search(pattern, words, re.IGNORECASE):
            return fix.format_map(_Facts(facts or {}))
    return None


def advised(words: str, facts: Mapping[str, str] | None = None) -> str:
    """The words, their first line at most, and the advice."""
    first = words.strip().partition("\n")[0].rstrip(".")
    fix = advice(words, facts)
    return f"{first}: {fix}." if fix else f"{first}."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU has no memory left, in the words of torch's allocator or of what allocates beside it."""
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def is_shortage(error: BaseException) -> bool:
    """Whether the machine had no thread or descriptor left: another try may find one."""
    return isinstance(error, RuntimeError) and SHORTAGE.search(str(error)) is not None


def is_device_trouble(error: BaseException) -> bool:
    """Whether an exception of torch is the device's fault rather than the job's: all of CUDA's but a lack of
    memory and what its libraries do not support.

    torch raises AcceleratorError where the runtime fails, and RuntimeError where a library above it does.
    """
    if not isinstance(error, RuntimeError) or is_out_of_memory(error) or UNSUPPORTED.search(str(error)):
        return False
    return type(error).__name__ == "AcceleratorError" or TROUBLE.search(str(error)) is not None
