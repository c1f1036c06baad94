"""What changes while a run trains: saved whole, loaded whole, also from the version before."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.training import checkpoint
from services.training.bptt import Carried
from services.training.loop import Run
from services.training.state import Batches, Best, Rollbacks, State, Stopping
from tests.training.building import classes, make_run, timeless, trained

BEFORE = Path(__file__).parent / "before"
CPU = torch.device("cpu")


def run_of_before() -> Run:
    """The run whose checkpoint lies in `before/`: it had rolled back once, and was within its fourth epoch."""
    return make_run(
        classes(samples=16, length=4, features=2, kinds=2),
        architecture={"hidden_size": 2, "batch_norm": True},
        training={
            "epochs": 6,
            "batch_size": 4,
            "lr_schedule": {"name": "plateau", "patience": 0, "threshold": 0.9, "factor": 0.7},
            "early_stopping": {"patience": 5, "min_delta": 10.0},
            "on_divergence": {"lr_factor": 0.5, "at_most": 2},
        },
    )


def test_a_checkpoint_of_the_version_before_loads_and_its_run_goes_on_as_it_did_then(tmp_path: Path) -> None:
    """Written by the last commit before there was a State, which also trained the run to its end."""
    shutil.copytree(BEFORE, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "checkpoint-000000011.json"
    before = checkpoint.read(path)["state"]
    run = run_of_before()
    assert checkpoint.resume(run, tmp_path) == path
    state = run.state
    assert (state.epoch, state.step, state.steps_in_epoch, state.reported) == (3, 11, 2, 2)
    assert state.seconds == before["seconds"]
    assert state.best is not None
    assert (state.best.epoch, state.best.value) == (before["best"]["epoch"], before["best"]["value"])
    assert state.best.weights.keys() == run.model.state_dict().keys()
    assert vars(state.plateau) == before["plateau"]
    assert vars(state.stopping) == before["stopping"]
    assert (state.rollbacks, state.batches) == (Rollbacks(1, 0.5), Batches(evaluation=8, micro=2))
    assert run.take_reports() == (12, [])
    written = json.loads((BEFORE / "expected.json").read_text())["epochs"]
    trained(run)
    assert len(run.state.history) == len(written) == 6
    for now, then in zip(timeless(run.state.history), written, strict=True):
        assert now == pytest.approx(then, rel=1e-5)  # another processor sums in another order


def test_a_checkpoint_is_written_as_the_version_before_wrote_it(tmp_path: Path) -> None:
    """So that it can be read by that version, should one go back to it."""
    shutil.copytree(BEFORE, tmp_path, dirs_exist_ok=True)
    run = run_of_before()
    path = tmp_path / "checkpoint-000000011.json"
    checkpoint.load_into(run, path)
    before = checkpoint.read(path)
    checkpoint.save(run, tmp_path)
    now = checkpoint.read(path)
    assert shape(now["state"]) == shape(before["state"])
    apart = {"seconds", "torch", "optimizer"}  # the rate is set before each update
    assert {key: now["state"][key] for key in before["state"].keys() - apart} == {
        key: before["state"][key] for key in before["state"].keys() - apart
    }


def shape(value: Any) -> Any:
    return {key: shape(item) for key, item in value.items()} if isinstance(value, dict) else None


def full() -> State:
    """A state in which no field stands at its default."""
    state = State(Batches(8, 2), epoch=2, step=9, seconds=1.5)
    state.plateau.bad_epochs = 1
    state.stopping, state.rollbacks = Stopping(0.5, 1, True), Rollbacks(1, 0.5)
    state.best = Best(2, 0.25, {"weight": torch.ones(2)})
    state.history = [{"epoch": 1}, {"epoch": 2}]
    state.reports, state.outputs = [torch.ones(3), torch.zeros(3)], [torch.ones(4, 2), torch.ones(3, 2)]
    state.carried = Carried(np.array([3, 1]), (torch.ones(1, 2, 4), torch.zeros(1, 2, 4)))
    return state


def test_what_is_saved_is_loaded_whole() -> None:
    saved = full()
    found = State(Batches(256)).loaded(saved.document(), saved.tensors(), saved.history, CPU)
    assert found.seconds >= saved.seconds
    for one in fields(State):
        if one.name not in {
            "seconds",
            "best",
            "reports",
            "outputs",
            "reported",
            "written",
            "untaken",
            "began",
            "carried",
        }:
            assert getattr(found, one.name) == getattr(saved, one.name), one.name
            assert getattr(found, one.name) != getattr(State(Batches(256)), one.name), one.name
    assert found.best is not None
    assert (found.best.epoch, found.best.value) == (2, 0.25)
    assert torch.equal(found.best.weights["weight"], torch.ones(2))
    assert [len(outputs) for outputs in found.outputs] == [4, 3]
    assert found.carried.sequences.tolist() == [3, 1]
    assert [each.sum() for each in found.carried.state] == [8.0, 0.0]
    assert torch.equal(torch.stack(found.reports), torch.stack(saved.reports))
    assert (found.reported, found.written, found.untaken) == (2, None, [])


@pytest.mark.parametrize("missing", ["rollbacks", "batches", "stopping"])
def test_a_field_that_a_version_before_did_not_write_begins_as_in_a_new_run(missing: str) -> None:
    saved, fresh = full(), State(Batches(256))
    document = {key: value for key, value in saved.document().items() if key != missing}
    found = fresh.loaded(document, saved.tensors(), saved.history, CPU)
    assert getattr(found, missing) == getattr(fresh, missing)
    assert found.step == 9


def test_a_part_of_a_field_that_is_missing_begins_as_in_a_new_run_too() -> None:
    saved = full()
    document = saved.document()
    document["rollbacks"] = {"count": 2}
    assert State(Batches(256)).loaded(document, saved.tensors(), [], CPU).rollbacks == Rollbacks(2, 1.0)


def test_what_goes_back_keeps_the_best_the_rollbacks_and_what_fits_and_forgets_all_else() -> None:
    saved = full()
    found = saved.gone_back(1, 4)
    assert (found.epoch, found.step, found.history) == (1, 4, [{"epoch": 1}])
    assert (found.best, found.rollbacks, found.batches) == (saved.best, saved.rollbacks, saved.batches)
    fresh = State(Batches(8))
    for one in fields(State):
        if one.name not in {"epoch", "step", "history", "best", "rollbacks", "batches", "began"}:
            assert getattr(found, one.name) == getattr(fresh, one.name), one.name


def test_the_time_of_the_epoch_under_way_goes_on_from_what_was_saved() -> None:
    state = State(Batches(8), seconds=2.0)
    assert state.elapsed == 2.0
    state.reports = [torch.zeros(3)]
    state.began -= 10.0
    assert state.elapsed >= 12.0
    assert math.isclose(state.document()["seconds"], state.elapsed, abs_tol=1.0)
