"""Values to predict are standardised for the network, and judged in the unit of the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from services.training import checkpoint
from services.training.data import UNSCALED, prepare
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.gate.reference import load
from services.training.loop import evaluate, fit
from services.training.messages import NEWEST
from services.training.model import SequenceModel
from services.training.preprocessing.scaling import undone
from services.training.spec import parse
from services.training.splits import split_rows
from tests.training.building import (
    classes,
    document,
    events,
    make_run,
    same,
    spec_for,
    timeless,
    trained,
    values,
    weights_of,
)

Event = dict[str, Any]
Train = Callable[..., list[Event]]


def far(samples: int = 80, columns: int = 1, center: float = 50.0, spread: float = 10.0) -> Arrays:
    """Values to tell from sequences, far from zero."""
    arrays = values(samples, columns=columns)
    y = center + spread * arrays.y.astype(np.float64) / arrays.y.std(axis=0)
    return Arrays(x=arrays.x, lengths=arrays.lengths, y=y)


def given(y: NDArray[Any]) -> Arrays:
    return Arrays(x=values(len(y)).x, lengths=values(len(y)).lengths, y=y)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Carries out an order to its end, in a folder; what was told."""

    def run(folder: str, arrays: Arrays, before: str | None = None, **changes: Any) -> list[Event]:
        npz.write(tmp_path / "data.npz", arrays)
        spec = changes.pop("stored", None) or parse(document(**changes)).document()
        named = {"model": "m@1", "directory": str(tmp_path / before)} if before else None
        warm = named if spec.get("retrain") and spec["retrain"]["warm_start"] else None
        order = {
            "spec": spec,
            "data": str(tmp_path / "data.npz"),
            "directory": str(tmp_path / folder),
            "resume": NEWEST if (tmp_path / folder).exists() else None,
            "device": "cpu",
            "baselines": {"warm_start": warm, "against": named} if spec.get("retrain") else None,
        }
        return [*events(order)]

    return run


