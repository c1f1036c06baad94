"""Check that Loopline trains correctly on this GPU: `python -m worker.gpucheck` or `make gpu-check`, some minutes.

    selftest     python -m worker.selftest
    vowels       examples/vowels.yaml reaches its accuracy
    float32      losses equal the CPU's within a tolerance, update by update (TF32 off)
    bf16 fp16    training in bf16 and fp16 learns
    resume       a run that is killed and resumed equals an uninterrupted one, bit for bit, in deterministic mode

Each check runs `python -m services.training` in its own processes, as a worker does. Exit status: 0 every check passed,
1 a check failed. `--device cpu` runs the checks that work on a CPU; this is how the tests run this command.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.training.spec.reading import loads

ROOT = Path(__file__).resolve().parent.parent
SPEC = ROOT / "examples" / "vowels.yaml"
DATA = ROOT / "data" / "japanese-vowels.npz"

TOLERANCE = 1e-4
"""How far a loss may be from the CPU's, of its size: plain SGD keeps rounding errors that small for 40 updates."""
LEARNT = 0.7
"""What is left, at most, of the first epoch's loss after a run in half the precision."""
NO_TF32 = {"NVIDIA_TF32_OVERRIDE": "0"}
"""cuDNN uses TF32 for float32 by default, as torch has it; CUDA's libraries heed this."""
RUN_SECONDS = 900.0
CLOCK = {"seconds", "samples_per_second"}


class Wrong(Exception):
    """What was found is not what had to be."""


@dataclass(frozen=True)
class Bench:
    """What the checks work with."""

    device: str
    folder: Path
    epochs: int
    accuracy: float

    def spec(self, **training: Any) -> dict[str, Any]:
        """A network with everything that CUDA does in its own way: two layers and directions, lengths that differ."""
        return {
            "architecture": {"cell": "gru", "hidden_size": 32, "num_layers": 2, "bidirectional": True},
            "training": {"epochs": self.epochs, "batch_size": 16, "seed": 7, **training},
            "data": {"dataset": str(DATA), "scaling": "standard", "split": {"validation": 0.2}},
        }

    def train(self, name: str, spec: Mapping[str, Any], device: str | None = None, *more: str, **also: str) -> Path:
        """The folder of a run that has ended well. Raises Wrong where it has not."""
        process = self.start(name, spec, device, *more, **also)
        try:
            said, _ = process.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Wrong(f"{name} did not end within {RUN_SECONDS:g} s") from None
        if process.returncode:
            last = " | ".join(said.decode(errors="replace").strip().splitlines()[-3:])
            raise Wrong(f"{name} ended with status {process.returncode}: {last}")
        return self.folder / name

    def start(
        self, name: str, spec: Mapping[str, Any], device: str | None = None, *more: str, **also: str
    ) -> subprocess.Popen[bytes]:
        job = self.folder / f"{name}.json"
        job.write_text(json.dumps(spec))
        command = [sys.executable, "-m", "services.training", str(job), "--out", str(self.folder / name), "--quiet"]
        return subprocess.Popen(
            [*command, "--device", device or self.device, *more],
            cwd=ROOT,
            env={**os.environ, **also},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


def self_test(bench: Bench) -> str:
    command = [sys.executable, "-m", "worker.selftest", "--json", "--device", bench.device]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    try:
        steps = json.loads(done.stdout.splitlines()[-1])["steps"]
    except (ValueError, IndexError):
        raise Wrong(f"it ended with status {done.returncode}: {done.stderr[-300:]}") from None
    for step in steps:
        if not step["passed"]:
            raise Wrong(f"{step['name']}: {step['detail']}")
    return str(steps[0]["detail"])


def vowels(bench: Bench) -> str:
    spec = loads(SPEC.read_text())
    spec["data"]["dataset"] = str(DATA)
    spec["training"]["epochs"] = min(spec["training"]["epochs"], bench.epochs)
    out = bench.train("vowels", spec)
    accuracy = float(json.loads((out / "model.json").read_text())["metrics"]["test_accuracy"])
    if accuracy < bench.accuracy:
        raise Wrong(f"test accuracy {accuracy:.4f}, and {bench.accuracy:g} was to be reached")
    return f"test accuracy {accuracy:.4f}, at least {bench.accuracy:g}"


def float32(bench: Bench) -> str:
    spec = bench.spec(epochs=3, optimizer={"name": "sgd", "lr": 0.05}, deterministic=True)
    here, there = (
        losses(bench.train(f"float32-{number}", spec, device, **NO_TF32))
        for number, device in enumerate((bench.device, "cpu"))
    )
    worst = max(abs(a - b) / abs(b) for a, b in zip(here, there, strict=True))
    if not worst <= TOLERANCE:
        raise Wrong(f"losses are up to {worst:.1e} of their size off the CPU's, and {TOLERANCE:g} is allowed")
    return f"losses are at most {worst:.1e} of their size off the CPU's, {TOLERANCE:g} allowed"


def bf16(bench: Bench) -> str:
    return learnt(bench, "bf16")


def fp16(bench: Bench) -> str:
    return learnt(bench, "fp16")


def learnt(bench: Bench, precision: str) -> str:
    curve = losses(bench.train(precision, bench.spec(precision=precision)))
    if not curve[-1] <= LEARNT * curve[0]:
        raise Wrong(f"the loss went from {curve[0]:.4f} to {curve[-1]:.4f}: it learns nothing")
    return f"the loss went from {curve[0]:.4f} to {curve[-1]:.4f}"


def resume(bench: Bench) -> str:
    spec = bench.spec(deterministic=True)
    spec["architecture"]["dropout"] = 0.3
    spec["checkpoints"] = {"every_steps": 3}
    whole = bench.train("unbroken", spec)
    step = kill_half_way(bench, spec)
    broken = bench.train("broken", spec, None, "--resume")
    if (whole / "model.safetensors").read_bytes() != (broken / "model.safetensors").read_bytes():
        raise Wrong(f"killed after step {step} and resumed, the weights are others than those of an unbroken run")
    if timeless(whole) != timeless(broken):
        raise Wrong(f"killed after step {step} and resumed, the history is another than that of an unbroken run")
    return f"killed after step {step} and resumed: the same weights and history, bit for bit"


def kill_half_way(bench: Bench, spec: Mapping[str, Any]) -> int:
    """SIGKILL in the second epoch; the newest checkpoint's step."""
    folder = bench.folder / "broken"
    process = bench.start("broken", spec)
    deadline = time.monotonic() + RUN_SECONDS
    try:
        while (newest := max((int(path.stem[-9:]) for path in folder.glob("checkpoint-*.json")), default=0)) < 17:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Wrong("the run that was to be killed ended before")
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return newest


def losses(out: Path) -> list[float]:
    return [float(epoch["train_loss"]) for epoch in history(out)]


def timeless(out: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in epoch.items() if key not in CLOCK} for epoch in history(out)]


