"""A scheduler that kills itself when it first passes the fault point that is its argument."""

from __future__ import annotations

import os
import signal
import sys

from services import faults
from worker.scheduler import loop

if __name__ == "__main__":
    faults.arm(sys.argv[1], lambda: os.kill(os.getpid(), signal.SIGKILL))
    loop.main()
