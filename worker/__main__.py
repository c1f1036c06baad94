"""`python -m worker`: a Celery worker for each GPU, or one for the CPU; see worker/fleet.py."""

from __future__ import annotations

import argparse
import sys

from services import logs, metrics
from services.settings import Settings
from services.starting import exit_on_error
from worker import fleet


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worker",
        description="Starts a Celery worker for each GPU (LOOPLINE_DEVICE), or one that computes on the CPU, and keeps "
        "them up. SIGTERM ends them: running jobs save their place and go on elsewhere.",
    )
    parser.parse_args()
    with exit_on_error("Loopline's worker"):
        settings = Settings()
        logs.configure(settings)
        with metrics.shared(settings):  # all workers count together, and this process is asked
            return fleet.run(settings)


if __name__ == "__main__":
    sys.exit(main())
