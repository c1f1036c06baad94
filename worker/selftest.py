"""Check whether this device can train: `python -m worker.selftest [--device auto|cpu|cuda|cuda:1] [--json]`

    driver       torch finds a device that it can use
    allocate     memory can be allocated, written and read
    multiply     a matrix product equals the CPU's
    recurrent    a step of an LSTM on packed sequences, by cuDNN on a GPU, equals the CPU's
    precision    how many kinds of recurrent layers train in bf16 and fp16; the others are computed in float32

It prints one line per step. The first step that fails names the likely cause and the remedy. Exit status: 0 the device
can train, 1 it cannot. `python -m worker` runs this test on each GPU before it starts a worker there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from worker.gpu.advice import advised

if TYPE_CHECKING:
    import torch

ALLOCATED_BYTES = 256 << 20
TOLERANCE = 5e-3
"""Of the largest value: above what TF32, with its ten bits, costs; far below what a broken GPU gives."""


@dataclass(frozen=True)
class Step:
    """How one step of the test went."""

    name: str
    passed: bool
    seconds: float
    detail: str
    """What was found; where it failed, what is wrong and how to mend it."""

    def line(self) -> str:
        return f"{'ok  ' if self.passed else 'FAIL'}  {self.name:<10} {self.seconds:6.2f} s  {self.detail}"


@dataclass
class Machine:
    """What is tested, and what is known of it: the facts that advice is given with."""

    wanted: str
    device: torch.device | None = None
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> torch.device:
        assert self.device is not None, "the first step finds it"  # noqa: S101
        return self.device


def steps(wanted: str, tests: dict[str, Callable[[Machine], str]] | None = None) -> Iterator[Step]:
    """Each step as it has ended; one that fails is the last."""
    machine = Machine(wanted)
    for name, test in (tests or TESTS).items():
        began = time.monotonic()
        try:
            detail = test(machine)
        except Exception as error:  # noqa: BLE001  the one edge: whatever goes wrong is what is asked for
            message = f"{type(error).__name__}: {error}"
            yield Step(name, False, time.monotonic() - began, advised(message, machine.facts))
            return
        yield Step(name, True, time.monotonic() - began, detail)


def driver(machine: Machine) -> str:
    import torch

    from services.training.run import device_of

    machine.facts["torch"] = str(torch.__version__)
    if machine.wanted == "auto" and not torch.cuda.is_available():
        machine.wanted = "cpu"
    if machine.wanted == "cpu":
        machine.device = torch.device("cpu")
        return f"torch {torch.__version__} on the CPU, {torch.get_num_threads()} threads"
    machine.facts |= {"cuda": str(torch.version.cuda), "driver": _driver_version()}
    if torch.version.cuda is None:
        raise RuntimeError("torch is built without CUDA")
    torch.cuda.init()  # type: ignore[no-untyped-call]  # unlike is_available() it says what is wrong
    machine.device = device_of(machine.wanted)
    major, minor = torch.cuda.get_device_capability(machine.device)
    machine.facts |= {
        "name": torch.cuda.get_device_name(machine.device),
        "capability": f"{major}.{minor}",
        "architectures": ", ".join(torch.cuda.get_arch_list()),
    }
    message = "{name} (compute capability {capability}), driver {driver}, torch {torch} for CUDA {cuda}"
    return message.format_map(machine.facts)


def _driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.split("\n")[0].strip()
    return "(unknown)"


def allocate(machine: Machine) -> str:
    import torch

    size = ALLOCATED_BYTES if machine.place.type == "cuda" else ALLOCATED_BYTES // 16
    block = torch.ones(size // 4, device=machine.place)
    if float(block.sum(dtype=torch.float64)) != size // 4:
        raise RuntimeError(f"CUDA memory is not what was written to it ({size >> 20} MiB)")
    if machine.place.type != "cuda":
        return f"{size >> 20} MiB written and read"
    free, total = torch.cuda.mem_get_info(machine.place)
    return f"{size >> 20} MiB written and read; {free / 1e9:.1f} of {total / 1e9:.1f} GB are free beside them"


def multiply(machine: Machine) -> str:
    import torch

    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=draw) for _ in range(2))
    error = _error((a.to(machine.place) @ b.to(machine.place)).cpu(), (a.double() @ b.double()).float())
    return f"512 x 512, {error:.1e} of the largest value off the CPU's"


def recurrent(machine: Machine) -> str:
    import torch
    from torch import nn

    if machine.place.type == "cuda" and not torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
        raise RuntimeError("cuDNN is not available")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        there = nn.LSTM(8, 32, num_layers=2, bidirectional=True, batch_first=True)
        x = torch.randn(4, 12, 8)
    here = nn.LSTM(8, 32, num_layers=2, bidirectional=True, batch_first=True)
    here.load_state_dict(there.state_dict())
    there.to(machine.place)
    results = []
    for rnn, place in ((there, machine.place), (here, torch.device("cpu"))):
        packed = nn.utils.rnn.pack_padded_sequence(x.to(place), torch.tensor([12, 9, 5, 1]), batch_first=True)
        outputs, _ = rnn(packed)
        outputs.data.square().sum().backward()
        gradients = [parameter.grad.flatten() for parameter in rnn.parameters() if parameter.grad is not None]
        results.append((outputs.data.detach().cpu(), torch.cat(gradients).cpu()))
    forward, backward = (_error(got, wanted) for got, wanted in zip(*results, strict=True))
    by = "torch"
    if machine.place.type == "cuda":
        by = f"cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]
    return f"LSTM by {by}: outputs {forward:.1e}, gradients {backward:.1e} of the largest off the CPU's"


def precision(machine: Machine) -> str:
    import torch

    from services.training.model import DTYPES, FUNCTIONS, works_in

    if machine.place.type == "cuda":
        x = torch.randn(256, 256, device=machine.place, dtype=torch.float16)
        if not bool((x @ x).isfinite().all()):
            raise RuntimeError("CUDA: a product in fp16 is not finite")
    works, lacking = 0, []
    for name, dtype in DTYPES.items():
        for mode in FUNCTIONS:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "RNN module weights are not part", UserWarning)  # cuDNN's, in bf16
                ways = [works_in(dtype, mode, both, machine.place) for both in (False, True)]
            works += sum(ways)
            if not all(ways):
                lacking.append(f"{mode.lower()} in {name}")
    message = f"{works} of {2 * len(DTYPES) * len(FUNCTIONS)} kinds of recurrent layers train in bf16 or fp16"
    return message + (f"; in float32 instead: {', '.join(lacking)}" if lacking else "")


def _error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    error = float((got - wanted).abs().max() / wanted.abs().max())
    if not error <= TOLERANCE:
        raise RuntimeError(f"CUDA computes something else than the CPU: {error:.1e} of the largest value off")
    return error


TESTS: dict[str, Callable[[Machine], str]] = {
    "driver": driver,
    "allocate": allocate,
    "multiply": multiply,
    "recurrent": recurrent,
    "precision": precision,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.selftest", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:1")
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON at the end instead of one line per step"
    )
    options = parser.parse_args(arguments)
    taken = []
    for step in steps(options.device):
        taken.append(step)
        if not options.json:
            print(step.line(), flush=True)
    passed = all(step.passed for step in taken)
    if options.json:
        print(json.dumps({"passed": passed, "steps": [asdict(step) for step in taken]}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
