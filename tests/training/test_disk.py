"""A disk that is full or fails: training goes on, what lies there stays whole, and it is told once."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services import faults
from services.errors import Diverged
from services.training import checkpoint
from services.training.files import npz
from services.training.loop import Run, fit
from services.training.messages import NEWEST
from tests.training.building import (
    classes,
    document,
    events,
    make_run,
    names_in,
    of_many_lengths,
    timeless,
    values,
)

ARRAYS = of_many_lengths(classes(24))  # 18 training samples: 5 updates an epoch, 15 in all
Event = dict[str, Any]
MB = 1_000_000


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    faults.disarm()


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., Event]:
    """A factory of orders to train in a folder of this test, with a checkpoint every second update."""
    npz.write(tmp_path / "some.npz", ARRAYS)

    def make(folder: str = "job", **changes: Any) -> Event:
        often = {"every_seconds": None, "every_steps": 2, "keep_last": 3}
        directory = str(tmp_path / folder)
        spec = document(**{"checkpoints": often} | changes)
        return {"spec": spec, "data": str(tmp_path / "some.npz"), "directory": directory, "resume": None}

    return make


@contextmanager
def free(size: int) -> Iterator[None]:
    """The disk says that it has so many bytes left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**12, used=10**12 - size, free=size))
        yield


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def syncs_that_fail(folders_only: bool = False) -> Iterator[None]:
    """The disk has an error whenever it is to promise that something is kept."""
    whole = os.fsync

    def fsync(descriptor: int) -> None:
        if folders_only and not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            whole(descriptor)
            return
        raise OSError(errno.EIO, "Input/output error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


@contextmanager
def refused(number: int) -> Iterator[None]:
    """Every checkpoint's second file is refused with this error."""

    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    faults.arm("checkpoint.tensors_written", refuse)
    try:
        yield
    finally:
        faults.disarm()


FAILURES: dict[str, Callable[[], Any]] = {
    "nothing is free": lambda: free(0),
    "less than the reserve is free": lambda: free(checkpoint.RESERVE),
    "files may not grow": lambda: files_of_at_most(2000),
    "syncs fail": syncs_that_fail,
    "syncs of folders fail": lambda: syncs_that_fail(folders_only=True),
    "no space for the second file": lambda: refused(errno.EIO),
}


def of(kind: str, told: list[Event]) -> list[Event]:
    return [event for event in told if event["event"] == kind]


def until(kind: str, stream: Iterator[Event], count: int = 1) -> list[Event]:
    """What is told up to so many events of a kind, these included."""
    told: list[Event] = []
    while len(of(kind, told)) < count:
        told.append(next(stream))
    return told


def checkpoints(order: Event) -> set[str]:
    return {path.name for path in Path(order["directory"]).glob("*") if path.name.startswith("checkpoint")}


def pairs(*steps: int) -> set[str]:
    return {f"checkpoint-{step:09d}{suffix}" for step in steps for suffix in (".json", ".safetensors")}


def whole(order: Event) -> list[int]:
    """The updates of the checkpoints in an order's folder; every one of them can be taken up."""
    found = checkpoint.newest_first(Path(order["directory"]))
    for path in found:
        checkpoint.load_into(make_run(ARRAYS), path)
    return [checkpoint.step_of(path) for path in found]


# ---- in the stream


@pytest.mark.parametrize("failure", FAILURES)
def test_a_checkpoint_that_the_disk_refuses_is_skipped_and_training_goes_on(
    failure: str, order: Callable[..., Event]
) -> None:
    asked, calm = order(), order("calm")
    stream = events(asked)
    until("checkpoint", stream)
    before = {name: (Path(asked["directory"]) / name).read_bytes() for name in checkpoints(asked)}
    assert before.keys() == pairs(2)
    with FAILURES[failure]():
        told = until("epoch", stream, 2)  # past updates 4, 6, 8
    assert [event["type"] for event in of("note", told)] == ["checkpoint_skipped"]  # once, not at every one
    assert not of("checkpoint", told)
    names = names_in(Path(asked["directory"]))
    assert {name: (Path(asked["directory"]) / name).read_bytes() for name in names} == before
    rest = list(stream)  # and now there is room again
    assert [event["step"] for event in of("checkpoint", rest)] == [10, 12, 14, 15]
    assert "checkpoint_skipped" not in [event["type"] for event in of("note", rest)]
    assert rest[-1]["event"] == "finished"
    undisturbed = list(events(calm))
    assert rest[-1]["files"][0] == undisturbed[-1]["files"][0]
    records = [event["record"] for event in of("epoch", told + rest)]
    assert timeless(records) == timeless([event["record"] for event in of("epoch", undisturbed)])


def test_what_is_skipped_is_told_with_what_it_needs_and_what_is_free(order: Callable[..., Event]) -> None:
    stream = events(order())
    with free(3 * MB):
        note = next(event for event in stream if event["event"] == "note" and event["type"] != "engine")
    assert note.keys() == {"event", "type", "level", "message", "data"}
    assert (note["type"], note["level"]) == ("checkpoint_skipped", "warning")
    assert note["message"] == (
        "The checkpoint at step 2 was skipped: No space left on device: 16.8 MB are needed and 3.0 MB are free. "
        "Those before it stay, and another is tried when it is due."
    )
    assert note["data"]["step"] == 2
    assert note["data"]["free_bytes"] == 3 * MB
    assert checkpoint.RESERVE < note["data"]["needed_bytes"] < checkpoint.RESERVE + MB


def test_a_disk_that_fills_up_again_is_told_again(order: Callable[..., Event]) -> None:
    stream = events(order(training={"epochs": 20}))
    for _ in range(3):
        with free(0):
            assert "checkpoint_skipped" in {note["type"] for note in of("note", until("epoch", stream))}
        until("checkpoint", stream)


def test_a_skipped_checkpoint_is_tried_when_the_next_is_due_by_time_and_not_at_every_update(
    order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    save = checkpoint.save

    def counted(run: Run, directory: Path) -> checkpoint.Saved:
        tried.append(run.state.step)
        return save(run, directory)

    monkeypatch.setattr(checkpoint, "save", counted)
    with free(0):
        told = list(events(order(checkpoints={"every_seconds": 1000.0})))
    assert tried == [15]  # the one at the end
    assert told[-1]["event"] == "finished"
    tried.clear()
    stream = events(order(checkpoints={"every_seconds": 1e-9}))
    with free(0):
        list(stream)
    assert tried == list(range(1, 16))


def test_a_killed_run_goes_on_from_the_one_before_those_that_were_skipped(order: Callable[..., Event]) -> None:
    asked, unbroken = order(), order("unbroken")
    stream = events(asked)
    until("checkpoint", stream)
    with syncs_that_fail():
        until("epoch", stream, 2)
    stream.close()  # type: ignore[attr-defined]
    assert whole(asked) == [2]
    told = list(events(asked | {"resume": NEWEST}))
    assert told[0]["resumed_from"]["step"] == 2
    assert told[-1]["files"][0] == list(events(unbroken))[-1]["files"][0]


@pytest.mark.parametrize("reason", ["pause", "drain", "time_limit"])
@pytest.mark.parametrize("failure", ["nothing is free", "files may not grow"])
def test_a_stop_that_cannot_leave_a_checkpoint_fails_for_lack_of_room(
    reason: str, failure: str, order: Callable[..., Event]
) -> None:
    asked = order()
    count = itertools.count(1)
    stream = events(asked, lambda: reason if next(count) >= 5 else None)
    until("checkpoint", stream, 2)
    with FAILURES[failure](), pytest.raises(OSError, match=r"MB are needed and .* MB are free") as caught:
        list(stream)
    assert caught.value.errno == errno.ENOSPC
    assert whole(asked) == [4, 2]


def test_a_stop_on_a_disk_that_fails_fails(order: Callable[..., Event]) -> None:
    with syncs_that_fail(), pytest.raises(OSError, match="Input/output") as caught:
        list(events(order(), lambda: "pause"))
    assert caught.value.errno == errno.EIO


def test_a_cancelled_run_needs_no_checkpoint(order: Callable[..., Event]) -> None:
    with free(0):
        told = list(events(order(), lambda: "cancel"))
    assert [event["event"] for event in told[-3:]] == ["note", "log", "stopped"]
    assert told[-3]["type"] == "checkpoint_skipped"
    assert "There is no model of the run until then" in told[-2]["message"]


def test_a_result_that_does_not_fit_fails_for_lack_of_room(order: Callable[..., Event]) -> None:
    asked = order()
    stream = events(asked)
    until("epoch", stream, 3)
    told: list[Event] = []
    with files_of_at_most(500), pytest.raises(OSError, match="File too large") as caught:
        told.extend(stream)
    assert caught.value.errno == errno.ENOSPC
    assert not of("finished", told)
    assert names_in(Path(asked["directory"])) == checkpoints(asked) == pairs(10, 12, 14)


def test_a_run_that_diverges_on_a_full_disk_has_diverged(tmp_path: Path) -> None:
    npz.write(tmp_path / "values.npz", values(40))
    far = document(
        architecture={"cell": "rnn", "nonlinearity": "relu"},
        training={"epochs": 50, "max_grad_norm": None, "optimizer": {"name": "sgd", "lr": 100.0}},
    )
    asked = {"spec": far, "data": str(tmp_path / "values.npz"), "directory": str(tmp_path / "job"), "resume": None}
    told: list[Event] = []
    with free(0), pytest.raises(Diverged):
        told.extend(events(asked))
    assert told[-1]["event"] == "note"


def test_a_folder_that_may_not_be_written_is_no_reason_to_go_on(order: Callable[..., Event]) -> None:
    asked = order()
    Path(asked["directory"]).write_text("mine")
    with pytest.raises(FileExistsError):
        list(events(asked))


# ---- one save


@pytest.mark.parametrize("failure", FAILURES)
def test_a_save_that_fails_leaves_nothing_of_its_own(failure: str, tmp_path: Path) -> None:
    run = make_run(ARRAYS)
    loop = fit(run)
    next(loop)
    checkpoint.save(run, tmp_path)
    next(loop)
    with FAILURES[failure](), pytest.raises(OSError, match=r"space|large|Input/output"):
        checkpoint.save(run, tmp_path)
    assert names_in(tmp_path) == pairs(1)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_save_over_the_same_update_leaves_a_whole_one(failure: str, tmp_path: Path) -> None:
    run = make_run(ARRAYS)
    next(fit(run))
    first = checkpoint.save(run, tmp_path)
    run.state.batches.micro = 2
    with FAILURES[failure](), pytest.raises(OSError, match=r"space|large|Input/output"):
        checkpoint.save(run, tmp_path)
    other = make_run(ARRAYS)
    assert checkpoint.resume(other, tmp_path) is not None
    assert other.state.step == 1
    again = checkpoint.save(run, tmp_path)
    assert again.files[1] == first.files[1]  # the tensors are the same, bit for bit


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_kind_of_lacking_room_is_one(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(checkpoint.NoRoom, match=os.strerror(number)) as caught:
        checkpoint.write_atomically(tmp_path / "file", b"x" * 10)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.needed == 10
    assert names_in(tmp_path) == set()
