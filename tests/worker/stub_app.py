"""A real Celery worker whose trainer is the stub: `python -m worker.start tests.worker.stub_app`.

`STUB_DEATHS` names fault points, with commas between, at each of which a process of the worker dies once by SIGKILL;
that it has is noted by a file in the data folder. `STUB_DEV` is a folder in the place of /dev.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

from services import faults
from worker import heartbeat
from worker.gpu import devices
from worker.pool import create_app

heartbeat.END_SECONDS = 2.0
devices.DEV = Path(os.environ.get("STUB_DEV", "/dev"))


def die_once(noted: Path) -> None:
    try:
        noted.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


for point in filter(None, os.environ.get("STUB_DEATHS", "").split(",")):
    faults.arm(point, partial(die_once, Path(os.environ["LOOPLINE_DATA_DIR"]) / f"died-at-{point}"))

app = create_app([sys.executable, "-m", "tests.worker.stub_trainer"], forks=False)
