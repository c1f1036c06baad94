"""`python -m worker.scheduler`: the scheduler, until SIGTERM or Ctrl-C."""

from __future__ import annotations

from worker.scheduler.loop import main

if __name__ == "__main__":
    main()
