"""The scheduler with armed fault points: `python -m tests.chaos.scheduler`."""

from __future__ import annotations

import os
from pathlib import Path

from tests.chaos import points
from worker.scheduler import loop

if __name__ == "__main__":
    points.arm(Path(os.environ["CHAOS_FOLDER"]), points.SCHEDULER, int(os.environ["CHAOS_SEED"]))
    loop.main()
