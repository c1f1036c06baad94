"""One order carried out: what is told on the way, what lies in its folder, and how it goes on."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from services.errors import DatasetInvalid, Diverged, Invalid, NotFinite, SpecInvalid
from services.training import checkpoint, loop, run
from services.training.card import writing
from services.training.data import Part
from services.training.export import checked
from services.training.export.checked import CannotExport
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.loop import Run, fit
from services.training.messages import NEWEST
from services.training.model import SequenceModel
from services.training.spec import parse
from tests.training.building import (
    classes,
    document,
    events,
    make_run,
    names_in,
    of_many_lengths,
    same,
    timeless,
    trained,
    values,
    weights_of,
)

Event = dict[str, Any]


def split(arrays: Arrays) -> Arrays:
    """The same with a quarter marked for validation and a quarter for testing."""
    marks = np.array([0, 1, 0, 2] * (len(arrays.x) // 4), np.int8)
    return Arrays(x=arrays.x, lengths=arrays.lengths, y=arrays.y, split=marks)


ARRAYS = split(of_many_lengths(classes(48)))  # 24 samples to train on: 6 updates an epoch
BOTH_GIVEN = {"split": {"validation": "given", "test": "given"}, "scaling": "standard"}
MODEL = ("model.safetensors", "model.json", "history.json", "model.onnx")
CARD = ("README.md", "loss.svg", "gradients.svg")


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., Event]:
    """A factory of orders: arrays to train on, and changes of the spec."""

    def make(arrays: Arrays = ARRAYS, *, resume: str | None = None, folder: str = "job", **changes: Any) -> Event:
        data = tmp_path / "data.npz"
        npz.write(data, arrays)
        changes = {"data": BOTH_GIVEN if arrays is ARRAYS else {}} | changes
        return {
            "spec": parse(document(**changes)).document(),
            "data": str(data),
            "directory": str(tmp_path / folder),
            "resume": resume,
            "device": "auto",
            "job": "job_1",
            "attempt": 1,
        }

    return make


def after(updates: int, reason: str) -> Callable[[], str | None]:
    """A stop that comes after so many updates, and stays."""
    count = itertools.count(1)
    return lambda: reason if next(count) >= updates else None


def of(kind: str, told: list[Event]) -> list[Event]:
    return [event for event in told if event["event"] == kind]


def steps_of(told: list[Event]) -> dict[int, tuple[float, float]]:
    """The (loss, gradient norm) of every update that was told; no update twice."""
    found: dict[int, tuple[float, float]] = {}
    for event in of("steps", told):
        for offset, pair in enumerate(zip(event["loss"], event["grad_norm"], strict=True)):
            assert event["first_step"] + offset not in found
            found[event["first_step"] + offset] = pair
    return found


def names(directory: str | Path) -> set[str]:
    return names_in(Path(directory))


# ---- the stream


def test_a_run_is_told_from_its_start_to_its_files(order: Callable[..., Event]) -> None:
    told = [event for event in events(order()) if event.get("type") != "engine"]  # which is of the machine
    assert [told.pop(-3)["type"], told.pop(-2)["type"]] == ["baseline", "advice"]  # which so few epochs do not beat
    kinds = [event["event"] for event in told]
    assert kinds[:2] == ["started", "steps"]
    assert kinds[-2:] == ["checkpoint", "finished"]
    assert set(kinds) == {"started", "steps", "epoch", "checkpoint", "finished"}
    run = make_run(ARRAYS, data=BOTH_GIVEN)
    assert told[0] == {
        "event": "started",
        "epochs": 3,
        "steps_per_epoch": 6,
        "resumed_from": None,
        "best": None,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "device": "cpu",
        "threads": 1,
        "torch": torch.__version__,
        "checkpoints": [],
        "details": {"engine": run.engine.name},
    }
    assert told[1]["first_step"] == 1
    assert len(told[1]["loss"]) == 1  # the very first update is told at once


def test_a_long_look_at_the_kept_weights_is_followed_by_a_sign_of_life(
    order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SIGN_SECONDS", -1.0)
    assert [event["event"] for event in events(order())][-5:] == ["checkpoint", "device", "note", "note", "finished"]


def test_every_update_is_told_once_and_as_it_was(order: Callable[..., Event]) -> None:
    told = list(events(order()))
    run, reports = make_run(ARRAYS, data=BOTH_GIVEN), []
    for _ in fit(run):
        reports += run.take_reports()[1]
    assert steps_of(told) == dict(enumerate(reports, start=1))
    assert list(steps_of(told)) == list(range(1, 19))


def test_many_updates_are_told_in_bundles_of_bounded_size(
    order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "STEPS_AT_MOST", 4)
    monkeypatch.setattr(run, "STEPS_EVERY_SECONDS", 1e9)
    told = list(events(order()))
    assert [len(event["loss"]) for event in of("steps", told)] == [1, 4, 1, 4, 2, 4, 2]
    assert list(steps_of(told)) == list(range(1, 19))


def test_epochs_are_told_as_they_were_recorded(order: Callable[..., Event]) -> None:
    told = list(events(order()))
    records = [event["record"] for event in of("epoch", told)]
    assert timeless(records) == timeless(trained(make_run(ARRAYS, data=BOTH_GIVEN)))
    assert all(record["seconds"] > 0 for record in records)


def test_an_epoch_is_told_after_its_updates(order: Callable[..., Event]) -> None:
    seen = 0
    for event in events(order()):
        if event["event"] == "steps":
            assert event["first_step"] == seen + 1
            seen += len(event["loss"])
        if event["event"] == "epoch":
            assert seen == 6 * event["record"]["epoch"]
        if event["event"] == "checkpoint":
            assert seen == event["step"]


def test_everything_told_is_json(order: Callable[..., Event]) -> None:
    arrays = Arrays(x=ARRAYS.x.copy(), lengths=ARRAYS.lengths, y=ARRAYS.y, split=ARRAYS.split)
    arrays.x[1] = np.finfo(np.float32).max  # of the validation part: its loss is not finite
    arrays.x[1, arrays.lengths[1] :] = 0
    relu = {"cell": "rnn", "nonlinearity": "relu", "init": "kaiming"}
    given = {"data": {"split": {"validation": "given", "test": "given"}}, "architecture": relu}
    asked = order(arrays, checkpoints={"every_steps": 1}, **given)
    told: list[Event] = []
    with pytest.raises(NotFinite, match="give no finite answer to 1 of the 12 validation samples"):
        told.extend(json.loads(json.dumps(event, allow_nan=False)) for event in events(asked))
    assert [event["record"]["validation_loss"] for event in of("epoch", told)] == [None] * 3
    assert [event["best"]["value"] for event in of("epoch", told)] == [None] * 3


def test_synthetic_data_needs_no_file(tmp_path: Path) -> None:
    spec = document(data={"dataset": None, "synthetic": {"samples": 20, "length": 3, "features": 2}})
    told = list(events({"spec": spec, "data": None, "directory": str(tmp_path / "job"), "resume": None}))
    assert told[-1]["event"] == "finished"


# ---- checkpoints


@pytest.mark.parametrize(
    ("when", "steps"),
    [
        ({"every_steps": 4}, [4, 8, 12, 16, 18]),
        ({"every_epochs": 1}, [6, 12, 18]),
        ({"every_epochs": 2}, [12, 18]),
        ({"every_steps": 5, "every_epochs": 1}, [5, 6, 10, 12, 15, 18]),
        ({"every_seconds": 1e-9}, list(range(1, 19))),
        ({"every_seconds": 1000.0}, [18]),
        ({}, [18]),
    ],
)
def test_checkpoints_are_taken_when_the_spec_says_and_at_the_end(
    when: dict[str, Any], steps: list[int], order: Callable[..., Event]
) -> None:
    told = list(events(order(checkpoints={"every_seconds": None} | when)))
    assert [event["step"] for event in of("checkpoint", told)] == steps
    assert [event["epoch"] for event in of("checkpoint", told)] == [step // 6 for step in steps]


def test_the_last_few_and_the_best_stay_on_disk_and_the_rest_is_told_as_deleted(order: Callable[..., Event]) -> None:
    asked = order(
        training={"epochs": 12, "optimizer": {"name": "adam", "lr": 0.3}},  # too fast to stay at its best
        checkpoints={"every_steps": 3, "keep_last": 2},
    )
    kept: dict[int, Event] = {}
    for event in events(asked):
        if event["event"] == "checkpoint":
            kept[event["step"]] = event
        if event["event"] == "checkpoint_deleted":
            del kept[event["step"]]
        if event["event"] == "finished":
            best_step = 6 * event["result"]["best_epoch"]
    assert best_step < 66
    assert kept.keys() == {best_step, 69, 72}
    assert kept[best_step]["best"]
    files = {file["name"]: file for event in kept.values() for file in event["files"]}
    results = {*MODEL, *CARD, "confusion.svg", "calibration.svg", "lengths.svg"}
    assert names(asked["directory"]) == files.keys() | results
    for name, file in files.items():
        content = (Path(asked["directory"]) / name).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_resumed_run_keeps_the_best_from_before(order: Callable[..., Event]) -> None:
    spec: dict[str, Any] = {
        "training": {"epochs": 12, "optimizer": {"name": "adam", "lr": 0.3}},
        "checkpoints": {"every_steps": 3, "keep_last": 1},
    }
    whole, parts = order(folder="whole", **spec), order(folder="parts", **spec)
    for _ in events(whole):
        pass
    for _ in range(5):  # goes on from the middle of an epoch, too
        for _ in events(parts | {"resume": NEWEST}, after(14, "drain")):
            pass
    for _ in events(parts | {"resume": NEWEST}):
        pass
    assert names(parts["directory"]) == names(whole["directory"])


def test_a_checkpoint_not_heard_of_is_not_gone_on_from_so_that_records_have_no_gap(
    order: Callable[..., Event],
) -> None:
    asked = order(checkpoints={"every_steps": 4, "keep_last": 1})
    told = list(events(asked, after(13, "drain")))
    heard_of = next(event for event in told if event["event"] == "checkpoint")
    assert heard_of["step"] == 4
    again = events(asked | {"resume": str(Path(asked["directory"]) / heard_of["files"][0]["name"])})
    warning, started = next(again), next(again)
    assert "training starts from the beginning" in warning["message"]
    assert (started["resumed_from"], started["checkpoints"]) == (None, [])


def test_what_the_keeper_of_the_records_counts_on_is_not_deleted(order: Callable[..., Event]) -> None:
    asked = order(checkpoints={"every_steps": 2, "keep_last": 1})
    written: list[int] = []  # checkpoints that the keeper has in its records, a while after it was told of them
    late: list[Event] = []
    recorded = [0]
    for event in events(asked, after(15, "drain"), recorded=lambda: recorded[0]):
        if event["event"] in ("checkpoint", "checkpoint_deleted"):
            late.append(event)
        if len(late) > 3:
            oldest = late.pop(0)
            recorded[0] += 1
            written = [step for step in written if step != oldest["step"]]
            written += [oldest["step"]] if oldest["event"] == "checkpoint" else []
        there = names(asked["directory"]) if written else set()
        assert {f"checkpoint-{step:09d}.json" for step in written} <= there
    assert recorded[0] > 3
    assert len(written) < 6


def test_a_run_ends_with_no_more_checkpoints_than_asked_for_once_its_keeper_has_heard(
    order: Callable[..., Event],
) -> None:
    asked = order(checkpoints={"every_steps": 2, "keep_last": 1})
    told = events(asked, recorded=lambda: time.monotonic() - began > 0.2 and 99)
    began = time.monotonic()
    assert list(told)[-1]["event"] == "finished"
    assert 1 <= len([name for name in names(asked["directory"]) if name.startswith("checkpoint-")]) // 2 <= 2


# ---- stopping


@pytest.mark.parametrize("reason", ["cancel", "pause", "drain", "time_limit"])
@pytest.mark.parametrize("updates", [1, 6, 8])
def test_a_stop_leaves_a_checkpoint(reason: str, updates: int, order: Callable[..., Event]) -> None:
    asked = order()
    told = list(events(asked, after(updates, reason)))
    assert (told[-1]["event"], told[-1]["reason"]) == ("stopped", reason)
    (saved,) = of("checkpoint", told)
    assert saved["step"] == updates
    assert max(steps_of(told)) == updates
    offers = reason in ("cancel", "time_limit") and updates >= 6
    assert ("files" in told[-1]) == offers
    files = {f"checkpoint-{updates:09d}.json", f"checkpoint-{updates:09d}.safetensors"}
    assert names(asked["directory"]) == files | ({*MODEL, *CARD} if offers else set())


@pytest.mark.parametrize(("reason", "why"), [("cancel", "cancelled"), ("time_limit", "time_limit")])
def test_a_run_that_is_cut_short_offers_its_best_weights(reason: str, why: str, order: Callable[..., Event]) -> None:
    asked = order(training={"epochs": 12, "optimizer": {"name": "adam", "lr": 0.3}})  # too fast to stay at its best
    told = list(events(asked, after(64, reason)))
    stopped = told[-1]
    epochs = [event["record"] for event in of("epoch", told)]
    best = min(epochs, key=lambda epoch: epoch["validation_loss"])
    assert best["epoch"] < 10 == len(epochs)
    directory = Path(asked["directory"])
    for file in stopped["files"]:
        assert hashlib.sha256((directory / file["name"]).read_bytes()).hexdigest() == file["sha256"]
    card = json.loads((directory / "model.json").read_text())
    assert (card["complete"], card["incomplete_because"]) == (False, why)
    assert (
        (directory / "README.md").read_text().splitlines()[2].startswith("> **This model is not complete**: the job ")
    )
    assert stopped["result"] == {key: card[key] for key in stopped["result"]}
    numbers = {key: value for key, value in best.items() if key.startswith("validation_")}
    assert stopped["result"].pop("baseline")["metric"] == "validation_accuracy"
    assert stopped["result"] == {
        "complete": False, "incomplete_because": why, "best_epoch": best["epoch"], "epochs": 10,
        "stopped_early": False, "metrics": numbers,
    }  # fmt: skip
    assert json.loads((directory / "history.json").read_text()) == {"epochs": epochs}
    tensors = load_file(checkpoint.newest_first(directory)[0].with_suffix(".safetensors"))
    weights = {name.removeprefix("best."): tensor for name, tensor in tensors.items() if name.startswith("best.")}
    assert same(load_file(directory / "model.safetensors"), weights)


def test_a_finished_model_is_not_marked_as_cut_short(order: Callable[..., Event]) -> None:
    asked = order()
    told = list(events(asked))
    card = json.loads((Path(asked["directory"]) / "model.json").read_text())
    assert "complete" not in card
    assert "complete" not in told[-1]["result"]


@pytest.mark.parametrize("trouble", ["no epoch", "loss", "weights", "disk"])
def test_what_cannot_be_offered_is_said_and_the_run_stops_all_the_same(
    trouble: str, order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run.cut_short

    def spoiled(stopped: Run, directory: Path, why: str) -> run.Offered | None:
        if trouble == "disk":
            raise checkpoint.NoRoom(1, 0)
        if stopped.state.best is not None and trouble == "weights":
            stopped.state.best.weights["head.bias"][0] = math.nan
        if stopped.state.best is not None and trouble == "loss":
            stopped.state.history[stopped.state.best.epoch - 1]["validation_loss"] = None
        return real(stopped, directory, why)

    monkeypatch.setattr(run, "cut_short", spoiled)
    asked = order()
    told = list(events(asked, after(3 if trouble == "no epoch" else 9, "cancel")))
    assert told[-1] == {"event": "stopped", "reason": "cancel"}
    words = "could not be written as a model" if trouble == "disk" else "There is no model of the run until then"
    assert words in told[-2]["message"]
    assert not (Path(asked["directory"]) / "model.json").exists()


def test_a_stop_after_the_very_last_update_comes_too_late(order: Callable[..., Event]) -> None:
    told = list(events(order(), after(18, "cancel")))
    assert told[-1]["event"] == "finished"
    assert not of("stopped", told)


def test_a_stop_is_asked_for_after_every_update(order: Callable[..., Event]) -> None:
    asked = 0

    def stop() -> None:
        nonlocal asked
        asked += 1

    list(events(order(), stop))
    assert asked == 18


# ---- going on


def stopped_at(updates: int, asked: Event) -> list[Event]:
    return list(events(asked, after(updates, "drain")))


def test_a_resumed_run_tells_where_it_goes_on_and_only_what_is_new(order: Callable[..., Event]) -> None:
    asked, unbroken = order(), order(folder="unbroken")
    before = stopped_at(8, asked)
    told = list(events(asked | {"resume": NEWEST}))
    assert told[0]["resumed_from"] == {"epoch": 1, "step": 8}
    assert told[0]["event"] == "started"
    assert not of("log", told)
    assert list(steps_of(told)) == list(range(9, 19))
    whole = list(events(unbroken))
    assert steps_of(before) | steps_of(told) == steps_of(whole)
    records = [event["record"] for event in of("epoch", before) + of("epoch", told)]
    assert timeless(records) == timeless([event["record"] for event in of("epoch", whole)])


def test_a_checkpoint_may_be_named(order: Callable[..., Event]) -> None:
    asked = order(checkpoints={"every_steps": 2, "keep_last": 9})
    stopped_at(8, asked)
    told = list(events(asked | {"resume": str(Path(asked["directory"]) / "checkpoint-000000004.json")}))
    assert told[0]["resumed_from"] == {"epoch": 0, "step": 4}
    assert not of("log", told)


def test_what_lies_beyond_a_named_checkpoint_is_lived_again(order: Callable[..., Event]) -> None:
    asked = order(checkpoints={"every_steps": 2, "keep_last": 9})
    stopped_at(8, asked)
    stream = events(asked | {"resume": str(Path(asked["directory"]) / "checkpoint-000000004.json")})
    next(stream)
    assert {name for name in names(asked["directory"]) if name.endswith(".json")} == {
        "checkpoint-000000002.json",
        "checkpoint-000000004.json",
    }
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(damage: str, order: Callable[..., Event]) -> None:
    asked = order(checkpoints={"every_steps": 4, "keep_last": 9})
    stopped_at(8, asked)
    path = Path(asked["directory"]) / "checkpoint-000000008.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    told = list(events(asked | {"resume": str(path)}))
    assert told[0] == {
        "event": "log",
        "level": "warning",
        "message": "checkpoint-000000008.json is damaged or missing; training goes on from checkpoint-000000004.json.",
    }
    assert told[1]["resumed_from"] == {"epoch": 0, "step": 4}
    assert list(steps_of(told)) == list(range(5, 19))


def test_when_no_checkpoint_is_whole_training_begins_again_with_a_warning(order: Callable[..., Event]) -> None:
    asked = order(checkpoints={"every_steps": 4, "keep_last": 9})
    stopped_at(8, asked)
    for path in Path(asked["directory"]).glob("*.safetensors"):
        path.unlink()
    told = list(events(asked | {"resume": NEWEST}))
    assert told[0]["message"] == "There is no checkpoint that is whole; training starts from the beginning."
    assert told[1]["resumed_from"] is None
    assert list(steps_of(told)) == list(range(1, 19))
    assert timeless([e["record"] for e in of("epoch", told)]) == timeless(trained(make_run(ARRAYS, data=BOTH_GIVEN)))


def test_another_specs_checkpoints_are_neither_taken_up_nor_deleted(order: Callable[..., Event]) -> None:
    asked = order(checkpoints={"every_steps": 4, "keep_last": 9})
    stopped_at(8, asked)
    before = names(asked["directory"])
    other = order(training={"seed": 4}) | {"directory": asked["directory"], "resume": NEWEST}
    with pytest.raises(Invalid, match=r"another spec: training\.seed was 0 and is 4\. Put that back"):
        list(events(other))
    assert names(asked["directory"]) == before


@pytest.mark.parametrize("updates", [8, 10**9], ids=["under way", "ended"])
@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_other_data_is_refused_before_a_checkpoint_is_taken_up_or_deleted(
    order: Callable[..., Event], updates: int, damaged: bool
) -> None:
    asked = order(checkpoints={"every_steps": 4, "keep_last": 9})
    stopped_at(updates, asked)
    if damaged:  # the one before it says of which data it is
        max(Path(asked["directory"]).glob("checkpoint-*.json")).write_text("{")
    before = {path.name: path.read_bytes() for path in Path(asked["directory"]).iterdir()}
    order(split(of_many_lengths(classes(48, seed=7))))
    with pytest.raises(Invalid, match=r"of other data: .*/data\.npz has changed since .*Put the old file back"):
        list(events(asked | {"resume": NEWEST}))
    assert {path.name: path.read_bytes() for path in Path(asked["directory"]).iterdir()} == before


def test_a_checkpoint_that_does_not_say_its_data_is_taken_up_with_a_word(order: Callable[..., Event]) -> None:
    asked = order(checkpoints={"every_steps": 4, "keep_last": 9})
    stopped_at(8, asked)
    without_digest(Path(asked["directory"]))
    told = list(events(asked | {"resume": NEWEST}))
    assert told[0]["level"] == "warning"
    assert "does not say which data it was trained on" in told[0]["message"]
    assert asked["data"] in told[0]["message"]
    assert told[1]["resumed_from"] == {"epoch": 1, "step": 8}


def test_other_data_is_refused_by_its_scaling_where_a_checkpoint_has_no_digest(order: Callable[..., Event]) -> None:
    asked = order()
    stopped_at(8, asked)
    without_digest(Path(asked["directory"]))
    order(split(of_many_lengths(classes(48, seed=7))))
    with pytest.raises(Invalid, match=r"other data: .*its scaling is another"):
        list(events(asked | {"resume": NEWEST}))


def test_a_checkpoint_of_other_data_serves_nobody(order: Callable[..., Event]) -> None:
    asked = order(checkpoints={"every_steps": 4})
    stopped_at(8, asked)
    order(split(of_many_lengths(classes(48, seed=7))))
    told = list(events(asked | {"resume": str(Path(asked["directory"]) / "checkpoint-000000008.json")}))
    assert "no checkpoint that is whole" in told[0]["message"]
    assert told[1]["resumed_from"] is None


def without_digest(directory: Path) -> None:
    """Leaves the checkpoints as versions wrote them that did not write down the data's digest."""
    for path in directory.glob("checkpoint-*.json"):
        body = checkpoint.read(path)
        del body["data_sha256"]
        path.write_text(json.dumps(body | {"sha256": checkpoint._hash_of(body)}))


