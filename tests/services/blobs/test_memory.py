"""What uploads may take of memory together."""

from __future__ import annotations

import multiprocessing
import threading
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from services.blobs.memory import PARTS, Room
from services.errors import Busy


@pytest.fixture
def place(tmp_path: Path) -> Room:
    return Room(tmp_path / "room", 6400)


def test_what_fits_is_taken_and_what_does_not_is_told_when_to_come_again(place: Room) -> None:
    with place.taken(3000), place.taken(3400), pytest.raises(Busy, match="this one expands to 1 bytes"):
        place.taken(1, wait_seconds=0).__enter__()
    with place.taken(6400, wait_seconds=0):
        pass


def test_half_of_what_is_wanted_is_not_kept(place: Room) -> None:
    with place.taken(3000):
        with pytest.raises(Busy), place.taken(6000, wait_seconds=0):
            pass
        with place.taken(3400, wait_seconds=0):
            pass


def test_the_smallest_take_a_part_and_what_is_too_large_is_alone(place: Room) -> None:
    with ExitStack() as stack:
        for _ in range(PARTS):
            stack.enter_context(place.taken(0, wait_seconds=0))
        with pytest.raises(Busy), place.taken(0, wait_seconds=0):
            pass
    with place.taken(10**12, wait_seconds=0), pytest.raises(Busy), place.taken(0, wait_seconds=0):
        pass


def test_one_that_waits_goes_on_when_there_is_room(place: Room) -> None:
    entered = threading.Event()

    def wait() -> None:
        with place.taken(6400, wait_seconds=60):
            entered.set()

    with place.taken(100):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.is_set()
    assert entered.wait(30)
    waiting.join()


def _hold(place: Room, told: Connection) -> None:
    with place.taken(6400):
        told.send("held")
        told.recv()


def test_a_process_that_is_killed_gives_its_room_back(place: Room) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(place, theirs))
    process.start()
    assert ours.recv() == "held"
    with pytest.raises(Busy), place.taken(0, wait_seconds=0):
        pass
    process.kill()
    process.join()
    with place.taken(6400, wait_seconds=30):
        pass
