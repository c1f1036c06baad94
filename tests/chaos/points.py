"""Fault points of services/faults.py, armed to kill the process that passes them, now and then."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from services import faults

CALM = "calm"
"""While a file of this name lies in the folder nobody is killed."""
LOG = "points.jsonl"

WORKER = {
    "job.fenced": 0.0008,
    "transaction.written": 0.0005,
    "transaction.committed": 0.0008,
    "supervisor.claimed": 0.05,
    "supervisor.finishing": 0.06,
    "rung.answered": 0.05,
}
TRAINER = {
    "checkpoint.epochs_written": 0.004,
    "checkpoint.tensors_written": 0.008,
    "checkpoint.written": 0.008,
    "result.written": 0.06,
}
SCHEDULER = {
    "transaction.written": 0.02,
    "transaction.committed": 0.02,
    "bell.due": 0.01,
    "trial.written": 0.08,
    "firing.written": 0.2,
    "batch.ended": 0.1,
    "batch.committed": 0.1,
}
API = {"transaction.written": 0.01, "transaction.committed": 0.02, "bell.due": 0.02}
"""How likely a process dies each time it passes the point."""


def arm(folder: Path, likely: Mapping[str, float], seed: int) -> None:
    """Arm the points of `likely` that there are. A process that dies says so first, in the folder's log."""
    dice: dict[int, random.Random] = {}  # by process: forks must not all roll the same

    def action(name: str, likelihood: float) -> None:
        pid = os.getpid()
        roll = dice.setdefault(pid, random.Random(f"{seed} {pid}")).random()
        if roll < likelihood and not (folder / CALM).exists():
            die_at(folder, name)

    for name, likelihood in likely.items():
        if name in faults.POINTS:
            faults.arm(name, lambda name=name, likelihood=likelihood: action(name, likelihood))


def die_at(folder: Path, name: str) -> None:
    """Write the last words, and die as by the hand of the kernel."""
    words = {"point": name, "pid": os.getpid(), "wall": time.time(), "ns": time.monotonic_ns()}
    with (folder / LOG).open("ab", buffering=0) as log:
        log.write(json.dumps(words).encode() + b"\n")
    os.kill(os.getpid(), signal.SIGKILL)
