"""The checkpoints of a run on disk: when one is due, which are kept, and when a superfluous one is deleted."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from services.errors import CheckpointCorrupt
from services.training import checkpoint
from services.training.loop import Run
from services.training.messages import CheckpointDeleted, CheckpointSaved, Event, File, Note

Recorded = Callable[[], float]
"""How many of the events about checkpoints are in the database."""
SETTLE_SECONDS = 2.0
"""How long the end of a run waits until what was sent about checkpoints has been written down."""


class Retention:
    """The checkpoints of a run that were saved and are to be kept.

    A superfluous one is deleted only after the supervisor has written down first newer ones and then its end. The
    other way round, a supervisor that dies or is frozen in between would count on files that are gone.
    """

    def __init__(self, directory: Path, recorded: Recorded = lambda: math.inf) -> None:
        self.directory, self.recorded = directory, recorded
        self.saved: list[checkpoint.Saved] = []
        """Those on disk that somebody may go on from, oldest first."""
        self._saved_at = time.monotonic()
        self._is_skipping = False  # the last one could not be written
        self._sent = 0  # events about checkpoints
        self._sent_of: dict[int, int] = {}  # by a checkpoint's step, the number of the event that announced it
        self._doomed: list[tuple[int, int]] = []  # number of the event that announced its end, and step; still on disk

    @property
    def steps(self) -> list[int]:
        return [saved.step for saved in self.saved]

    def take_stock(self) -> None:
        """See what lies on disk."""
        self.saved = [_as_saved(path) for path in reversed(checkpoint.newest_first(self.directory))]

    def is_due(self, run: Run, now: float, *, epoch_ended: bool) -> bool:
        """Whether the spec asks for a checkpoint now."""
        when = run.spec.checkpoints
        if when.every_seconds is not None and now - self._saved_at >= when.every_seconds:
            return True
        if when.every_steps is not None and run.state.step % when.every_steps == 0:
            return True
        return epoch_ended and when.every_epochs is not None and run.state.epoch % when.every_epochs == 0

    def save(self, run: Run, *, must: bool = False) -> Iterator[Event]:
        """Saves a checkpoint of the run. If the disk refuses it, it is skipped, unless it `must` be saved."""
        self._saved_at = time.monotonic()
        try:
            saved = checkpoint.save(run, self.directory)
        except OSError as error:
            if must or error.errno not in (errno.ENOSPC, errno.EIO):
                raise
            if not self._is_skipping:
                yield _skipped(run.state.step, error)
            self._is_skipping = True
            return
        self._is_skipping = False
        self.saved = [s for s in self.saved if s.step < saved.step] + [saved]
        self._doomed = [(number, step) for number, step in self._doomed if step != saved.step]
        self._sent += 1
        self._sent_of[saved.step] = self._sent
        yield CheckpointSaved(saved.epoch, saved.step, saved.best, saved.files, run.fold.number)
        yield from self.prune(run.spec.checkpoints.keep_last)

    def prune(self, keep_last: int) -> Iterator[Event]:
        """Announces the end of superfluous checkpoints, and deletes those whose end was written down."""
        registered = [s for s in self.saved if self._sent_of.get(s.step, 0) <= self.recorded()]
        for old in checkpoint.superfluous(registered, keep_last):
            self._sent += 1
            self._doomed.append((self._sent, old.step))
            self.saved.remove(old)
            yield CheckpointDeleted(old.step)
        recorded = self.recorded()
        for number, step in [doomed for doomed in self._doomed if doomed[0] <= recorded]:
            checkpoint.delete(self.directory, step)
            self._doomed.remove((number, step))

    def settle(self, keep_last: int) -> Iterator[Event]:
        """Waits until all was written down, for SETTLE_SECONDS at most, and leaves no more than were asked for."""
        deadline = time.monotonic() + SETTLE_SECONDS
        yield from self.prune(keep_last)
        while self.recorded() < self._sent and time.monotonic() < deadline:
            time.sleep(0.002)
            yield from self.prune(keep_last)
        yield from self.prune(keep_last)

    def forget_after(self, step: int) -> None:
        """Deletes the checkpoints of a past that the run has left."""
        checkpoint.discard_after(self.directory, step)
        self.saved = [s for s in self.saved if s.step <= step]


def _skipped(step: int, error: OSError) -> Note:
    sizes = {"needed_bytes": error.needed, "free_bytes": error.free} if isinstance(error, checkpoint.NoRoom) else {}
    message = (
        f"The checkpoint at step {step} was skipped: {error.strerror}. Those before it stay, and another is tried when "
        "it is due."
    )
    return Note("checkpoint_skipped", "warning", message, {"step": step, **sizes})


def _as_saved(path: Path) -> checkpoint.Saved:
    step = checkpoint.step_of(path)
    blank = File(path.name, 0, "")
    try:
        state = checkpoint.read(path)["state"]
    except CheckpointCorrupt:
        return checkpoint.Saved(step, 0, False, (blank, blank))
    best = bool(state["best"]) and state["best"]["epoch"] == state["epoch"] and not state["steps_in_epoch"]
    return checkpoint.Saved(step, state["epoch"], best, (blank, blank))
