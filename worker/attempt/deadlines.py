"""The deadlines of an attempt, by the monotonic clock, in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass

NEVER = math.inf


@dataclass
class Deadlines:
    """The next moment for each thing that an attempt does at its time. NEVER where there is no such moment."""

    renew: float
    """Renew the lease."""
    look: float
    """Look whether cancelling or pausing was asked for."""
    write: float = 0.0
    """Write what has come; not before, because the database was written a moment ago or could not answer."""
    output: float = 0.0
    """Write what the trainer has printed; not before."""
    kill: float = NEVER
    """Kill a trainer that was asked to stop."""
    time_limit: float = NEVER
    """Stop a job that has run for as long as its spec allows."""
    stall: float = NEVER
    """Give up a trainer that has sent nothing for too long."""

    def next(self, *, has_events: bool, has_output: bool) -> float:
        """When the next thing is due; what is to be written counts only where there is something to write."""
        due = min(self.renew, self.look, self.kill, self.time_limit, self.stall)
        if has_events:
            due = min(due, self.write)
        if has_output:
            due = min(due, max(self.output, self.write))
        return due
