"""A part of the service whose schedules go by a clock that a test moves: `python -m tests.system.moved scheduler|api`.

The file MOVED_CLOCK holds by how many seconds the clock is ahead of the database's. Leases, jobs and everything else
go by the real one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sqlalchemy.orm import Session

from services.schedules import definitions

real = definitions.clock


def clock(session: Session) -> float:
    return real(session) + float(Path(os.environ["MOVED_CLOCK"]).read_text())


if __name__ == "__main__":
    definitions.clock = clock
    if sys.argv[1] == "scheduler":
        from worker.scheduler import loop

        loop.main()
    else:
        from api import server

        server.main()
