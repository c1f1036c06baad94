"""`python -m worker`: starts one Celery worker per GPU, or some that share the CPU; see worker/fleet.py."""

from __future__ import annotations

import argparse
import gc
import sys


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worker",
        description="Starts one Celery worker per GPU (LOOPLINE_DEVICE), or some that share the CPU, and restarts a "
        "worker that ends. SIGTERM stops them: running jobs save a checkpoint and continue on another worker.",
    )
    parser.parse_args()

    gc.disable()  # importing makes many objects, none of them garbage
    from services import logs, metrics
    from services.settings import Settings
    from services.starting import exit_on_error
    from worker import fleet

    gc.freeze()
    gc.enable()
    with exit_on_error("Loopline's worker"):
        settings = Settings()
        logs.configure(settings)
        with metrics.shared(settings):  # all workers count together, and this process is asked
            return fleet.run(settings)


if __name__ == "__main__":
    sys.exit(main())
