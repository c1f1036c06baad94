"""The order in which events may be written while checkpoints are being uploaded to the object store.

Numbers and notes may overtake a checkpoint on its way. Events about checkpoints keep their order, so that `recorded`
means what it does without a store. Nothing overtakes a `started` or `rolled_back`, which change the place from which
the run is told, nor do these overtake a checkpoint: one from a past that was left would come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from services.training.messages import CheckpointDeleted, CheckpointSaved, Event, RolledBack, Started

PLACES = (Started, RolledBack)
"""Change the place from which the run continues."""
ORDERED = (*PLACES, CheckpointSaved, CheckpointDeleted)


def releasable(events: Iterable[Event], is_settled: Callable[[Event], bool]) -> tuple[list[Event], list[Event]]:
    """The events that may be written now, and those that wait.

    `is_settled` says of an event whether it is known what to write of it; it is asked of ordered events alone, and of
    none that waits behind another.
    """
    released: list[Event] = []
    held: list[Event] = []
    is_blocked = is_barred = False  # by a checkpoint on its way; by a place that waits behind it
    for event in events:
        waits = isinstance(event, ORDERED) and (is_blocked or not is_settled(event))
        if waits or is_barred:
            held.append(event)
            is_blocked = is_blocked or waits
            is_barred = is_barred or isinstance(event, PLACES)
        else:
            released.append(event)
    return released, held
