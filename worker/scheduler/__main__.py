"""`python -m worker.scheduler`: the scheduler, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # importing makes many objects, none of them garbage
    from worker.scheduler.loop import main

    gc.freeze()
    gc.enable()
    main()
