"""Trainers that share the cores beside one trainer that has them all, by the size of the network.

Two figures for each size are updates per second of all trainers together. There are as many trainers as workers by
default, each with its share of the cores. They are beside one trainer with a thread on each core, and beside as many
trainers that all have a thread on each core.

The third figure is the CPU time of an update with a share of the threads and with all of them. Other work on the
machine hardly changes it. N threads have at most N seconds of CPU time in a second. So trainers that share the cores
make at least this ratio times the updates of one that has them all, on a machine that does nothing else.

The trainers are processes in a trainer's environment. They count updates for a quarter of a second at a time, the
arrangements take turns, and of each the best turn counts: whatever else the machine does can only slow one down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from services.training.environment import ENVIRONMENT
from worker import cores

ROOT = Path(__file__).parent.parent
SIZES = (16, 32, 64, 128, 256, 512)
BATCH, LENGTH, FEATURES = 32, 20, 8
TURNS, SECONDS = 10, 0.25

ALL = cores.count()
WORKERS = cores.default_workers(ALL, None)
SHARE = max(1, ALL // WORKERS)
SHARED, ONE, CROWDED = (WORKERS, SHARE), (1, ALL), (WORKERS, ALL)
"""How many trainers, and the threads of each."""


class Speed(NamedTuple):
    rate: float
    """Updates per second of all trainers together."""
    cpu: float
    """Seconds of all cores for an update."""


class Trainer:
    """A process that trains when it is asked to, and says how fast."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cores"],
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # as trainers have it
        )

    def begin(self, hidden_size: int, threads: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([hidden_size, threads]) + "\n")
        self._process.stdin.flush()

    def speed(self) -> Speed:
        assert self._process.stdout is not None
        return Speed(*json.loads(self._process.stdout.readline()))

    def end(self) -> None:
        self._process.communicate()


def serve() -> None:
    """Answers each line of the standard input, a size and a number of threads, with a Speed."""
    import torch

    from services.training.run import prepare_process

    prepare_process()
    for line in sys.stdin:
        hidden_size, threads = json.loads(line)
        updates = training(hidden_size)
        torch.set_num_threads(threads)
        next(updates)
        count, began, used = 0, time.perf_counter(), time.process_time()
        while (now := time.perf_counter()) < began + SECONDS:
            next(updates)
            count += 1
        print(json.dumps([count / (now - began), (time.process_time() - used) / count]), flush=True)


@cache
def training(hidden_size: int) -> Iterator[object]:
    """Makes an update at each step."""
    from services.training.data import prepare
    from services.training.files import npz
    from services.training.loop import Run, fit
    from services.training.spec import check_data, parse

    arrays = npz.synthetic(1024, LENGTH, FEATURES, 2, 0)
    document = {
        "architecture": {"cell": "lstm", "hidden_size": hidden_size},
        "training": {"epochs": 100_000, "batch_size": BATCH},
        "data": {"synthetic": {}, "split": {"validation": 0.0, "test": 0.0}},
    }
    spec = check_data(parse(document), npz.summarise(arrays))
    run = Run(spec, prepare(arrays, spec))
    run.is_probed = False
    return fit(run)


def measure(hidden_size: int, trainers: list[Trainer]) -> dict[tuple[int, int], Speed]:
    """By arrangement."""
    best: dict[tuple[int, int], Speed] = {}
    for turn in range(TURNS + 1):
        for count, threads in {SHARED, ONE, CROWDED}:
            for trainer in trainers[:count]:
                trainer.begin(hidden_size, threads)
            found = [trainer.speed() for trainer in trainers[:count]]
            rate, cpu = sum(one.rate for one in found), min(one.cpu for one in found)
            if turn:  # the first warms up
                before = best.get((count, threads), Speed(rate, cpu))
                best[count, threads] = Speed(max(rate, before.rate), min(cpu, before.cpu))
    return best


def rows() -> Iterator[dict[str, object]]:
    """The table's rows."""
    trainers = [Trainer() for _ in range(WORKERS)]
    for hidden_size in SIZES:
        best = measure(hidden_size, trainers)
        for other in (ONE, CROWDED):
            yield {
                "what": f"LSTM {hidden_size}: {_said(*SHARED)} beside {_said(*other)}",
                "ours": f"{best[SHARED].rate:.0f} updates/s",
                "other": f"{best[other].rate:.0f} updates/s",
                "ratio": best[SHARED].rate / best[other].rate,
                "at_least": 1.0 if other == ONE else None,
            }
        yield {
            "what": f"LSTM {hidden_size}: CPU time of an update, threads: {SHARE} beside {ALL}",
            "ours": f"{best[SHARED].cpu * 1e3:.2f} ms",
            "other": f"{best[ONE].cpu * 1e3:.2f} ms",
            "ratio": best[ONE].cpu / best[SHARED].cpu,
            "at_least": 1.0,
        }
    for trainer in trainers:
        trainer.end()


def _said(trainers: int, threads: int) -> str:
    return f"{trainers} trainer{'s' * (trainers > 1)} of {threads} thread{'s' * (threads > 1)}"


if __name__ == "__main__":
    serve()
