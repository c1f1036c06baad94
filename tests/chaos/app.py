"""The workers' Celery app with the chaos trainer and armed fault points: `python -m worker.start tests.chaos.app`."""

from __future__ import annotations

import os
from pathlib import Path

from tests.chaos import points
from worker.attempt.spare import trainer_command
from worker.pool import create_app

FOLDER, SEED = Path(os.environ["CHAOS_FOLDER"]), int(os.environ["CHAOS_SEED"])


def command() -> list[str]:
    """The real trainer's command with our module in the place of its own. A trainer inherits next to no environment,
    so what it is to know stands on the line."""
    real = trainer_command(device="cpu", threads=1)
    ours = ["tests.chaos.trainer" if part == "worker.trainer" else part for part in real]
    return [*ours, "--chaos-folder", str(FOLDER), "--chaos-seed", str(SEED), "--chaos-pace", os.environ["CHAOS_PACE"]]


points.arm(FOLDER, points.WORKER, SEED)
app = create_app(command())
