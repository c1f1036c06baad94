"""A retraining: what a run begins with, what it is compared with, and what is said of it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.gate import reference
from services.training.gate.paired import Comparison
from services.training.gate.reference import load
from services.training.gate.verdict import Before, Retraining, verdict
from services.training.loop import Run, evaluate
from services.training.messages import NEWEST, SavedModel
from services.training.spec import parse
from services.training.spec.fields import Gate, Retrain
from tests.training.building import classes, document, events, tagged, values

Event = dict[str, Any]

ARRAYS = classes(160, seed=3)
BY_CONTENT = {"split": {"validation": 0.2, "test": 0.3, "method": "content"}, "scaling": "standard"}


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., list[Event]]:
    """Carries out a retraining to its end; what was told."""

    def run(folder: str, arrays: Arrays = ARRAYS, before: str | None = None, **changes: Any) -> list[Event]:
        npz.write(tmp_path / "data.npz", arrays)
        spec = parse(document(**({"data": BY_CONTENT, "retrain": {"model": "m"}} | changes))).document()
        named = {"model": "m@1", "directory": str(tmp_path / before)} if before else None
        warm = named if spec["retrain"]["warm_start"] else None
        return [
            *events(
                {
                    "spec": spec,
                    "data": str(tmp_path / "data.npz"),
                    "directory": str(tmp_path / folder),
                    "resume": NEWEST if (tmp_path / folder).exists() else None,
                    "device": "cpu",
                    "baselines": {"warm_start": warm, "against": named},
                }
            )
        ]

    return run


def concluded(told: list[Event]) -> dict[str, Any]:
    found: dict[str, Any] = told[-1]["result"]["retrain"]
    return found


def notes(told: list[Event], type: str) -> list[Event]:
    return [event for event in told if event["event"] == "note" and event["type"] == type]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_first_of_a_model_passes(train: Callable[..., list[Event]]) -> None:
    gate = concluded(train("one"))["gate"]
    assert (gate["passed"], gate["reason"], gate["against"], gate["comparison"]) == (True, "first", None, None)
    assert gate["metric"] == "accuracy"


def test_the_old_model_is_worth_what_it_was_where_nothing_has_changed(
    train: Callable[..., list[Event]], tmp_path: Path
) -> None:
    """Its own scaling, its own weights, the same samples: the very metrics that it reported itself."""
    for metric in ("accuracy", "macro_f1", "loss"):
        shutil.rmtree(tmp_path / "one", ignore_errors=True)
        shutil.rmtree(tmp_path / "two", ignore_errors=True)
        reported = train("one")[-1]["result"]["metrics"]
        told = train("two", before="one", training={"seed": 9}, retrain={"model": "m", "gate": {"metric": metric}})
        comparison = concluded(told)["gate"]["comparison"]
        assert comparison["old"] == pytest.approx(reported[f"test_{metric}"], rel=1e-5)
        assert comparison["new"] == pytest.approx(told[-1]["result"]["metrics"][f"test_{metric}"], rel=1e-5)


def test_the_same_training_again_is_not_better(train: Callable[..., list[Event]]) -> None:
    train("one")
    told = train("two", before="one")
    gate = concluded(told)["gate"]
    assert (gate["passed"], gate["reason"], gate["comparison"]["differing"]) == (False, "not_better", 0)
    assert notes(told, "gate")[0]["message"] == gate["message"]
    assert "m@1 on the same" in gate["message"]


def test_a_model_that_has_learned_more_is_better(train: Callable[..., list[Event]]) -> None:
    train("one", training={"epochs": 1, "optimizer": {"name": "adam", "lr": 1e-5}})
    gate = concluded(train("two", before="one", training={"epochs": 30}))["gate"]
    assert (gate["passed"], gate["reason"]) == (True, "better")
    assert gate["comparison"]["p_value"] < 0.01
    assert gate["message"].startswith("It is better: accuracy")


def test_of_values_the_smaller_error_is_better(train: Callable[..., list[Event]]) -> None:
    arrays = values(160)
    train("one", arrays, training={"epochs": 1, "optimizer": {"name": "adam", "lr": 1e-5}})
    gate = concluded(train("two", arrays, before="one", training={"epochs": 30}))["gate"]
    assert (gate["metric"], gate["passed"]) == ("rmse", True)
    assert gate["comparison"]["new"] < gate["comparison"]["old"]
    back = concluded(train("three", arrays, before="two", training={"epochs": 1}))["gate"]
    assert (back["passed"], back["reason"]) == (False, "not_better")


def test_training_begins_with_the_weights_of_production(train: Callable[..., list[Event]], tmp_path: Path) -> None:
    train("one", training={"epochs": 20})
    retrain = {"model": "m", "warm_start": "production"}
    told = train(
        "two", before="one", retrain=retrain, training={"epochs": 1, "optimizer": {"name": "adam", "lr": 1e-9}}
    )
    assert "weights and the scaling of m@1" in notes(told, "warm_start")[0]["message"]
    assert concluded(told)["warm_start"] == "m@1"
    for name, tensor in weights(tmp_path / "two").items():
        torch.testing.assert_close(tensor, weights(tmp_path / "one")[name], atol=1e-4, rtol=1e-4)
    cards = [json.loads((tmp_path / folder / "model.json").read_text()) for folder in ("one", "two")]
    assert cards[0]["scaling"] == cards[1]["scaling"]


def test_weights_that_are_not_finite_are_not_begun_with(train: Callable[..., list[Event]], tmp_path: Path) -> None:
    train("one")
    found = weights(tmp_path / "one")
    found["rnn.weight_hh_l0"][0, 0] = math.nan
    save_file(found, tmp_path / "one" / "model.safetensors")
    told = train("two", before="one", retrain={"model": "m", "warm_start": "production"})
    [note] = notes(told, "warm_start")
    assert note["message"] == "m@1 has weights that are not finite: training begins from scratch."
    assert told[-1]["event"] == "finished"


def test_where_the_network_is_another_training_begins_from_scratch_and_says_so(
    train: Callable[..., list[Event]],
) -> None:
    train("one")
    retrain = {"model": "m", "warm_start": "production"}
    told = train("two", before="one", retrain=retrain, architecture={"cell": "lstm", "hidden_size": 7})
    [note] = notes(told, "warm_start")
    assert (note["level"], note["message"]) == (
        "warning",
        "m@1 has another architecture: training begins from scratch.",
    )
    assert concluded(told)["warm_start"] is None
    assert concluded(told)["gate"]["comparison"] is not None  # it is compared all the same
    assert concluded(told)["gate"]["message"].endswith("(m@1 has another architecture: training begins from scratch.)")


def test_where_there_is_none_yet_training_begins_from_scratch(train: Callable[..., list[Event]]) -> None:
    told = train("one", retrain={"model": "m", "warm_start": "production"})
    assert notes(told, "warm_start")[0]["message"] == "There is no m@production yet: training begins from scratch."


def test_a_label_that_is_new_keeps_what_was_learned_of_the_others(
    train: Callable[..., list[Event]], tmp_path: Path
) -> None:
    train("one", training={"epochs": 10})
    more = classes(160, kinds=4, seed=3)
    more.y[:] = np.array([0, 1, 2, -1])[more.y]  # the new one sorts first
    retrain = {"model": "m", "warm_start": "production"}
    slow = {"epochs": 1, "optimizer": {"name": "adam", "lr": 1e-9}}
    told = train("two", more, before="one", retrain=retrain, training=slow)
    old, new = weights(tmp_path / "one"), weights(tmp_path / "two")
    torch.testing.assert_close(new["head.weight"][1:], old["head.weight"], atol=1e-4, rtol=1e-4)
    gate = concluded(told)["gate"]
    assert gate["comparison"] is not None
    loss = concluded(train("three", more, before="one", retrain={"model": "m", "gate": {"metric": "loss"}}))["gate"]
    assert (loss["passed"], loss["reason"]) == (False, "not_comparable")
    assert "does not know all labels" in loss["message"]


def test_an_old_model_that_takes_other_input_cannot_be_compared(train: Callable[..., list[Event]]) -> None:
    train("one")
    told = train("two", classes(160, features=5), before="one", retrain={"model": "m", "warm_start": "production"})
    gate = concluded(told)["gate"]
    assert (gate["passed"], gate["reason"]) == (False, "not_comparable")
    assert "m@1 takes 3 features a step, and the data has 5, so they cannot be compared" in gate["message"]
    assert notes(told, "warm_start")[0]["level"] == "warning"


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_an_old_model_whose_files_are_gone_or_damaged_fails_no_training(
    damage: str, train: Callable[..., list[Event]], tmp_path: Path
) -> None:
    train("one")
    if damage == "gone":
        shutil.rmtree(tmp_path / "one")
    else:
        (tmp_path / "one" / "model.safetensors").write_bytes(b"no weights")
    gate = concluded(train("two", before="one", retrain={"model": "m", "warm_start": "production"}))["gate"]
    assert (gate["passed"], gate["reason"]) == (False, "not_comparable")


def test_drift_is_told_against_what_the_old_model_was_trained_on(train: Callable[..., list[Event]]) -> None:
    train("one")
    moved = classes(160, seed=4)
    moved.x[:, :, 2] += 3.0
    told = train("two", moved, before="one")
    [note] = notes(told, "drift")
    assert (note["level"], concluded(told)["drift"]["shifted"]) == ("warning", True)
    assert "most of all feature 2" in note["message"]
    assert not notes(train("three", moved, before="one", retrain={"model": "m", "drift": False}), "drift")


def test_a_run_that_is_resumed_concludes_as_if_nothing_had_happened(
    train: Callable[..., list[Event]], tmp_path: Path
) -> None:
    train("one")
    changes: Event = {
        "retrain": {"model": "m", "warm_start": "production"},
        "checkpoints": {"every_epochs": 1, "every_seconds": None, "keep_last": 9},
        "training": {"epochs": 6},
    }
    whole = train("two", before="one", **changes)
    for path in (tmp_path / "two").iterdir():
        kept = path.name == "history.jsonl" or (path.name.startswith("checkpoint-") and int(path.stem[-9:]) <= 60)
        if not kept:
            path.unlink()
    again = train("two", before="one", **changes)
    assert again[0]["resumed_from"]["epoch"] in range(1, 6)
    assert not notes(again, "warm_start")  # it goes on from the checkpoint
    assert concluded(again) == concluded(whole)


def test_a_run_whose_old_model_is_gone_does_not_go_on_from_data_that_was_scaled_by_it(
    train: Callable[..., list[Event]], tmp_path: Path
) -> None:
    """The weights of the checkpoint mean nothing under another scaling, so training begins anew and says so."""
    train("one", classes(160, seed=8))
    changes: Event = {
        "retrain": {"model": "m", "warm_start": "production"},
        "checkpoints": {"every_epochs": 1, "every_seconds": None, "keep_last": 9},
    }
    train("two", before="one", **changes)
    (tmp_path / "two" / "model.json").unlink()
    shutil.rmtree(tmp_path / "one")
    again = train("two", before="one", **changes)
    assert again[0] == {
        "event": "log",
        "level": "warning",
        "message": "There is no checkpoint that is whole; training starts from the beginning.",
    }
    scaling = json.loads((tmp_path / "two" / "model.json").read_text())["scaling"]
    train("cold")
    assert scaling == json.loads((tmp_path / "cold" / "model.json").read_text())["scaling"]


def test_an_old_model_that_knows_none_of_the_labels_cannot_be_compared(train: Callable[..., list[Event]]) -> None:
    train("one")
    others = classes(160, seed=3)
    others.y[:] += 10
    gate = concluded(train("two", others, before="one"))["gate"]
    assert (gate["passed"], gate["reason"]) == (False, "not_comparable")
    assert "m@1 knows none of the labels of this data set" in gate["message"]


def test_without_a_service_nothing_becomes_of_it(tmp_path: Path) -> None:
    npz.write(tmp_path / "data.npz", ARRAYS)
    spec = parse(document(data=BY_CONTENT, retrain={"model": "m"})).document()
    order = {"spec": spec, "data": str(tmp_path / "data.npz"), "directory": str(tmp_path / "out"), "resume": None}
    assert "retrain" not in [*events(order)][-1]["result"]


def test_a_reference_answers_as_the_run_that_made_it(tmp_path: Path, train: Callable[..., list[Event]]) -> None:
    train("one", training={"precision": "bf16"})
    found = load("m@1", str(tmp_path / "one"))
    assert (found.spec.training.precision, found.classes) == ("bf16", [0, 1, 2])


def fits(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device has room for so many sequences of the old model at a time."""
    real = reference.answers

    def answers(model: Any, part: Any, device: Any, precision: str, batch: int) -> Any:
        if batch > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(model, part, device, precision, batch)

    monkeypatch.setattr(reference, "answers", answers)


