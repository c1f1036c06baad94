"""A data set of 2 GB, trained from its file: the memory that this takes, and how long the training waits for data.

The data set is in the stored form, in a temporary folder. A process of its own carries out an order, as a trainer does,
and is stopped after some updates. Its memory is the most that was ever resident (`VmHWM`). It waits for data while it
asks for the next batch. For comparison, small data is trained from its file and in memory, in turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
STEPS, FEATURES, CLASSES = 500, 10, 4
LARGE, SMALL = 100_000, 4_000
"""Sequences; a large data set has 2.0 GB, a small one 80 MB."""
MOST_BYTES = 1e9
MOST_WAITING = 0.03
LARGE_SECONDS, SMALL_SECONDS = 60.0, 10.0
"""How long to train."""
ROUNDS = 3
NEVER = 1 << 60

SPEC = {
    "architecture": {"cell": "lstm", "hidden_size": 64},
    "training": {"epochs": 1, "batch_size": 64},
    "data": {"dataset": "data", "scaling": "standard", "split": {"validation": 0.02, "test": 0.02}},
}


def make(path: Path, samples: int) -> None:
    """Writes a data set: noise, and a class that a feature tells."""
    import numpy as np
    from loopline.files import store
    from loopline.files.schema import Schema
    from loopline.files.sequences import Column, Sequences

    rng = np.random.default_rng(0)
    y = rng.integers(CLASSES, size=samples)
    x = rng.standard_normal((samples, STEPS, FEATURES), dtype=np.float32)
    x[:, :, 0] += y[:, None] * np.float32(0.2)
    sequences = Sequences(
        x=x.reshape(-1, FEATURES),
        lengths=np.full(samples, STEPS, np.int64),
        features=tuple(Column(f"f{number}") for number in range(FEATURES)),
        schema=Schema(),
        y=y,
        targets="classes",
        target_names=("class",),
        classes=tuple(range(CLASSES)),
    )
    store.write(path, sequences)


def measure(path: Path, seconds: float, in_file_from: int) -> dict[str, Any]:
    """Trains for so many seconds from the first update on."""
    from services.training import loop, messages, run
    from services.training.spec import parse

    run.prepare_process()
    waits: list[float] = []
    batches_of = loop.batches_of
    began = 0.0

    def timed(*given: Any, **named: Any) -> Iterator[Any]:
        nonlocal began
        began = began or time.perf_counter()
        batches = batches_of(*given, **named)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waits.append(time.perf_counter() - asked)
            if batch is None:
                return
            yield batch

    def stop() -> messages.StopReason | None:
        is_over = bool(began) and time.perf_counter() - began > seconds
        return messages.StopReason.PAUSE if is_over else None

    loop.batches_of = timed
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        order = messages.Order(
            spec=parse(SPEC).document(), data=str(path), directory=out, resume=None, device="cpu", data_sha256="0" * 64
        )
        for _ in run.events(order, stop, in_file_from=in_file_from):
            pass
    took = time.perf_counter() - began
    [line] = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")]
    return {
        "bytes": int(line.split()[1]) * 1024,
        "waiting": sum(waits) / took,
        "longest_wait": max(waits),
        "per_second": len(waits) * SPEC["training"]["batch_size"] / took,
        "begins_after": began - started,
    }


def in_process(*arguments: object) -> Any:
    from services.training.environment import ENVIRONMENT

    environment = dict(os.environ, PYTHONPATH=f"{ROOT}:{ROOT / 'client'}") | ENVIRONMENT
    command = [sys.executable, __file__, *map(str, arguments)]
    found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(found)


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="loopline-") as folder:
        large, small = Path(folder, "large"), Path(folder, "small")
        in_process("--make", large, LARGE)
        size = large.stat().st_size
        of_large = in_process("--measure", large, LARGE_SECONDS, 0)
        large.unlink()
        in_process("--make", small, SMALL)
        speeds: dict[int, list[float]] = {0: [], NEVER: []}
        for _ in range(ROUNDS):
            for threshold, found in speeds.items():
                found.append(in_process("--measure", small, SMALL_SECONDS, threshold)["per_second"])
    name = f"LSTM 64, {size / 1e9:.1f} GB of {STEPS} x {FEATURES} steps"
    begins = f"training begins after {of_large['begins_after']:.1f} s"
    yield row(
        f"{name}: memory beside the 1 GB that is allowed; {begins}",
        f"{of_large['bytes'] / 1e6:.0f} MB",
        f"{MOST_BYTES / 1e6:.0f} MB",
        MOST_BYTES / of_large["bytes"],
    )
    yield row(
        f"{name}: share of the time in which training waits for data, beside 3 %",
        f"{of_large['waiting']:.2%}",
        f"{MOST_WAITING:.0%}",
        MOST_WAITING / of_large["waiting"],
    )
    in_file, in_memory = max(speeds[0]), max(speeds[NEVER])
    yield row(
        "the same network on 80 MB: sequences a second from the file beside in memory",
        f"{in_file:.0f}/s",
        f"{in_memory:.0f}/s",
        in_file / in_memory,
        0.9,
    )
    yield row(
        "the same network: sequences a second of 2 GB from the file beside 80 MB in memory",
        f"{of_large['per_second']:.0f}/s",
        f"{in_memory:.0f}/s",
        of_large["per_second"] / in_memory,
        None,
    )


def row(what: str, ours: str, other: str, ratio: float, at_least: float | None = 1.0) -> dict[str, Any]:
    return {"what": what, "ours": ours, "other": other, "ratio": ratio, "at_least": at_least}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--make", path, samples]:
            make(Path(path), int(samples))
            print("null")
        case ["--measure", path, seconds, in_file_from]:
            print(json.dumps(measure(Path(path), float(seconds), int(in_file_from))))
        case _:
            for found in rows():
                print(found)
