"""The doorbell: the message "queue Q may have work". It may be lost, doubled or late without harm.

The real one, over Celery, is `api/bell.py`; this module knows no broker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class Doorbell(Protocol):
    """Something that can be rung, after the commit, never before."""

    def ring(self, queue: str) -> bool:
        """Tell a worker of `queue` to look; False when the broker cannot be reached. Never raises, never waits long."""
        ...


@dataclass
class FakeDoorbell:
    """A doorbell that remembers what was rung, for tests; `broken` plays a broker that is down."""

    broken: bool = False
    rung: list[str] = field(default_factory=list)

    def ring(self, queue: str) -> bool:
        if not self.broken:
            self.rung.append(queue)
        return not self.broken
