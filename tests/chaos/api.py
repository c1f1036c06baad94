"""The API with armed fault points: `python -m tests.chaos.api`. Armed before gunicorn forks, so in its workers."""

from __future__ import annotations

import os
from pathlib import Path

from api import server
from tests.chaos import points

if __name__ == "__main__":
    points.arm(Path(os.environ["CHAOS_FOLDER"]), points.API, int(os.environ["CHAOS_SEED"]))
    server.main()
