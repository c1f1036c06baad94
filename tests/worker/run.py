"""Runs the Python source that it is given, for tests of processes: `python -m tests.worker.run SOURCE`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    exec(sys.argv[1])  # noqa: S102
