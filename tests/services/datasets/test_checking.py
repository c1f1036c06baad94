"""The process that checks files: what it may do, and what its death costs."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from services.blobs.memory import Room
from services.datasets import checking
from services.datasets.checking import Checker, CheckUnfinished, Upload
from services.errors import Busy, DatasetInvalid
from services.training.files import check
from services.training.files.npz import Limits

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture
def checker() -> Iterator[Checker]:
    made = Checker()
    yield made
    made.close()


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path / "room", 1 << 30)


@pytest.fixture
def file(tmp_path: Path, npz_bytes: Callable[..., bytes]) -> Upload:
    path = tmp_path / "d.npz"
    path.write_bytes(npz_bytes())
    return Upload(path, tmp_path)


def server(checker: Checker) -> psutil.Process:
    assert checker._process is not None
    return psutil.Process(checker._process.pid)


def gone(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        process.wait(20)
    return not process.is_running()


def until_idle(checker: Checker) -> None:
    deadline = time.monotonic() + 20
    while server(checker).children():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Counting(Room):
    """Notes what is asked for, and how much is taken at once."""

    def __init__(self, folder: Path, total_bytes: int) -> None:
        super().__init__(folder, total_bytes)
        self.asked: list[int] = []
        self.held = self.most = 0

    @contextmanager
    def taken(self, wanted_bytes: int, *, wait_seconds: float | None = None) -> Iterator[None]:
        with super().taken(wanted_bytes, wait_seconds=wait_seconds):
            self.asked.append(wanted_bytes)
            self.held += 1
            self.most = max(self.most, self.held)
            try:
                yield
            finally:
                self.held -= 1


class Deadly(Counting):
    """Kills a check that asks for less than so many bytes."""

    def __init__(self, folder: Path, checker: Checker, *, below: int = 1 << 60) -> None:
        super().__init__(folder, 1 << 30)
        self.checker, self.below = checker, below

    @contextmanager
    def taken(self, wanted_bytes: int, *, wait_seconds: float | None = None) -> Iterator[None]:
        with super().taken(wanted_bytes, wait_seconds=wait_seconds):
            if wanted_bytes < self.below:
                [child] = server(self.checker).children()
                child.kill()
            yield


def test_files_are_checked_in_forks_of_one_process(checker: Checker, room: Room, file: Upload) -> None:
    assert checker.check(file, room, Limits()).content.samples > 0
    first = server(checker).pid
    assert checker.check(file, room, Limits()).content == checker.check(file, room, Limits()).content
    assert server(checker).pid == first
    until_idle(checker)


def test_it_knows_no_address_and_no_password(
    checker: Checker, room: Room, file: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPLINE_DATABASE_URL", "postgresql://hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    checker.check(file, room, Limits())
    assert "hush" not in str(server(checker).environ())


def test_a_check_that_is_killed_refuses_its_file_alone(checker: Checker, tmp_path: Path, file: Upload) -> None:
    with pytest.raises(DatasetInvalid, match="could not be checked: its reader took too much memory or time"):
        checker.check(file, Deadly(tmp_path / "room", checker), Limits())
    assert checker.check(file, Room(tmp_path / "room", 1 << 30), Limits()).content.samples > 0


def test_a_process_that_was_killed_is_started_again(checker: Checker, room: Room, file: Upload) -> None:
    checker.check(file, room, Limits())
    before = server(checker)
    before.kill()
    assert gone(before)
    assert checker.check(file, room, Limits()).content.samples > 0
    assert server(checker).pid != before.pid


def test_a_file_that_takes_more_memory_than_there_is_for_one_is_refused(
    checker: Checker, room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, limits = tmp_path / "large.npz", Limits()
    np.savez(path, x=np.ones((64, 1 << 16, 8), np.float32), y=np.arange(64) % 2)
    monkeypatch.setattr(checking, "SPARE_BYTES", (64 << 20) - limits.max_bytes)  # half of what x takes
    with pytest.raises(DatasetInvalid, match="needs more memory to be read than there is for one upload"):
        checker.check(Upload(path, tmp_path), room, limits)


@pytest.mark.parametrize("total_bytes", [1 << 30, 1 << 20])
def test_a_check_has_no_more_memory_than_it_was_granted(checker: Checker, tmp_path: Path, total_bytes: int) -> None:
    """A packed table takes far more than its size. The kernel refuses it, so it gives back what it had and asks for
    twice as much. With room for a single file too it is read in the end."""
    path, room = tmp_path / "packed.csv.gz", Counting(tmp_path / "room", total_bytes)
    rows = [f"{number},{','.join('0123456789')}\n" for number in range(10)]
    path.write_bytes(gzip.compress(("step," + ",".join("abcdefghij") + "\n" + "".join(rows * 40_000)).encode(), 1))
    found = checker.check(Upload(path, tmp_path, path.name, {"layout": "long", "target": "step"}), room, Limits())
    assert found.content.features > 1
    assert room.asked[0] < (1 << 27)
    assert len(room.asked) > 1
    assert all(later >= 2 * before for before, later in pairwise(room.asked))
    assert (room.held, room.most) == (0, 1)


def test_a_check_that_crashes_is_tried_again_with_more_memory(checker: Checker, tmp_path: Path, file: Upload) -> None:
    """A library that gets no memory may end its process instead of raising an error."""

    room = Deadly(tmp_path / "room", checker, below=1 << 30)
    assert checker.check(file, room, Limits()).content.samples > 0
    assert room.asked[1:] == [checking.AFTER_CRASH_BYTES, Limits().max_bytes + checking.SPARE_BYTES]
    assert (room.held, room.most) == (0, 1)


def test_a_check_that_is_ended_with_its_process_is_not_tried_again(
    checker: Checker, tmp_path: Path, file: Upload
) -> None:
    class Closing(Counting):
        @contextmanager
        def taken(self, wanted_bytes: int, *, wait_seconds: float | None = None) -> Iterator[None]:
            with super().taken(wanted_bytes, wait_seconds=wait_seconds):
                checker.close()
                yield

    room = Closing(tmp_path / "room", 1 << 30)
    with pytest.raises(DatasetInvalid, match="could not be checked"):
        checker.check(file, room, Limits())
    assert len(room.asked) == 1
    assert checker._process is None
    with pytest.raises(DatasetInvalid, match="could not be checked"):
        checker.check(file, room, Limits())
    assert checker._process is None


def test_the_check_of_many_small_sequences_gets_more_than_their_arrays_take(checker: Checker, tmp_path: Path) -> None:
    path, room = tmp_path / "many.npz", Counting(tmp_path / "room", 1 << 30)
    np.savez(path, x=np.zeros((4_000_000, 1), np.float32), y=np.arange(4_000_000) % 2)
    assert checker.check(Upload(path, tmp_path), room, Limits()).content.samples == 4_000_000
    assert (room.held, room.most) == (0, 1)


def test_a_check_that_waits_for_ever_is_ended(
    checker: Checker, room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no processor time, so only the clock can end it."""
    monkeypatch.setattr(checking, "CHECK_SECONDS", 1)
    os.mkfifo(tmp_path / "silent")
    with pytest.raises(DatasetInvalid, match="too much memory or time"):
        checker.check(Upload(tmp_path / "silent", tmp_path), room, Limits())
    until_idle(checker)


