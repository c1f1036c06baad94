"""The epochs of a run in a file of their own: checkpoints stay small, and a run that goes on has them all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from services.errors import CheckpointCorrupt
from services.training import checkpoint, epochs, loop
from services.training.loop import Run, fit
from tests.training.building import make_run, timeless, trained

Event = dict[str, Any]


def record(number: int) -> dict[str, Any]:
    """An epoch's numbers, as long as those of a real one."""
    return {
        "epoch": number,
        "train_loss": 0.1234567890123456 + number,
        "validation_loss": 1 / 3,
        **{f"{split}_{name}": 2 / 3 for split in ("train", "validation") for name in ("accuracy", "macro_f1")},
        "lr": 0.001,
        "grad_norm_mean": 0.5123456789012345,
        "grad_norm_max": 1.5123456789012345,
        "clipped_fraction": 0.0,
        "seconds": 0.012345678901234567,
        "samples_per_second": 12345.678901234567,
    }


def size_of(saved: checkpoint.Saved) -> int:
    return sum(file.bytes for file in saved.files)


def stepped(run: Run, updates: int) -> None:
    for _ in range(updates):
        next(fit(run))


def test_a_checkpoint_is_as_small_at_epoch_ten_thousand_as_at_epoch_one(tmp_path: Path) -> None:
    run = make_run(training={"epochs": 20_000})
    stepped(run, 1)
    sizes = {}
    for count in (1, 10_000):
        run.state.history = [record(number + 1) for number in range(count)]
        run.state.written = None
        sizes[count] = size_of(checkpoint.save(run, tmp_path))
    assert sizes[10_000] - sizes[1] < 20  # the digits of two numbers
    assert (tmp_path / epochs.NAME).stat().st_size > 3_000_000


def test_a_checkpoint_adds_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(training={"epochs": 9})
    written: list[int] = []
    real = epochs.lines

    def lines(records: Any) -> Any:
        found = list(real(records))
        written.append(len(found))
        return found

    monkeypatch.setattr(epochs, "lines", lines)
    for epoch in fit(run):
        if epoch is not None:
            checkpoint.save(run, tmp_path)
            checkpoint.save(run, tmp_path)
    assert written[1:] == [1, 0] * 9
    assert (tmp_path / epochs.NAME).read_bytes() == b"".join(real(run.state.history))


def test_every_checkpoint_finds_its_own_epochs_in_the_one_file(tmp_path: Path) -> None:
    run = make_run(training={"epochs": 4})
    for epoch in fit(run):
        if epoch is not None:
            checkpoint.save(run, tmp_path)
    for place, path in enumerate(reversed(checkpoint.newest_first(tmp_path)), 1):
        other = make_run(training={"epochs": 4})
        checkpoint.load_into(other, path)
        assert other.state.history == run.state.history[:place]


def test_an_older_checkpoint_is_gone_on_from_and_the_file_is_cut_there(tmp_path: Path) -> None:
    run = make_run(training={"epochs": 4})
    for epoch in fit(run):
        if epoch is not None:
            checkpoint.save(run, tmp_path)
    older = checkpoint.newest_first(tmp_path)[2]
    again = make_run(training={"epochs": 4})
    checkpoint.load_into(again, older)
    checkpoint.discard_after(tmp_path, again.state.step)
    trained(again)
    assert timeless(again.state.history) == timeless(run.state.history)
    checkpoint.save(again, tmp_path)
    assert (tmp_path / epochs.NAME).read_bytes() == b"".join(epochs.lines(again.state.history))


def test_going_back_cuts_nothing_off_that_a_checkpoint_still_counts_on(tmp_path: Path) -> None:
    """Death between a rollback's checkpoint and the end of those beyond it: these must still be whole."""
    run = make_run(training={"epochs": 3})
    for epoch in fit(run):
        if epoch is not None:
            checkpoint.save(run, tmp_path)
    back = make_run(training={"epochs": 3})
    back.state.history = run.state.history[:1]
    checkpoint.save(back, tmp_path)
    other = make_run(training={"epochs": 3})
    assert checkpoint.resume(other, tmp_path) is not None
    assert other.state.history == run.state.history


@pytest.mark.parametrize("damage", ["gone", "cut off", "flipped"])
def test_damaged_epochs_are_noticed_and_an_older_checkpoint_serves_where_it_can(tmp_path: Path, damage: str) -> None:
    run = make_run(training={"epochs": 3})
    for epoch in fit(run):
        if epoch is not None:
            checkpoint.save(run, tmp_path)
    file = tmp_path / epochs.NAME
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if damage == "cut off" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    other = make_run(training={"epochs": 3})
    with pytest.raises(CheckpointCorrupt):
        checkpoint.load_into(other, checkpoint.newest_first(tmp_path)[0])
    found = checkpoint.resume(other, tmp_path)
    assert (found, other.state.epoch) == ((None, 0) if damage == "gone" else (checkpoint.newest_first(tmp_path)[1], 2))
    trained(other)
    checkpoint.save(other, tmp_path)  # which mends the file
    third = make_run(training={"epochs": 3})
    checkpoint.load_into(third, checkpoint.newest_first(tmp_path)[0])
    assert third.state.history == other.state.history


def test_a_file_that_vanishes_meanwhile_is_written_anew(tmp_path: Path) -> None:
    run = make_run(training={"epochs": 3})
    for epoch in fit(run):
        if epoch is not None:
            (tmp_path / epochs.NAME).unlink(missing_ok=True)
            checkpoint.save(run, tmp_path)
    assert epochs.is_there(checkpoint.newest_first(tmp_path)[0])


def test_checkpoints_of_versions_that_kept_the_epochs_inside_are_taken_up(tmp_path: Path) -> None:
    run = make_run(training={"epochs": 4})
    loop = fit(run)
    for epoch in loop:
        if epoch is not None and run.state.epoch == 2:
            break
    saved = checkpoint.save(run, tmp_path)
    path = tmp_path / saved.files[0].name
    body = checkpoint.read(path)
    del body["history"]
    body["state"]["history"] = [dict(run.state.history[0]), run.state.history[1] | {"validation_loss": "inf"}]
    path.write_text(json.dumps(body | {"sha256": checkpoint._hash_of(body)}))
    (tmp_path / epochs.NAME).unlink()
    assert epochs.is_there(path)
    other = make_run(training={"epochs": 4})
    checkpoint.load_into(other, path)
    assert other.state.history == [run.state.history[0], run.state.history[1] | {"validation_loss": None}]
    trained(other)
    assert [one["epoch"] for one in other.state.history] == [1, 2, 3, 4]
    again = checkpoint.save(other, tmp_path)
    assert epochs.is_there(tmp_path / again.files[0].name)


def test_an_epoch_that_is_not_finite_is_the_same_in_memory_as_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a rollback sees of the epochs before decides how long training goes on."""
    losses = iter((0.7, math.inf, math.nan))
    real = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda run, part: real(run, part) | {"loss": next(losses)})
    run = make_run(training={"epochs": 3, "early_stopping": {"patience": 9}})
    for epoch in fit(run):
        if epoch is not None:
            checkpoint.save(run, tmp_path)
    assert [epoch["validation_loss"] for epoch in run.state.history] == [0.7, None, None]
    other = make_run(training={"epochs": 3, "early_stopping": {"patience": 9}})
    assert checkpoint.resume(other, tmp_path) is not None
    assert (other.state.history, other.state.stopping.bad_epochs, other.state.stopping.best) == (
        run.state.history,
        2,
        0.7,
    )
