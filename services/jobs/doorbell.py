"""The doorbell: the message "queue Q may have work". It may be lost, doubled or late without harm.

The real one, over Celery, is `api/bell.py`; this module knows no broker.
"""

from __future__ import annotations

from typing import Protocol

RING = "worker.ring"
"""The name of the Celery task that the message calls."""


class Doorbell(Protocol):
    """Something that can be rung, after the commit, never before."""

    def ring(self, queue: str) -> bool:
        """Tell a worker of `queue` to look; False when the broker cannot be reached. Never raises, never waits long."""
        ...
