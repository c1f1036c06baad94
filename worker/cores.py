"""How the workers of a machine without a GPU share its cores.

A small network trains fastest with one thread, and several trainers side by side do more updates than one trainer with
a thread on every core (`make bench ONLY=cores`). So such a machine gets several workers. By default the threads of all
their trainers together are at most as many as the cores: then no job takes the share of another one, whoever submitted
it. They may be more with LOOPLINE_TRAINER_THREADS, or with more LOOPLINE_CPU_WORKERS than cores, because a trainer has
at least one thread. The workers share the memory in equal parts.
"""

from __future__ import annotations

import os

from services.settings import Settings
from services.training.spec.footprint import host_bytes
from worker.gpu.devices import CPU, Device

MOST_WORKERS = 4
"""By default: with more, a large network that trains alone would get too small a part of the cores."""
WORKER_BYTES = 1 << 30
"""Memory for each worker by default: two processes, a template, a spare trainer, and a trainer with its data."""


def devices(settings: Settings, cores: int | None = None, memory: int | None = None) -> list[Device]:
    """A device for each worker of the CPU, with the number of threads of its trainers.

    It depends on the machine and the settings alone, and never on what else runs: the number of threads decides the
    last bit of every sum. `cores` and `memory` (in bytes) are this machine's by default.
    """
    cores = count() if cores is None else cores
    workers = settings.cpu_workers or default_workers(cores, host_bytes() if memory is None else memory)
    if workers == 1:
        return [CPU]
    threads = settings.trainer_threads or max(1, cores // workers)
    name = f"the CPU, {threads} thread{'s' if threads > 1 else ''}"
    return [Device(f"{CPU.label}-{number}", name, threads=threads, workers=workers) for number in range(workers)]


def default_workers(cores: int, memory: int | None) -> int:
    """One per core, as far as the memory (in bytes; None: unknown) is enough, and at most MOST_WORKERS."""
    return max(1, min(cores, MOST_WORKERS, MOST_WORKERS if memory is None else memory // WORKER_BYTES))


def count() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
