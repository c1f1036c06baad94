"""`python -m api` serves the HTTP API; its settings are in the environment (LOOPLINE_HOST, LOOPLINE_PORT, ...)."""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # importing makes many objects, none of them garbage
    from api.server import main

    gc.freeze()
    gc.enable()
    main()
