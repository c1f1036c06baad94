"""The environment variables that a training process needs before it starts: libraries read them once, at import."""

from __future__ import annotations

import os
import sys

ENVIRONMENT = {
    # glibc gives freed memory back to the kernel and faults it in again at every training step; above these thresholds
    # it keeps it. On the tutorial's workload that is 80,000 page faults instead of 940,000, and 1.3 times the speed.
    "MALLOC_TRIM_THRESHOLD_": "536870912",
    "MALLOC_MMAP_THRESHOLD_": "536870912",
    # How long an OpenMP thread that waits for the others spins before it sleeps; 1000 turns are some 50 microseconds,
    # about the Python between two kernels. Sleeping at once halves the speed of a quiet machine; the default, some
    # milliseconds, makes a step many times slower where the core is needed by others: on a shared machine, in a
    # container with a CPU quota, beside a second trainer.
    "GOMP_SPINCOUNT": "1000",
    # What cuBLAS, and with it cuDNN's recurrent networks, need to be deterministic.
    "CUBLAS_WORKSPACE_CONFIG": ":16:8",
}


def enter(module: str) -> None:
    """Starts the present `python -m module` over again in this environment, where something of it is missing."""
    missing = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    if missing:
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, **missing})  # noqa: S606
