"""`python -m api` serves the HTTP API; its settings are in the environment (LOOPLINE_HOST, LOOPLINE_PORT, ...)."""

from __future__ import annotations

from api.server import main

if __name__ == "__main__":
    main()
