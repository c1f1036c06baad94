"""A doorbell for tests, in the place of the one over Celery."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class FakeDoorbell:
    """A doorbell that remembers what was rung; `broken` plays a broker that is down."""

    broken: bool = False
    rung: list[str] = field(default_factory=list)

    def ring(self, queue: str) -> bool:
        if not self.broken:
            self.rung.append(queue)
        return not self.broken
