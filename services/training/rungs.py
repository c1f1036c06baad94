"""The rungs of a trial: epochs after which the trainer waits for the supervisor, which says whether the trial goes on.

The trainer knows these epochs before it begins, and they are few. So training is nearly as fast as without them, and a
trial is always stopped at a rung.
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
            yield Log("warning", f"The supervisor did not answer in time after epoch {epoch}, so the trial goes on.")
        return reason
