"""What is written while checkpoints are on their way to the object store, without a store: its parts are pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest

from services.errors import StorageUnavailable
from services.training.messages import (
    CheckpointDeleted,
    CheckpointSaved,
    Event,
    File,
    Log,
    Note,
    Place,
    RolledBack,
    Started,
    Steps,
)
from worker.attempt.ordering import ORDERED, PLACES, releasable
from worker.attempt.store_wait import RETRY_SECONDS, StoreWait
from worker.attempt.stored import StoredCheckpoints

AWAY = StorageUnavailable("The object store is away.")


def saved(step: int) -> CheckpointSaved:
    return CheckpointSaved(epoch=1, step=step, best=False, files=(File(f"checkpoint-{step}", 1, "ab"),))


def stored(step: int) -> tuple[File, ...]:
    return (File(f"checkpoint-{step}", 1, "ab", f"key-{step}"),)


def started(step: int, checkpoints: list[int] | None) -> Started:
    return Started(3, 4, Place(step // 4, step), None, 1, "cpu", 1, "none", checkpoints)


def rolled_back(step: int) -> RolledBack:
    return RolledBack(step // 4, step, None, "Rolled back.", {})


# The order


def test_numbers_and_notes_overtake_a_checkpoint_on_its_way_and_nothing_overtakes_a_place() -> None:
    steps, note, later = Steps(1, [0.5], [0.5]), Log("info", "x"), Steps(5, [0.5], [0.5])
    events: list[Event] = [steps, saved(4), note, rolled_back(0), later, CheckpointDeleted(4)]
    released, held = releasable(events, lambda event: not isinstance(event, CheckpointSaved))
    assert released == [steps, note]
    assert held == events[1:2] + events[3:]


def test_what_has_arrived_goes_out_as_it_came() -> None:
    events: list[Event] = [started(0, []), saved(4), CheckpointDeleted(4), rolled_back(0), Steps(1, [0.5], [0.5])]
    assert releasable(events, lambda event: True) == (events, [])


def test_whatever_is_on_its_way_the_order_holds() -> None:
    """All sequences of five events, with every choice of what is settled: ordered events keep their order, and nothing
    that came after a place goes out before it."""
    kinds: list[Event] = [Steps(1, [0.5], [0.5]), saved(4), rolled_back(0)]
    for events in itertools.product(kinds, repeat=5):
        for settled in itertools.product([False, True], repeat=5):
            numbered = [(number, event) for number, event in enumerate(events)]
            own: list[Event] = [Log("info", str(n)) if isinstance(e, Steps) else _like(e, n) for n, e in numbered]
            released, held = releasable(own, settling(settled))
            assert sorted(map(own.index, released + held)) == [*range(5)]
            ordered = [own.index(one) for one in (*released, *held) if isinstance(one, ORDERED)]
            assert ordered == sorted(ordered)
            places = [own.index(one) for one in held if isinstance(one, PLACES)]
            assert not places or max(map(own.index, released), default=-1) < min(places)


def settling(answers: Sequence[bool]) -> Callable[[Event], bool]:
    left = iter(answers)
    return lambda event: next(left)


def _like(event: Event, number: int) -> Event:
    return saved(number) if isinstance(event, CheckpointSaved) else rolled_back(number)


# Stored checkpoints


def test_a_checkpoint_in_the_store_is_written_with_its_objects() -> None:
    checkpoints = StoredCheckpoints({})
    [event] = checkpoints.arrived(saved(4), stored(4))
    assert isinstance(event, CheckpointSaved)
    assert event.files == stored(4)
    assert checkpoints.committed([event]) == []
    assert checkpoints.stored == {4: ["key-4"]}


def test_older_checkpoints_stay_while_the_newest_is_missing_and_go_when_one_arrives() -> None:
    checkpoints = StoredCheckpoints({4: ["key-4"]})
    [note] = checkpoints.missing(saved(8), AWAY)
    assert isinstance(note, Note)
    assert (note.type, note.data) == ("checkpoint_skipped", {"step": 8})
    assert checkpoints.to_write(CheckpointDeleted(4)) == []
    assert checkpoints.missing(saved(12), AWAY) == []  # told once
    [event] = checkpoints.to_write(started(8, [8]))
    assert isinstance(event, Started)
    assert event.checkpoints == [8, 4]
    assert checkpoints.committed([event]) == []
    events = checkpoints.arrived(saved(16), stored(16))
    assert [type(event) for event in events] == [CheckpointSaved, CheckpointDeleted]
    assert checkpoints.committed(events) == ["key-4"]
    assert checkpoints.to_write(CheckpointDeleted(16)) == [CheckpointDeleted(16)]
    [again] = checkpoints.missing(saved(20), AWAY)  # a new trouble, told anew
    assert isinstance(again, Note)


def test_a_damaged_checkpoint_is_logged_and_leaves_the_older_ones_too() -> None:
    checkpoints = StoredCheckpoints({4: ["key-4"]})
    assert checkpoints.missing(saved(8), ValueError("it has 3 bytes")) == [
        Log("info", "checkpoint 8 not registered: it has 3 bytes")
    ]
    assert checkpoints.to_write(CheckpointDeleted(4)) == []


@pytest.mark.parametrize("event", [rolled_back(4), started(4, [4]), started(4, None)])
def test_what_lies_beyond_a_place_is_forgotten(event: Event) -> None:
    checkpoints = StoredCheckpoints({4: ["key-4"], 8: ["key-8", "more-8"]})
    assert checkpoints.committed([event]) == ["key-8", "more-8"]
    assert checkpoints.stored == {4: ["key-4"]}


def test_what_a_rollback_left_behind_is_not_kept_back() -> None:
    checkpoints = StoredCheckpoints({4: ["key-4"], 8: ["key-8"]})
    checkpoints.missing(saved(12), AWAY)
    for step in (4, 8):
        checkpoints.to_write(CheckpointDeleted(step))
    assert checkpoints.to_write(rolled_back(4)) == [rolled_back(4)]
    assert checkpoints.arrived(saved(5), stored(5))[1:] == [CheckpointDeleted(4)]


# StoreWait


def test_the_wait_begins_once_and_ends_after_its_time() -> None:
    patience = StoreWait(600.0)
    assert not patience.is_over(1e9)
    assert patience.begin(100.0)
    assert not patience.begin(101.0)
    assert (patience.is_over(699.0), patience.is_over(700.0)) == (False, True)
    patience.reset()
    assert patience.begin(800.0)
    assert not patience.is_over(1399.0)


def test_a_worker_that_shuts_down_cuts_the_wait_short_once() -> None:
    patience = StoreWait(600.0)
    patience.cut_short(100.0, 20.0)
    patience.cut_short(110.0, 20.0)
    assert patience.is_cut_short
    assert (patience.is_over(119.0), patience.is_over(120.0)) == (False, True)


def test_a_shutdown_makes_no_wait_longer_and_a_cancelled_job_waits_no_more() -> None:
    patience = StoreWait(10.0)
    patience.begin(100.0)
    patience.cut_short(105.0, 20.0)
    assert patience.is_over(110.0)
    other = StoreWait(600.0)
    other.end()
    assert other.is_over(0.0)


def test_it_is_tried_again_once_a_second() -> None:
    patience = StoreWait(600.0)
    tries = [patience.may_retry(at) for at in (10.0, 10.0 + RETRY_SECONDS / 2, 10.0 + RETRY_SECONDS)]
    assert tries == [True, False, True]
