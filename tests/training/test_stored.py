"""A run on a data set as the service stores it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopline.files import store

from services.errors import DatasetInvalid, SpecInvalid, TooLargeToTrain
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.spec import footprint
from tests.training.building import as_sequences, classes, document, events, mixed, of_many_lengths, tagged, timeless

Event = dict[str, Any]


def trained_on(path: Path, out: Path, **changes: Any) -> list[Event]:
    spec = document(data={"split": {"validation": 0.25, "test": 0.2}, **changes.pop("data", {})}, **changes)
    order = {"spec": spec, "data": str(path), "directory": str(out), "resume": None, "device": "cpu"}
    return [*events(order)]


def stored(arrays: Arrays, path: Path) -> Path:
    store.write(path, as_sequences(arrays))
    return path


def numbers(out: Path) -> list[Any]:
    return timeless(json.loads((out / "history.json").read_text())["epochs"])


@pytest.mark.parametrize("arrays", [classes(), of_many_lengths(classes()), tagged()], ids=["full", "cut", "tags"])
@pytest.mark.parametrize("scaling", ["none", "standard"])
def test_a_model_is_that_of_the_npz_bit_for_bit(arrays: Arrays, scaling: str, tmp_path: Path) -> None:
    npz.write(tmp_path / "data.npz", arrays)
    paths = {"npz": tmp_path / "data.npz", "stored": stored(arrays, tmp_path / "data")}
    for name, path in paths.items():
        trained_on(path, tmp_path / name, data={"scaling": scaling})
    assert numbers(tmp_path / "npz") == numbers(tmp_path / "stored")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in paths]
    assert weights[0] == weights[1]


def test_all_of_a_mapped_file_can_be_the_training_split(tmp_path: Path) -> None:
    path = stored(classes(), tmp_path / "data")
    assert (
        trained_on(path, tmp_path / "out", data={"split": {"validation": 0.0, "test": 0.0}})[-1]["event"] == "finished"
    )


def test_missing_values_are_a_problem_of_the_spec_until_it_says_what_to_do(tmp_path: Path) -> None:
    path = stored(mixed(40), tmp_path / "data")
    with pytest.raises(SpecInvalid, match="features have missing values: set it to forward, mean or linear"):
        trained_on(path, tmp_path / "out")
    told = trained_on(path, tmp_path / "out", data={"missing": "linear", "missing_mask": True, "scaling": "robust"})
    assert told[-1]["event"] == "finished"
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert [one["name"] for one in card["preprocessing"]["features"]] == ["pulse", "load", "mode", "drift"]
    assert [one["words"] for one in card["preprocessing"]["static"]["features"]] == [None, ["f", "m"]]


def test_how_many_sequences_were_left_out_is_told(tmp_path: Path) -> None:
    arrays = classes(40)
    arrays.x[::8, 2, 1] = np.nan
    path = stored(replace(arrays, groups=np.array([f"walk {row}" for row in range(40)])), tmp_path / "data")
    told = trained_on(path, tmp_path / "out", data={"missing": "drop"})
    [note] = [event for event in told if event["event"] == "note" and event["type"] == "missing"]
    assert note["message"].startswith("Samples with missing values were left out: ")
    assert sum(note["data"]["left_out"].values()) == 5
    assert told[-1]["event"] == "finished"


def test_sequences_that_fit_only_without_padding_are_refused_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long recording among short ones: a stored kilobyte becomes a megabyte."""
    lengths = np.array([1000, *[1] * 999])
    x = np.zeros((1000, 1000, 1), np.float32)
    path = stored(Arrays(x=x, lengths=lengths, y=np.arange(1000) % 2), tmp_path / "data")
    monkeypatch.setattr(footprint, "host_bytes", lambda: 3_000_000)
    with pytest.raises(TooLargeToTrain, match=r"padded to the longest, which has 1,000 steps, and the median has 1\."):
        trained_on(path, tmp_path / "out")


def test_a_damaged_file_is_the_data_sets_problem(tmp_path: Path) -> None:
    path = stored(classes(), tmp_path / "data")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetInvalid, match="upload the file again"):
        trained_on(path, tmp_path / "out")