def test_a_run_that_has_ended_can_be_resumed_to_train_for_longer(order: Callable[..., Event]) -> None:
    short, long = order(folder="short"), order(folder="long", training={"epochs": 5})
    stopped_at(10**9, short)
    again = list(events(long | {"directory": short["directory"], "resume": NEWEST}))
    assert [event["record"]["epoch"] for event in of("epoch", again)] == [4, 5]
    unbroken = list(events(long))
    assert again[-1]["files"][0] == unbroken[-1]["files"][0]  # the weights, by their hash


def test_a_new_beginning_clears_the_old_checkpoints_away(order: Callable[..., Event]) -> None:
    asked = order(checkpoints={"every_steps": 1, "keep_last": 9})
    stopped_at(8, asked)
    stream = events(asked)
    assert next(stream)["resumed_from"] is None
    assert names(asked["directory"]) == set()
    list(stream)


# ---- the result


def test_the_files_of_the_result_are_as_they_are_told(order: Callable[..., Event]) -> None:
    asked = order()
    told = list(events(asked))[-1]
    written = [*MODEL, *CARD, "confusion.svg", "calibration.svg", "lengths.svg"]
    assert [file["name"] for file in told["files"]] == written
    for file in told["files"]:
        content = (Path(asked["directory"]) / file["name"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert not [name for name in names(asked["directory"]) if name.endswith(".part")]


def test_the_result_is_the_best_epoch_and_what_it_is_worth(order: Callable[..., Event]) -> None:
    asked = order(training={"epochs": 12, "optimizer": {"name": "adam", "lr": 0.3}})
    told = list(events(asked))
    records = [event["record"] for event in of("epoch", told)]
    best = min(records, key=lambda record: record["validation_loss"])
    result = told[-1]["result"]
    assert (result["best_epoch"], result["epochs"], result["stopped_early"]) == (best["epoch"], 12, False)
    assert result["metrics"].keys() == {
        f"{part}_{name}" for part in ("validation", "test") for name in ("loss", "accuracy", "macro_f1")
    }
    for name in ("validation_loss", "validation_accuracy", "validation_macro_f1"):
        assert result["metrics"][name] == best[name]


def test_the_model_can_be_used_with_what_its_card_says(order: Callable[..., Event]) -> None:
    asked = order(architecture={"pooling": "mean", "batch_norm": True, "bidirectional": True}, training={"epochs": 8})
    told = list(events(asked))[-1]
    card = json.loads((Path(asked["directory"]) / "model.json").read_text())
    assert card["format"] == "loopline-model/1"
    assert card["classes"] == [0, 1, 2]
    assert {key: card[key] for key in told["result"]} == told["result"]
    spec = parse(card["spec"])
    assert spec.training.loss is not None
    model = SequenceModel(spec.architecture, card["input_size"], card["output_size"])
    model.load_state_dict(load_file(Path(asked["directory"]) / "model.safetensors"))
    model.eval()
    shift, scale = (torch.tensor(card["scaling"][name]) for name in ("shift", "scale"))
    assert ARRAYS.split is not None
    right = []
    for row in np.flatnonzero(ARRAYS.split == 2):
        x = (torch.from_numpy(ARRAYS.x[row, : ARRAYS.lengths[row]]) - shift) / scale
        right.append(card["classes"][int(model(x[None]).argmax())] == ARRAYS.y[row])
    assert np.mean(right) == told["result"]["metrics"]["test_accuracy"]
    assert np.mean(right) > 0.6


def test_the_saved_weights_are_those_of_the_best_epoch(order: Callable[..., Event]) -> None:
    asked = order()
    list(events(asked))
    run = make_run(ARRAYS, data=BOTH_GIVEN)
    trained(run)
    assert same(load_file(Path(asked["directory"]) / "model.safetensors"), weights_of(run))


def test_each_epoch_says_which_one_is_the_best_so_far(order: Callable[..., Event]) -> None:
    asked = order(training={"epochs": 12, "optimizer": {"name": "sgd", "lr": 2.0}})
    told = list(events(asked))
    best, expected = None, []
    for epoch in (event["record"] for event in of("epoch", told)):
        if best is None or epoch["validation_loss"] < best["value"]:
            best = {"epoch": epoch["epoch"], "metric": "validation_loss", "value": epoch["validation_loss"]}
        expected.append(best)
    assert [event["best"] for event in of("epoch", told)] == expected
    assert len({one["epoch"] for one in expected if one}) > 1
    assert told[0]["best"] is None
    assert expected[-1] is not None
    assert told[-1]["result"]["best_epoch"] == expected[-1]["epoch"]
    again = list(events(asked | {"resume": NEWEST}))
    assert again[0]["best"] == expected[-1]


def test_an_epoch_without_a_finite_number_is_not_the_best(
    order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by its training loss either: what judges is the same number in every epoch."""
    losses = iter((0.7, math.nan, 0.6, 0.6, 0.6))
    real = loop.evaluate

    def evaluate(run: Run, part: Part) -> dict[str, float | None]:
        return real(run, part) | {"loss": next(losses)}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    told = list(events(order()))
    assert [event["best"]["epoch"] for event in of("epoch", told)] == [1, 1, 3]
    assert told[-1]["result"]["best_epoch"] == 3


EXPLODING = {
    "architecture": {"cell": "rnn", "nonlinearity": "relu"},
    "training": {"epochs": 1, "batch_size": 64, "max_grad_norm": None, "optimizer": {"name": "adam", "lr": 10.0}},
}
"""One update, which leaves weights of 10: 60 steps later a state of relu has left the finite numbers."""


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        (0.0, "no finite answer to 24 of the 24 training samples."),
        (0.25, "no finite answer to 18 of the 18 training samples, 6 of the 6 validation samples."),
    ],
)
@pytest.mark.parametrize("by", ["loss", "accuracy"])
def test_weights_that_give_no_finite_answer_are_no_result(
    order: Callable[..., Event], validation: float, by: str, words: str
) -> None:
    """The loss that the only epoch recorded is finite: it is from before the last update."""
    training = EXPLODING["training"] | {"best_by": by}
    changes = EXPLODING | {"training": training, "data": {"split": {"validation": validation}}}
    asked = order(classes(length=60), **changes)
    told: list[Event] = []
    with pytest.raises(NotFinite) as caught:
        told.extend(events(asked))  # which keeps those before it
    assert math.isfinite(of("epoch", told)[0]["record"]["train_loss"])
    assert of("finished", told) == []
    assert not (Path(asked["directory"]) / "model.json").exists()
    assert f"its best weights, those of epoch 1, give {words} Try a lower optimizer.lr" in caught.value.message
    with pytest.raises(NotFinite):  # nor is it one of the attempt that follows
        list(events(asked | {"resume": NEWEST}))


def test_one_sample_of_the_test_part_without_a_finite_answer_is_enough(order: Callable[..., Event]) -> None:
    arrays = split(classes(48))
    arrays.x[3] = 3e38
    data = {"split": {"validation": "given", "test": "given"}}
    network = {"cell": "rnn", "nonlinearity": "relu", "hidden_size": 32}
    with pytest.raises(NotFinite, match=r"give no finite answer to 1 of the 12 test samples\. Try"):
        list(events(order(arrays, architecture=network, data=data)))


def test_a_loss_that_is_not_finite_is_no_measure_of_the_best_weights(order: Callable[..., Event]) -> None:
    """Every answer is finite, and the square of its error is not."""
    arrays = split(values(48))
    arrays.y[1::4] = 3e38
    data = {"split": {"validation": "given", "test": "given"}, "target_scaling": "none"}
    with pytest.raises(NotFinite, match="have a validation loss that is not finite"):
        list(events(order(arrays, training={"loss": "mse"}, data=data)))


def test_a_weight_that_is_not_finite_is_no_result_though_the_answers_are(
    order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run.restore_best

    def restore(restored: Run) -> None:
        real(restored)
        restored.model.rnn.get_parameter("bias_ih_l0").data[:5] = math.inf  # a gate that is always open

    monkeypatch.setattr(run, "restore_best", restore)
    with pytest.raises(NotFinite, match=r"those of epoch \d, are not finite \(rnn\.bias_ih_l0\)"):
        list(events(order()))


def test_a_run_whose_best_weights_are_not_finite_is_rolled_back_if_it_may(order: Callable[..., Event]) -> None:
    training = EXPLODING["training"] | {"on_divergence": {"lr_factor": 1e-4}, "early_stopping": {"patience": 1}}
    told = list(events(order(classes(length=60), **EXPLODING | {"training": training})))
    (back,) = of("rolled_back", told)
    assert (back["epoch"], back["step"], back["best"]) == (0, 0, None)
    assert "give no finite answer" in back["message"]
    assert "It goes on from the start with learning rates multiplied by 0.0001" in back["message"]
    assert told[-1]["event"] == "finished"
    assert told[-1]["result"]["rollbacks"] == 1


def test_right_answers_with_an_infinite_loss_are_not_the_best(
    order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That accuracy is chance: among answers that are no numbers, one is still the largest."""
    found = iter(((0.7, 0.5), (math.nan, 1.0), (0.6, 0.4), (0.6, 0.4), (0.6, 0.4)))
    real = loop.evaluate

    def evaluate(evaluated: Run, part: Part) -> dict[str, float | None]:
        loss, accuracy = next(found)
        return real(evaluated, part) | {"loss": loss, "accuracy": accuracy}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    told = list(events(order(training={"best_by": "accuracy"})))
    assert [event["best"]["epoch"] for event in of("epoch", told)] == [1, 1, 1]


def test_a_divergence_says_which_checkpoint_there_is(order: Callable[..., Event]) -> None:
    arrays = split(values(48))
    optimizer = {"name": "sgd", "lr": 100.0}
    changes = {"architecture": EXPLODING["architecture"], "data": {}}
    training = {"loss": "mse", "max_grad_norm": None, "optimizer": optimizer}
    later = order(arrays, **changes, training=training)
    with pytest.raises(Diverged, match=r"The weights from before this step are in the last checkpoint\. Try"):
        list(events(later))
    assert names(later["directory"])
    arrays.x[...] = 1e19
    at_once = order(arrays, folder="at once", **changes, training=training)
    data = r"The training data has numbers of up to 1e\+19, so set data\.scaling to standard first\."
    with pytest.raises(Diverged, match=rf"at step 1 .* {data} There is no checkpoint from before it\. Try"):
        list(events(at_once))
    assert not Path(at_once["directory"]).exists()


def test_without_validation_the_result_has_the_training_numbers_of_the_best_epoch(
    order: Callable[..., Event],
) -> None:
    told = list(events(order(data={"split": {"validation": 0, "test": 0}})))
    result = told[-1]["result"]
    best = of("epoch", told)[result["best_epoch"] - 1]["record"]
    assert result["metrics"] == {name: best[name] for name in ("train_loss", "train_accuracy", "train_macro_f1")}


def test_a_run_that_stopped_early_says_so(order: Callable[..., Event]) -> None:
    told = list(events(order(training={"epochs": 50, "early_stopping": {"patience": 2, "min_delta": 100.0}})))
    assert told[-1]["result"]["stopped_early"] is True
    assert told[-1]["result"]["epochs"] == len(of("epoch", told)) == 3


# ---- what goes wrong


def test_a_run_that_diverges_leaves_a_checkpoint_of_before_and_has_told_what_came_before(
    order: Callable[..., Event],
) -> None:
    far = {"cell": "rnn", "nonlinearity": "relu"}
    fast = {"epochs": 50, "max_grad_norm": None, "optimizer": {"name": "sgd", "lr": 100.0}, "loss": "mse"}
    asked = order(architecture=far, training=fast)
    told: list[Event] = []
    with pytest.raises(Diverged) as caught:
        told.extend(events(asked))
    assert max(steps_of(told)) == caught.value.step - 1
    (newest,) = Path(asked["directory"]).glob("*.safetensors")
    assert newest.stem == f"checkpoint-{caught.value.step - 1:09d}"
    weights = [tensor for name, tensor in load_file(newest).items() if name.startswith("model.")]
    assert weights
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights)


def test_a_spec_that_does_not_fit_its_data_is_refused_before_anything_is_told(order: Callable[..., Event]) -> None:
    asked = order(training={"loss": {"name": "cross_entropy", "class_weights": [1.0, 2.0]}})
    with pytest.raises(SpecInvalid, match="3 classes; got 2"):
        next(events(asked))
    assert not Path(asked["directory"]).exists()


def test_data_that_cannot_be_read_is_refused(order: Callable[..., Event]) -> None:
    asked = order()
    Path(asked["data"]).write_bytes(b"PK not really")
    with pytest.raises(DatasetInvalid):
        next(events(asked))


# ---- the process


@pytest.fixture
def _process_as_it_was() -> Iterator[None]:
    """Puts back what is set for a whole process."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.usefixtures("_process_as_it_was")
def test_a_process_is_prepared_with_its_threads_and_without_denormal_numbers() -> None:
    run.prepare_process(2)
    assert torch.get_num_threads() == 2
    assert float(torch.tensor([1e-320], dtype=torch.float64) * 1.0) == 0.0


@pytest.mark.usefixtures("_process_as_it_was")
def test_determinism_is_asked_of_torch_where_the_spec_asks_for_it(order: Callable[..., Event]) -> None:
    told = list(events(order(training={"deterministic": True})))
    assert torch.are_deterministic_algorithms_enabled()
    assert told[-1]["event"] == "finished"


def test_warming_up_trains_every_cell_and_leaves_later_runs_as_they_would_have_been() -> None:
    cold = trained(make_run(training={"epochs": 1}))
    run.warm(torch.device("cpu"))
    assert timeless(trained(make_run(training={"epochs": 1}))) == timeless(cold)
    assert math.isfinite(cold[0]["train_loss"])  # type: ignore[arg-type]


def test_a_device_is_chosen_or_named() -> None:
    assert run.device_of("cpu") == torch.device("cpu")
    assert run.device_of().type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_a_gpu_is_named_with_its_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is placed on `cuda` says that it is on `cuda:0`, and the two are not equal: batches would be moved twice."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert torch.device("cuda") != torch.device("cuda:0")
    assert run.device_of(name) == torch.device("cuda:0")


def test_names_and_labels_that_were_accepted_before_they_had_to_be_plain_still_train(
    order: Callable[..., Event],
) -> None:
    labels = np.array(["no\x1b[2J", "yes"])[ARRAYS.y % 2]
    asked = order(Arrays(x=ARRAYS.x, lengths=ARRAYS.lengths, y=labels), training={"epochs": 1})
    asked["spec"] |= {"name": "a\u202eb", "tags": {"team\x9b": "speech"}}
    told = list(events(asked))
    assert of("finished", told)
    card = json.loads((Path(asked["directory"]) / "model.json").read_bytes())
    assert (card["spec"]["name"], card["classes"]) == ("a\u202eb", ["no\x1b[2J", "yes"])


def exports(told: list[Event]) -> list[Event]:
    """What was said of files that there are not."""
    return [note for note in of("note", told) if note["type"] == "export"]


# ---- model.onnx


def test_the_onnx_file_is_the_model_of_the_result(order: Callable[..., Event]) -> None:
    asked = order(architecture={"pooling": "mean", "bidirectional": True}, training={"epochs": 8})
    told = list(events(asked))[-1]
    session = onnxruntime.InferenceSession(Path(asked["directory"]) / "model.onnx")
    assert ARRAYS.split is not None
    rows = np.flatnonzero(ARRAYS.split == 2)
    (labels,) = session.run(["label"], {"x": ARRAYS.x[rows], "lengths": ARRAYS.lengths[rows]})
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    right = [classes[label] == y for label, y in zip(labels, ARRAYS.y[rows], strict=True)]
    assert np.mean(right) == told["result"]["metrics"]["test_accuracy"]


def test_two_equal_runs_write_the_same_onnx_file(order: Callable[..., Event]) -> None:
    hashes = [list(events(order(folder=folder)))[-1]["files"][3] for folder in ("one", "two")]
    assert hashes[0] == hashes[1]
    assert hashes[0]["name"] == "model.onnx"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (CannotExport("its weights take 9.0 GB"), "its weights take 9.0 GB"),
        (OSError(28, "No space left on device"), "it cannot be written (No space left on device)"),
        (RuntimeError("no such operator"), "its export failed with RuntimeError (no such operator)"),
    ],
)
def test_a_model_that_cannot_be_exported_is_a_result_all_the_same(
    error: Exception, why: str, order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = order()
    list(events(asked))

    def fail(*_: Any) -> bytes:
        raise error

    monkeypatch.setattr(checked, "exported", fail)
    told = list(events(asked))  # again, where a file of other weights lies
    (note,) = exports(told)
    assert (note["type"], note["level"]) == ("export", "warning")
    assert note["message"] == f"There is no model.onnx: {why}."
    assert "model.onnx" not in [file["name"] for file in told[-1]["files"]]
    assert "model.onnx" not in names(asked["directory"])


def test_without_onnx_a_job_says_so(order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "services.training.export.checked", None)
    monkeypatch.delattr("services.training.export.checked", raising=False)
    told = list(events(order()))
    (note,) = exports(told)
    assert note["message"].startswith("There is no model.onnx: onnx and onnxruntime cannot be imported (")
    assert told[-1]["event"] == "finished"


# ---- the model card


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(28, "No space left on device"), "it cannot be written (No space left on device)"),
        (KeyError("forecast"), "writing it failed with KeyError ('forecast')"),
    ],
)
def test_a_model_without_a_card_is_a_result_all_the_same(
    error: Exception, why: str, order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = order()
    list(events(asked))

    def fail(*_: Any) -> dict[str, bytes]:
        raise error

    monkeypatch.setattr(writing, "files_of", fail)
    told = list(events(asked))  # again, where the card of other weights lies
    (note,) = exports(told)
    assert (note["type"], note["level"], note["message"]) == ("export", "warning", f"There is no README.md: {why}.")
    assert [file["name"] for file in told[-1]["files"]] == list(MODEL)
    assert not names(asked["directory"]) & {*CARD, "confusion.svg", "calibration.svg", "lengths.svg"}
