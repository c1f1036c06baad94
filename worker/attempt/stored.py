"""The checkpoints of an attempt that are in the object store, and the record of those that are not.

A checkpoint that cannot be stored is skipped. The trainer, which has it on disk, then counts on it and gives up
older ones; those stay in the database and the store until a newer one is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from services.errors import StorageUnavailable
from services.training.messages import (
    CheckpointDeleted,
    CheckpointSaved,
    Event,
    File,
    Log,
    Note,
    RolledBack,
    Started,
)


class StoredCheckpoints:
    """Says what to write of an event about checkpoints, and which objects nobody counts on after it was written."""

    def __init__(self, stored: Mapping[int, Sequence[str]]) -> None:
        self.stored = {step: list(keys) for step, keys in stored.items()}
        """By step, the keys of the objects that the database counts on."""
        self._kept_back: list[int] = []  # steps that the trainer gave up while newer ones did not reach the store
        self._is_newest_missing = False
        self._is_skipping = False  # the store did not take the newest one; this is written once

    def arrived(self, event: CheckpointSaved, files: tuple[File, ...]) -> list[Event]:
        """A checkpoint is in the store: those that were kept back for it may go."""
        self._is_newest_missing = self._is_skipping = False
        superfluous, self._kept_back = [step for step in self._kept_back if step != event.step], []
        return [replace(event, files=files), *map(CheckpointDeleted, superfluous)]

    def missing(self, event: CheckpointSaved, error: BaseException) -> list[Event]:
        """A checkpoint is not in the store: it is not registered."""
        self._is_newest_missing = True
        if not isinstance(error, StorageUnavailable):
            return [not_registered(event, error)]
        was_skipping, self._is_skipping = self._is_skipping, True
        return [] if was_skipping else [_skipped(event.step, error)]

    def to_write(self, event: Event) -> list[Event]:
        """What is written of any other event."""
        match event:
            case CheckpointDeleted(step) if self._is_newest_missing:
                self._kept_back.append(step)
                return []
            case Started(checkpoints=there) if there is not None:
                self._keep_back_until(_resumed(event))
                return [replace(event, checkpoints=[*there, *self._kept_back])]
            case RolledBack(step=place):
                self._keep_back_until(place)
        return [event]

    def committed(self, events: Iterable[Event]) -> list[str]:
        """These events are in the database; the keys of the objects that it has forgotten with them."""
        gone: list[str] = []
        for event in events:
            match event:
                case CheckpointSaved(step=step, files=files):
                    gone += self.stored.get(step, [])
                    self.stored[step] = [file.object for file in files if file.object is not None]
                case CheckpointDeleted(step):
                    gone += self.stored.pop(step, [])
                case Started(checkpoints=listed):
                    there = self.stored if listed is None else listed
                    gone += self._forget(step for step in self.stored if step > _resumed(event) or step not in there)
                case RolledBack(step=place):
                    gone += self._forget(step for step in self.stored if step > place)
        return gone

    def _keep_back_until(self, place: int) -> None:
        self._kept_back = [step for step in self._kept_back if step <= place]

    def _forget(self, steps: Iterable[int]) -> list[str]:
        return [key for step in list(steps) for key in self.stored.pop(step)]


def not_registered(event: CheckpointSaved, why: object) -> Log:
    """What is written of a checkpoint whose files are not what it says."""
    return Log("info", f"checkpoint {event.step} not registered: {why}")


def _skipped(step: int, error: StorageUnavailable) -> Note:
    message = (
        f"The checkpoint at step {step} was skipped. {error.message} Those before it stay, and another is tried when "
        "it is due."
    )
    return Note("checkpoint_skipped", "warning", message, {"step": step})


def _resumed(event: Started) -> int:
    return event.resumed_from.step if event.resumed_from else 0