def test_an_old_model_that_does_not_fit_is_asked_about_fewer_at_a_time(
    train: Callable[..., list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    train("one")
    fits(5, monkeypatch)
    assert concluded(train("two", before="one"))["gate"]["comparison"]["differing"] == 0
    fits(0, monkeypatch)
    assert "does not fit the memory of the device" in concluded(train("three", before="one"))["gate"]["message"]


FIRST = Before("m@1", torch.zeros(1, 1), None, has_seen=False)


def compared(**changes: Any) -> Comparison:
    found = {"new": 0.9, "old": 0.8, "improvement": 0.1, "standard_error": 0.02, "at_least": 0.067}
    return Comparison(**({**found, "p_value": 0.01, "samples": 100, "differing": 14} | changes))


@pytest.mark.parametrize(
    ("gate", "comparison", "reason"),
    [
        (Gate(), compared(), "better"),
        (Gate(), compared(improvement=-0.1, new=0.7), "not_better"),
        (Gate(), compared(improvement=0.0), "not_better"),
        (Gate(), compared(p_value=0.06), "could_be_luck"),
        (Gate(error_rate=0.1), compared(p_value=0.06), "better"),
        (Gate(margin=0.05), compared(), "better"),
        (Gate(margin=0.08), compared(), "below_margin"),
        (Gate(at_least=0.95), compared(), "below_bar"),
        (Gate(at_least=0.9), compared(), "better"),
    ],
)
def test_what_the_gate_says(gate: Gate, comparison: Comparison, reason: str) -> None:
    said, message = verdict(gate, "accuracy", comparison.new, Retrain(model="m"), FIRST, comparison)
    assert said == reason
    assert message.endswith((".", ")"))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_passes_no_gate(number: float) -> None:
    before = (FIRST, compared(new=number, improvement=number))
    assert verdict(Gate(), "rmse", number, Retrain(model="m"), *before)[0] == "not_finite"
    assert verdict(Gate(), "rmse", number, Retrain(model="m"), None, None)[0] == "not_finite"
    old = compared(old=number, improvement=math.nan)
    assert verdict(Gate(), "rmse", 0.9, Retrain(model="m"), FIRST, old)[0] == "not_comparable"


def test_the_bar_holds_for_the_first_model_and_below_for_errors() -> None:
    assert verdict(Gate(at_least=0.5), "rmse", 0.7, Retrain(model="m"), None, None)[0] == "below_bar"
    assert verdict(Gate(at_least=0.5), "rmse", 0.4, Retrain(model="m"), None, None)[0] == "first"


def test_a_model_that_may_have_seen_the_test_samples_is_said_to(train: Callable[..., list[Event]]) -> None:
    at_random = {"data": {"split": {"validation": 0.2, "test": 0.3}}}
    train("one", **at_random)
    message = concluded(train("two", before="one", **at_random))["gate"]["message"]
    assert "m@1 may have been trained on some of these samples" in message
    train("three")
    assert "may have been trained" not in concluded(train("four", before="three"))["gate"]["message"]


def test_weights_before_training_are_the_old_ones(train: Callable[..., list[Event]], tmp_path: Path) -> None:
    """And so is what the run goes back to where it diverges before its first epoch has ended."""
    train("one")
    old = load("m@1", str(tmp_path / "one"))

    spec = parse(
        document(data=BY_CONTENT, retrain={"model": "m", "warm_start": "1"}, training={"loss": "cross_entropy"})
    )
    named = SavedModel("m@1", str(tmp_path / "one"))
    made = Retraining(spec, ARRAYS, torch.device("cpu"), {"warm_start": named, "against": named})
    run = Run(spec, made.data, "cpu", made.initial)
    assert made.data.test is not None
    accuracy = json.loads((tmp_path / "one" / "model.json").read_text())["metrics"]["test_accuracy"]
    assert evaluate(run, made.data.test)["accuracy"] == accuracy
    for name, tensor in run.first_model().state_dict().items():
        assert torch.equal(tensor, old.weights[name])


def test_tags_are_compared_by_sequences_and_with_a_model_of_tags_alone(
    train: Callable[..., list[Event]], tmp_path: Path
) -> None:
    arrays = tagged(160, full=False)
    reported = train("one", arrays, training={"epochs": 1})[-1]["result"]["metrics"]
    told = train("two", arrays, before="one", training={"epochs": 20, "optimizer": {"name": "adam", "lr": 0.03}})
    gate = concluded(told)["gate"]
    assert (gate["passed"], gate["comparison"]["samples"]) == (True, gate["samples"])
    assert gate["comparison"]["old"] == pytest.approx(reported["test_accuracy"], rel=1e-5)
    assert gate["comparison"]["new"] == pytest.approx(told[-1]["result"]["metrics"]["test_accuracy"], rel=1e-5)
    train("three", before=None)
    strange = concluded(train("four", arrays, before="three"))["gate"]
    assert (strange["passed"], strange["reason"]) == (False, "not_comparable")
