"""The rungs of a trial: epochs after which the trainer waits to be told whether its search lets it go on.

The trainer knows these epochs before it begins, and there are a few of them at most. So training is as fast as without
them, and a trial is always stopped after the same epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable

from services.training.messages import Event, Log, StopReason

GoesOn = Callable[[int], bool | None]
"""Whether the trial goes on after this epoch; None without an answer in time. It waits for the answer."""


class Rungs:
    """The rungs that a run has not reached yet. Each is asked about once, even if the run goes back."""

    def __init__(self, epochs: Iterable[int] = (), goes_on: GoesOn = lambda _: True) -> None:
        self._left = set(epochs)
        self._goes_on = goes_on

    def wait(self, epoch: int, stop: Callable[[], StopReason | None]) -> Generator[Event, None, StopReason | None]:
        """Why the run has to stop after this epoch, if it has to: the answer says so, or `stop` by then. Waits only if
        the epoch is a rung."""
        if epoch not in self._left:
            return None
        self._left.remove(epoch)
        answer = self._goes_on(epoch)
        reason = StopReason.PRUNED if answer is False else stop()
        if answer is None and reason is None:
            yield Log("warning", f"Nobody said after epoch {epoch} in time whether this trial goes on, so it goes on.")
        return reason