def card(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return found


LONG = {"training": {"epochs": 40, "optimizer": {"name": "adam", "lr": 0.01}}}


def test_targets_far_from_zero_are_learned_with_the_defaults() -> None:
    """Of targets of 50 +- 10 the network would spend all its updates on finding the 50."""
    plain = trained(make_run(far(), **LONG, data={"target_scaling": "none"}))
    assert max(epoch["validation_r2"] or 0 for epoch in plain) < 0
    found = trained(make_run(far(), **LONG))
    assert max(epoch["validation_r2"] or 0 for epoch in found) > 0.8


@pytest.mark.parametrize("columns", [1, 3])
def test_the_training_split_alone_decides_the_scaling(columns: int) -> None:
    arrays = far(columns=columns)
    spec = spec_for(arrays)
    found = prepare(arrays, spec)
    rows = split_rows(arrays, spec.data.split)["train"]
    assert len(rows) < len(arrays.y)
    train = arrays.y[rows].reshape(len(rows), -1)
    assert found.target_scaling.document() == {
        "name": "standard",
        "shift": pytest.approx(train.mean(axis=0)),
        "scale": pytest.approx(train.std(axis=0)),
    }
    assert found.train.y.numpy().mean(axis=0) == pytest.approx(np.zeros(columns), abs=1e-6)
    assert found.train.y.numpy().std(axis=0) == pytest.approx(np.ones(columns), abs=1e-6)
    moved = Arrays(x=arrays.x, lengths=arrays.lengths, y=arrays.y.copy())
    moved.y[np.setdiff1d(np.arange(len(moved.y)), rows)] += 1e6
    assert prepare(moved, spec).target_scaling == found.target_scaling


def test_classes_and_labels_are_left_as_they_are() -> None:
    labels = given((values(24).y > 0).astype(np.int64))
    for arrays in (classes(), labels):
        assert prepare(arrays, spec_for(arrays)).target_scaling == UNSCALED


def test_a_target_that_does_not_vary_keeps_its_scale() -> None:
    same_to_rounding = np.where(np.arange(24) % 2 == 0, 0.3, 0.1 + 0.2)
    y = np.stack([np.full(24, 7e8), same_to_rounding, np.zeros(24), np.arange(24.0)], axis=1)
    found = prepare(given(y), spec_for(given(y)))
    assert found.target_scaling.scale is not None
    assert found.target_scaling.scale[:3] == [1.0, 1.0, 1.0]
    assert found.train.y[:, :3].abs().max() < 1e-6
    [*_, last] = trained(make_run(given(y)))
    assert np.isfinite(last["validation_rmse"] or np.nan)


def test_huge_targets_keep_their_differences() -> None:
    arrays = far(center=1.7e9, spread=20.0)
    assert len(np.unique(arrays.y.astype(np.float32))) < 5
    run = make_run(arrays, **LONG)
    assert len(run.data.train.y.unique()) == len(run.data.train)
    records = trained(run)
    assert max(epoch["validation_r2"] or 0 for epoch in records) > 0.8
    assert min(epoch["validation_rmse"] or 1e9 for epoch in records) < 10


@pytest.mark.parametrize("columns", [1, 2])
def test_metrics_are_in_the_unit_of_the_data_and_losses_in_that_of_training(columns: int) -> None:
    arrays = far(columns=columns)
    run = make_run(arrays)
    [*_, last] = trained(run)
    part = run.data.validation
    assert part is not None
    found = evaluate(run, part)
    run.model.eval()
    with torch.no_grad():
        outputs = run.model(part.x, part.lengths)
    scaling = run.data.target_scaling
    errors = (undone(outputs, scaling) - undone(part.y, scaling)).numpy()
    assert found["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-9)
    assert found["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-9)
    assert found["loss"] == pytest.approx(float((outputs - part.y).square().mean()), rel=1e-6)
    assert scaling.scale is not None
    if columns == 1:
        assert found["rmse"] == pytest.approx(np.sqrt(found["loss"] or 0) * scaling.scale[0], rel=1e-6)
    assert (last["train_loss"] or 0) < 2 < (last["train_rmse"] or 0)


def test_the_model_is_applied_by_hand_as_its_card_says(train: Train, tmp_path: Path) -> None:
    arrays = far(120, columns=2)
    split = np.arange(120) % 3
    arrays = Arrays(x=arrays.x, lengths=arrays.lengths, y=arrays.y, split=split.astype(np.int8))
    [*_, told] = train("one", arrays, data={"split": {"validation": "given", "test": "given"}, "scaling": "standard"})
    found = card(tmp_path / "one")
    assert found["format"] == "loopline-model/2"
    model = SequenceModel(parse(found["spec"]).architecture, found["input_size"], found["output_size"]).eval()
    model.load_state_dict(load_file(tmp_path / "one" / "model.safetensors"))
    x = ((arrays.x[split == 2] - found["scaling"]["shift"]) / found["scaling"]["scale"]).astype(np.float32)
    with torch.no_grad():
        answers = model(torch.from_numpy(x)).numpy()
    answers = answers * found["target_scaling"]["scale"] + found["target_scaling"]["shift"]
    rmse = np.sqrt(np.square(answers - arrays.y[split == 2]).mean())
    assert rmse == pytest.approx(told["result"]["metrics"]["test_rmse"], rel=1e-5)


def test_a_model_of_classes_says_that_nothing_was_scaled(train: Train, tmp_path: Path) -> None:
    train("one", classes())
    found = card(tmp_path / "one")
    assert (found["format"], found["target_scaling"]) == ("loopline-model/1", UNSCALED.document())


# ---- what was there before


def test_a_job_that_was_stored_before_there_was_any_scaling_trains_without(train: Train, tmp_path: Path) -> None:
    old = parse(document(training={"loss": "mse"})).document()
    del old["data"]["target_scaling"]
    train("old", far(), stored=old)
    train("none", far(), data={"target_scaling": "none"})
    assert card(tmp_path / "old")["target_scaling"] == UNSCALED.document()
    assert same(*(load_file(tmp_path / name / "model.safetensors") for name in ("old", "none")))


def test_checkpoints_that_were_written_before_there_was_any_scaling_are_gone_on_from(tmp_path: Path) -> None:
    for arrays, data in ((classes(), {}), (far(), {"target_scaling": "none"})):
        folder = tmp_path / str(arrays.y.dtype)
        run = make_run(arrays, data=data)
        next(epoch for epoch in fit(run) if epoch is not None)
        saved = checkpoint.save(run, folder)
        path = folder / saved.files[0].name
        body = json.loads(path.read_text())
        del body["sha256"], body["model"]["target_scaling"], body["model"]["spec"]["data"]["target_scaling"]
        body["spec_sha256"] = checkpoint._hash_of(checkpoint.essence(body["model"]["spec"]))
        path.write_text(json.dumps({**body, "sha256": checkpoint._hash_of(body)}))
        again = make_run(arrays, data=data)
        checkpoint.load_into(again, path)
        assert again.state.epoch == 1


def test_a_checkpoint_of_other_targets_is_not_gone_on_from(tmp_path: Path) -> None:
    run = make_run(far())
    next(epoch for epoch in fit(run) if epoch is not None)
    saved = checkpoint.save(run, tmp_path)
    with pytest.raises(checkpoint.CheckpointCorrupt, match="targets that were scaled otherwise"):
        checkpoint.load_into(make_run(far(center=60.0)), tmp_path / saved.files[0].name)


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    whole = make_run(far())
    records = trained(whole)
    broken = make_run(far())
    for step, _ in enumerate(fit(broken)):
        if step == 20:
            break
    saved = checkpoint.save(broken, tmp_path)
    again = make_run(far())
    checkpoint.load_into(again, tmp_path / saved.files[0].name)
    trained(again)
    assert timeless(again.state.history) == timeless(records)
    assert same(weights_of(again), weights_of(whole))


# ---- the model before

GATED = {"data": {"split": {"validation": 0.2, "test": 0.3, "method": "content"}}}


@pytest.mark.parametrize("loss", ["mse", "mae", {"name": "huber", "delta": 0.5}])
@pytest.mark.parametrize("metric", ["rmse", "mae", "r2", "loss"])
def test_models_of_different_scaling_are_compared_in_the_unit_of_the_data(train: Train, loss: Any, metric: str) -> None:
    arrays = far(160)
    training = {**LONG["training"], "epochs": 5, "loss": loss}
    plain = {"data": {**GATED["data"], "target_scaling": "none"}, "training": training}
    old = train("old", arrays, **plain)[-1]["result"]["metrics"][f"test_{metric}"]
    retrain = {"model": "m", "gate": {"metric": metric}}
    told = train("new", arrays, before="old", data=GATED["data"], training=training, retrain=retrain)[-1]["result"]
    compared = told["retrain"]["gate"]["comparison"]
    assert told["retrain"]["gate"]["reason"] == "better"
    if metric != "loss":
        assert compared["old"] == pytest.approx(old, rel=1e-5)
        assert compared["new"] == pytest.approx(told["metrics"][f"test_{metric}"], rel=1e-5)
        return
    if loss in ("mse", "mae"):
        assert compared["old"] == pytest.approx(old, rel=1e-5)
    spec = spec_for(arrays, data=GATED["data"], training=training)
    scale = (prepare(arrays, spec).target_scaling.scale or [])[0]
    in_unit = scale if loss == "mae" else scale**2
    assert compared["new"] == pytest.approx(told["metrics"]["test_loss"] * in_unit, rel=1e-5)


def test_training_goes_on_with_the_target_scaling_of_the_weights(train: Train, tmp_path: Path) -> None:
    retrain = {"model": "m", "warm_start": "production"}
    tiny = {"epochs": 1, "optimizer": {"name": "adam", "lr": 1e-9}}
    first = train("one", far(160), **GATED)[-1]["result"]["metrics"]
    again = train("two", far(160, center=55.0), before="one", **GATED, training=tiny, retrain=retrain)[-1]["result"]
    assert again["retrain"]["warm_start"] == "m@1"
    assert card(tmp_path / "two")["target_scaling"] == card(tmp_path / "one")["target_scaling"]
    assert load("m@2", str(tmp_path / "two")).target_scaling == load("m@1", str(tmp_path / "one")).target_scaling
    assert again["metrics"]["test_rmse"] == pytest.approx(first["test_rmse"], abs=6.0)  # 5 further off at most


def test_weights_for_another_number_of_targets_are_none_to_begin_with(train: Train, tmp_path: Path) -> None:
    train("one", far(160, columns=2), **GATED)
    retrain = {"model": "m", "warm_start": "production"}
    told = train("two", far(160, columns=3), before="one", **GATED, retrain=retrain)
    assert "m@1 has other targets: training begins from scratch." in [event.get("message") for event in told]
    assert len(card(tmp_path / "two")["target_scaling"]["shift"]) == 3