def history(out: Path) -> list[dict[str, Any]]:
    epochs: list[dict[str, Any]] = json.loads((out / "history.json").read_text())["epochs"]
    return epochs


CHECKS: dict[str, Callable[[Bench], str]] = {
    "selftest": self_test,
    "vowels": vowels,
    "float32": float32,
    "bf16": bf16,
    "fp16": fp16,
    "resume": resume,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    failed = []
    with tempfile.TemporaryDirectory(prefix="loopline-gpu-check-") as folder:
        bench = Bench(options.device, Path(folder), options.epochs, options.accuracy)
        for name in options.checks or CHECKS:
            began = time.monotonic()
            try:
                passed, detail = True, CHECKS[name](bench)
            except (Wrong, OSError) as error:
                passed, detail = False, str(error)
                failed.append(name)
            print(f"{'ok  ' if passed else 'FAIL'}  {name:<8} {time.monotonic() - began:6.1f} s  {detail}", flush=True)
            if name == "selftest" and not passed:
                break
    print(f"Not right on {options.device}: {', '.join(failed)}." if failed else f"All is well on {options.device}.")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m worker.gpucheck",
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checks", nargs="*", type=_check, metavar="CHECK", help="the checks to run; default all")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--epochs", type=int, default=60, help="most epochs of each run")
    parser.add_argument("--accuracy", type=float, default=0.95, help="test accuracy that the vowels run must reach")
    return parser


def _check(name: str) -> str:
    if name not in CHECKS:
        raise argparse.ArgumentTypeError(f"there is no {name}; there are {', '.join(CHECKS)}")
    return name


if __name__ == "__main__":
    sys.exit(main())
