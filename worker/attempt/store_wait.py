"""How long an attempt waits for an object store that cannot be reached."""

from __future__ import annotations

from worker.attempt.deadlines import NEVER

RETRY_SECONDS = 1.0


class StoreWait:
    """The wait for the store. The caller brings the time, by the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = NEVER
        self._retry_at = 0.0
        self.is_cut_short = False
        """Whether the worker shuts down."""

    def begin(self, now: float) -> bool:
        """Start the wait, unless it has started; returns whether it did."""
        if self._until < NEVER:
            return False
        self._until = now + self._seconds
        return True

    def is_over(self, now: float) -> bool:
        return now >= self._until

    def cut_short(self, now: float, seconds: float) -> None:
        """The worker shuts down: wait for this many seconds at most from now on, whatever is waited for."""
        if not self.is_cut_short:
            self.is_cut_short = True
            self._until = min(self._until, now + seconds)

    def end(self) -> None:
        """Nobody wants to wait any more."""
        self._until = 0.0

    def reset(self) -> None:
        """The store has answered: the next wait is a new one."""
        self._until = NEVER

    def may_retry(self, now: float) -> bool:
        """Whether to try again now; once per RETRY_SECONDS."""
        if now < self._retry_at:
            return False
        self._retry_at = now + RETRY_SECONDS
        return True
