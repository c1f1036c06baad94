"""Which checkpoints of a run stay on disk, and until when."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.training import retention
from services.training.loop import Run, fit
from services.training.messages import CheckpointDeleted, CheckpointSaved
from services.training.retention import Retention
from tests.training.building import make_run, names_in


def steps_on_disk(directory: Path) -> list[int]:
    return sorted(int(name[11:20]) for name in names_in(directory) if name.endswith(".json"))


def saved_after_each_update(run: Run, kept: Retention, updates: int) -> list[CheckpointSaved | CheckpointDeleted]:
    sent = []
    for _ in zip(range(updates), fit(run), strict=False):
        sent += [*kept.save(run)]
    return sent  # type: ignore[return-value]


def test_a_superfluous_checkpoint_is_announced_and_goes_only_when_that_was_written_down(tmp_path: Path) -> None:
    run, recorded = make_run(checkpoints={"keep_last": 2}), [0]
    kept = Retention(tmp_path, recorded=lambda: recorded[0])
    sent = saved_after_each_update(run, kept, 3)
    assert [type(event) for event in sent] == [CheckpointSaved] * 3  # none was written down, so none is superfluous
    recorded[0] = 3
    assert [*kept.prune(2)] == [CheckpointDeleted(1)]
    assert (kept.steps, steps_on_disk(tmp_path)) == ([2, 3], [1, 2, 3])
    assert [*kept.prune(2)] == []
    recorded[0] = 4
    assert [*kept.prune(2)] == []
    assert steps_on_disk(tmp_path) == [2, 3]


def test_the_end_waits_for_what_was_sent_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SETTLE_SECONDS", 0.01)
    run = make_run(checkpoints={"keep_last": 1})
    kept = Retention(tmp_path, recorded=lambda: 2)
    saved_after_each_update(run, kept, 2)
    assert [*kept.settle(1)] == []
    assert (kept.steps, steps_on_disk(tmp_path)) == (
        [2],
        [1, 2],
    )  # the third event, the end of the first, is not recorded


def test_what_lies_on_disk_is_found_again_and_forgotten_from_a_place_on(tmp_path: Path) -> None:
    run = make_run(checkpoints={"keep_last": 9})
    saved_after_each_update(run, Retention(tmp_path), 5)
    kept = Retention(tmp_path)
    kept.take_stock()
    assert kept.steps == [1, 2, 3, 4, 5]
    assert [(saved.epoch, saved.best) for saved in kept.saved][-1] == (1, True)
    kept.forget_after(3)
    assert (kept.steps, steps_on_disk(tmp_path)) == ([1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize(
    ("when", "due"),
    [
        ({"every_steps": 2, "every_epochs": None}, [2, 4, 6]),
        ({"every_steps": None, "every_epochs": 1}, [5]),
        ({"every_steps": 4, "every_epochs": 1}, [4, 5]),
    ],
)
def test_a_checkpoint_is_due_as_the_spec_says(when: dict[str, int | None], due: list[int], tmp_path: Path) -> None:
    run = make_run(checkpoints={"every_seconds": None, **when})
    kept = Retention(tmp_path)
    found = []
    for _, record in zip(range(6), fit(run), strict=False):
        if kept.is_due(run, 0.0, epoch_ended=record is not None):
            found.append(run.state.step)
    assert found == due


def test_after_so_many_seconds_one_is_due(tmp_path: Path) -> None:
    run = make_run(checkpoints={"every_seconds": 30.0, "every_steps": None, "every_epochs": None})
    kept = Retention(tmp_path)
    next(fit(run))
    began = kept._saved_at
    assert not kept.is_due(run, began + 29.0, epoch_ended=False)
    assert kept.is_due(run, began + 30.1, epoch_ended=False)
