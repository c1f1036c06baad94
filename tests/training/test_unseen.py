"""`data.split.evaluate_test: false`: the test part is set aside, and no number of a run comes from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from services.errors import SpecInvalid
from services.training.files import npz
from services.training.spec import parse
from tests.training.building import classes, document, events

FORECAST = {"name": "forecast", "lookback": 8, "horizon": 4, "calendar": "none"}
SERIES = {"order": "time", "target": ["load"]}


def hours(place: Path) -> Path:
    """A series of eighty hours."""
    rows = [f"2024-01-{1 + hour // 24:02} {hour % 24:02}:00,{hour % 7 + hour / 100}" for hour in range(80)]
    (place / "load.csv").write_text("\n".join(["time,load", *rows]))
    return place / "load.csv"


def sequences(place: Path) -> Path:
    npz.write(place / "data.npz", classes(40))
    return place / "data.npz"


def result(place: Path, file: Path, *, seen: bool, **changes: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The result of a job and its weights."""
    folder = place / ("seen" if seen else "unseen")
    asked = document(**changes)
    asked["data"]["split"] = {**asked["data"]["split"], "evaluate_test": seen}
    order = {"spec": parse(asked).document(), "data": str(file), "directory": str(folder), "resume": None}
    [found] = [event["result"] for event in events(order) if event["event"] == "finished"]
    assert json.loads((folder / "model.json").read_text())["spec"]["data"]["split"]["evaluate_test"] is seen
    return found, load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (sequences, {"data": {"split": {"validation": 0.25, "test": 0.25}}}),
        (sequences, {"data": {"split": {"validation": None, "folds": 2, "test": 0.25}}}),
        (hours, {"task": FORECAST, "data": {"schema": SERIES, "split": {"method": "time", "test": 0.2}}}),
    ],
    ids=["classes", "folds", "forecast"],
)
def test_the_run_is_the_same_and_nothing_of_the_test_is_told(
    data: Callable[[Path], Path], changes: dict[str, Any], tmp_path: Path
) -> None:
    file = data(tmp_path)
    told, weights = result(tmp_path, file, seen=True, **changes)
    untold, same_weights = result(tmp_path, file, seen=False, **changes)
    assert all(torch.equal(weights[name], tensor) for name, tensor in same_weights.items())
    assert any(name.startswith("test_") for name in told["metrics"])
    kept = {name: value for name, value in told["metrics"].items() if not name.startswith(("test_", "train_"))}
    assert untold["metrics"].items() >= kept.items()
    assert "test_" not in json.dumps(untold)


def test_a_gate_needs_the_test() -> None:
    asked = document(retrain={"model": "m", "gate": {}}, data={"split": {"test": 0.2, "evaluate_test": False}})
    with pytest.raises(SpecInvalid, match="the gate compares models on the test part"):
        parse(asked)