def test_a_check_that_its_sender_does_not_wait_for_is_ended_and_says_nothing_about_the_file(
    checker: Checker, room: Room, tmp_path: Path, file: Upload
) -> None:
    os.mkfifo(tmp_path / "silent")
    with pytest.raises(CheckUnfinished):
        checker.check(Upload(tmp_path / "silent", tmp_path), room, Limits(), wait_seconds=0.2)
    until_idle(checker)
    with room.taken(1 << 40), pytest.raises(CheckUnfinished):  # it waits for memory
        checker.check(file, room, Limits(), wait_seconds=0.2)
    until_idle(checker)
    assert checker.check(file, room, Limits(), wait_seconds=600).content.samples > 0


def test_a_check_that_is_killed_while_its_sender_waits_refuses_its_file(
    checker: Checker, tmp_path: Path, file: Upload
) -> None:
    with pytest.raises(DatasetInvalid, match="could not be checked"):
        checker.check(file, Deadly(tmp_path / "room", checker), Limits(), wait_seconds=600)


def test_a_check_that_gets_no_room_ends(checker: Checker, tmp_path: Path, file: Upload) -> None:
    class Full(Room):
        @contextmanager
        def taken(self, wanted_bytes: int, *, wait_seconds: float | None = None) -> Iterator[None]:
            raise Busy
            yield

    with pytest.raises(Busy):
        checker.check(file, Full(tmp_path / "room", 1), Limits())
    until_idle(checker)


def test_it_ends_with_the_process_that_started_it(file: Upload, tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from services.blobs.memory import Room
from services.datasets.checking import CHECKER, Upload
from services.training.files import check
from services.training.files.npz import Limits
CHECKER.check(Upload(Path({str(file.path)!r}), Path()), Room(Path({str(tmp_path / "room")!r}), 1 << 30), Limits())
print(CHECKER._process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        checking_process = psutil.Process(int(parent.stdout.readline()))
        assert re.search("services.training.files", " ".join(checking_process.cmdline()))
        parent.kill()
    assert gone(checking_process)


def test_a_fork_has_a_process_of_its_own(room: Room, file: Upload) -> None:
    checking.CHECKER.check(file, room, Limits())
    before = server(checking.CHECKER)
    read, write = os.pipe()
    if not (child := os.fork()):
        checking.CHECKER.check(file, room, Limits())
        os.write(write, str(server(checking.CHECKER).pid).encode())
        checking.CHECKER.close()
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        theirs = int(said.read())
    os.waitpid(child, 0)
    assert theirs != before.pid
    assert not psutil.pid_exists(theirs)
    assert checking.CHECKER.check(file, room, Limits()).content.samples > 0


def test_a_large_array_is_checked_in_little_memory(checker: Checker, tmp_path: Path) -> None:
    """300 MB, where 48 MiB are left for uploads."""
    x = np.zeros((300, 1000, 250), np.float32)
    x[::2] = 1.0
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(300) % 2)
    del x
    small = Room(tmp_path / "small", 48 << 20)
    found = checker.check(Upload(tmp_path / "d.npz", tmp_path), small, Limits())
    assert (found.content.samples, found.content.bytes) == (300, 300_000_000)


def test_a_table_is_described_from_its_stored_form_as_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is if it is large. Sequences differ in length, and have words and gaps."""
    rows = [
        f"{walk},{step},{(walk * step) % 7 or ''},{'on' if step % 3 else 'off'},{walk % 2}"
        for walk in range(40)
        for step in range(2 + walk % 5)
    ]
    path = tmp_path / "d.csv"
    path.write_text("\n".join(["walk,step,speed,mode,kind", *rows]))
    said = []
    for threshold in (1 << 40, 0):
        monkeypatch.setattr(check, "IN_FILE_FROM", threshold)
        work = tmp_path / str(threshold)
        work.mkdir()
        schema = {"group": ["walk"], "order": "step", "target": ["kind"]}
        asked = {"work": str(work), "stored": str(work / "stored.npz"), "schema": schema}
        said.append(check._table(path, asked, Limits()))
    assert said[0] == said[1]
    assert said[0]["summary"]["samples"] == 40
