"""Advice on runs that have ended: one sentence for each clear trouble, and none for a healthy run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.training import advice, gradients
from services.training.epochs import Epoch
from services.training.messages import Finished, Note
from services.training.run import finish
from tests.training.building import classes, make_run, spec_for, trained

HEALTHY = [2.2 * 0.8**epoch + 0.1 for epoch in range(30)]


def history(
    train: Sequence[float | None], validation: Sequence[float | None] = (), clipped: float = 0.0
) -> list[Epoch]:
    judged = validation or [None] * len(train)
    pairs = zip(train, judged, strict=True)
    return [{"train_loss": one, "validation_loss": other, "clipped_fraction": clipped} for one, other in pairs]


def told(found: Any) -> list[str]:
    return list(found)


def after_all_epochs(records: list[Epoch], **more: bool) -> list[str]:
    return told(advice.not_stopped(records, **{"is_fixed": False, "stops": False, **more}))


# ---- the learning rate


def test_losses_that_jump_again_and_again_ask_for_a_lower_learning_rate() -> None:
    losses = [2.0, 1.0, 0.5, 1.9, 0.6, 0.4, 1.5, 0.5]
    assert told(advice.too_fast(history(losses))) == [
        "The training loss jumped in 2 epochs, in epoch 4 from 0.5 to 1.9: lower training.optimizer.lr."
    ]


def test_one_jump_counts_only_if_the_loss_stays_up() -> None:
    assert told(advice.too_fast(history([2.0, 1.0, 0.5, 1.9, 0.6, 0.4, 0.3]))) == []
    assert len(told(advice.too_fast(history([2.0, 1.0, 0.5, 4.0, 3.0, 3.0, 3.1])))) == 1


@pytest.mark.parametrize(
    "losses", [HEALTHY, [2.0, 0.01, 0.03, 0.01, 0.04, 0.01], [2.0], [], [2.0, None, 9.0, 0.1, 8.0]]
)
def test_losses_that_fall_or_are_near_zero_or_unknown_do_not_jump(losses: list[float | None]) -> None:
    assert told(advice.too_fast(history(losses))) == []


def test_a_run_that_was_rolled_back_was_too_fast() -> None:
    assert told(advice.too_fast(history(HEALTHY), rollbacks=2)) == [
        "Training diverged 2 times and was rolled back: lower training.optimizer.lr."
    ]


@pytest.mark.parametrize("losses", [[200.0, 210.0, 190.0], [6.5]])
def test_a_loss_far_above_that_of_the_untrained_network_has_diverged(losses: list[float]) -> None:
    (sentence,) = advice.diverged(history(losses), before=3.1)
    assert sentence.startswith("Training diverged: the training loss was 3.1 before the first update, and is ")
    assert sentence.endswith(": lower training.optimizer.lr.")


@pytest.mark.parametrize(("losses", "before"), [([200.0, 6.0, 6.0, 6.0], 3.1), ([], 3.1), ([200.0], math.inf)])
def test_a_loss_that_came_down_or_is_unknown_has_not_diverged(losses: list[float], before: float) -> None:
    assert told(advice.diverged(history(losses), before)) == []


# ---- too long, too short


def test_a_validation_loss_that_rises_while_the_training_loss_falls_is_overfitting() -> None:
    validation = [2.2, 1.5, 1.0, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4]
    records = history(HEALTHY[:10], validation)
    (sentence,) = after_all_epochs(records)
    assert sentence.startswith("The network overfits since epoch 4: the validation loss rises from 0.8 to 1.3 while ")
    assert "set training.early_stopping, add dropout" in sentence
    for found in (after_all_epochs(records, stops=True), told(advice.stopped(records, 4, is_good=True))):
        assert found == [sentence.replace("set training.early_stopping, ", "")]


@pytest.mark.parametrize(
    "validation",
    [
        [2.2, 1.5, 1.0, 0.8, 0.81, 0.82, 0.81, 0.83, 0.82, 0.83],  # a plateau
        [2.2, 0.9, 0.1, 0.02, 0.03, 0.04, 0.05, 0.06, 0.05, 0.06],  # near zero
        [2.2, 2.0, 1.8, 1.6, 1.4, 1.2, 1.0, 0.8, 1.3, 1.4],  # too new
        [2.2, 1.5, 1.0, 0.8, 0.9, 1.0, 1.1, 0.8, 0.8, 0.8],  # it came back
    ],
)
def test_a_rise_that_is_small_or_new_or_over_is_none(validation: list[float]) -> None:
    assert not [one for one in after_all_epochs(history(HEALTHY[:10], validation)) if "overfits" in one]


def test_a_validation_loss_that_rises_with_the_training_loss_is_no_overfitting() -> None:
    losses = [2.2, 1.5, 1.0, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4]
    assert after_all_epochs(history(losses, losses)) == []


@pytest.mark.parametrize("name", ["training", "validation"])
def test_a_loss_that_still_falls_asks_for_more_epochs(name: str) -> None:
    losses = [2.0 - 0.1 * epoch for epoch in range(10)]
    records = history(losses, losses if name == "validation" else ())
    expected = (
        f"The {name} loss still falls at the last epoch (from 1.5 to 1.2 within 3 epochs): raise training.epochs."
    )
    assert after_all_epochs(records) == [expected]
    assert after_all_epochs(records, is_fixed=True) == []
    assert after_all_epochs(records[:8]) == []


def test_a_loss_that_goes_up_and_down_does_not_fall() -> None:
    losses = [0.75, 0.74, 0.76, 0.72, 0.75, 0.71, 0.88, 0.85, 0.85, 0.75, 0.74, 0.70]
    assert after_all_epochs(history(losses, losses)) == []


def test_healthy_runs_get_no_advice() -> None:
    assert after_all_epochs(history(HEALTHY, [loss + 0.05 for loss in HEALTHY])) == []
    assert after_all_epochs(history(HEALTHY)) == []


def test_a_run_that_was_stopped_early_ended_in_time_only_if_it_is_good() -> None:
    records = history(HEALTHY, [loss + 0.05 for loss in HEALTHY])
    assert told(advice.stopped(records, 25, is_good=False)) == []
    assert told(advice.stopped(records, 25, is_good=True)) == [
        "Early stopping ended the run in time: nothing has improved since epoch 25."
    ]


# ---- gradients and units


def of_gradients(inside: dict[str, Any], *, clipped: float = 0.0, struggles: bool = True, **changes: Any) -> list[str]:
    spec = spec_for(classes(), **changes)
    records = history(HEALTHY, clipped=clipped)
    return told(advice.of_gradients(spec, records, inside, struggles=struggles, by_step=False))


SHORT = {"gradient_reach": 14, "gradient_steps": 200}


@pytest.mark.parametrize(
    ("architecture", "ways"),
    [
        ({"cell": "rnn"}, "a GRU or an LSTM, architecture.init orthogonal or data.patch"),
        (
            {"cell": "lstm"},
            "architecture.forget_gate_bias 1, architecture.init orthogonal or data.patch",
        ),
        ({"cell": "gru", "init": "orthogonal"}, "data.patch or architecture.pooling attention"),
    ],
)
def test_a_gradient_that_fades_soon_is_told_with_the_ways_that_are_left(
    architecture: dict[str, Any], ways: str
) -> None:
    (sentence,) = of_gradients(SHORT, architecture=architecture)
    assert sentence == (
        f"The gradient reaches 14 of 200 steps back, so what happened before cannot be learnt: use {ways}."
    )
    assert of_gradients(SHORT, architecture=architecture, struggles=False) == []


@pytest.mark.parametrize(
    "inside",
    [{}, {"gradient_reach": None, "gradient_steps": 200}, {"gradient_reach": 4, "gradient_steps": 40},
     {"gradient_reach": 21, "gradient_steps": 200}],
)  # fmt: skip
def test_a_reach_that_is_unknown_or_long_enough_is_not_told(inside: dict[str, Any]) -> None:
    assert of_gradients(inside) == []


def test_where_each_step_is_read_directly_a_short_reach_is_not_told() -> None:
    assert of_gradients(SHORT, architecture={"pooling": "mean"}) == []


def test_most_updates_clipped_and_most_outputs_saturated_are_told_only_of_a_model_that_struggles() -> None:
    inside = {"saturated_fraction": 0.62}
    assert of_gradients(inside, clipped=0.83) == [
        "83% of the updates were clipped: raise training.max_grad_norm or lower the learning rate.",
        "62% of the outputs of the recurrent layers are saturated: set data.scaling to standard or lower the learning "
        "rate.",
    ]
    assert of_gradients(inside, clipped=0.83, struggles=False) == []
    assert of_gradients({"saturated_fraction": 0.3}, clipped=0.5) == []


def test_dead_units_are_always_told_if_they_are_many() -> None:
    relu = {"cell": "rnn", "nonlinearity": "relu", "hidden_size": 32, "bidirectional": True}
    (sentence,) = of_gradients({"dead_units": 31}, architecture=relu, struggles=False)
    assert sentence.startswith("31 of 64 units never respond ")
    assert of_gradients({"dead_units": 21}, architecture=relu) == []


# ---- a result


def finished(run: Any, directory: Path) -> tuple[dict[str, Any], list[Note]]:
    trained(run)
    *told, last = finish(run, directory)
    assert isinstance(last, Finished)
    return last.result, [note for note in told if isinstance(note, Note) and note.type == "advice"]


def test_a_model_that_was_hardly_trained_is_told_so_in_its_result_an_event_and_its_file(tmp_path: Path) -> None:
    run = make_run(replace(classes(), y=np.arange(24) % 4 // 3), training={"epochs": 1})
    result, notes = finished(run, tmp_path)
    assert result["advice"] == [
        f"The model was updated only {run.state.step} times: lower training.batch_size, raise training.epochs or the "
        "learning rate, or set data.scaling to standard."
    ]
    assert [(note.level, note.message) for note in notes] == [("info", result["advice"][0])]
    written = json.loads((tmp_path / "model.json").read_text())
    assert (written["advice"], written["gradients"]) == (result["advice"], result["gradients"])


def test_a_run_that_diverged_within_its_first_epoch_is_never_told_to_learn_faster(tmp_path: Path) -> None:
    optimizer = {"name": "sgd", "lr": 100.0}
    run = make_run(classes(60), training={"epochs": 4, "optimizer": optimizer, "loss": "cross_entropy"})
    result, _ = finished(run, tmp_path)
    assert run.state.step < advice.FEW_UPDATES
    assert [sentence.split(":")[0] for sentence in result["advice"]] == ["Training diverged"]


def test_a_loss_that_rose_a_little_asks_for_no_higher_learning_rate() -> None:
    told = advice.hardly_trained(spec_for(classes()), 96, is_text=False, rises=True)
    assert told == (
        "The model was updated only 96 times: lower training.batch_size, raise training.epochs, or set data.scaling to "
        "standard."
    )


def test_a_result_has_the_probe_of_its_best_weights(tmp_path: Path) -> None:
    run = make_run(classes(40), training={"epochs": 2})
    result, _ = finished(run, tmp_path)
    rows = gradients.rows_of(run.train_part, run.probe_size)
    (batch,) = run.train_part.pieces([rows], run.device)
    found = gradients.measured(run.model, batch, run.weighted_loss)
    assert run.state.best is not None
    clipped = run.state.history[run.state.best.epoch - 1]["clipped_fraction"]
    assert result["gradients"] == {"clipped_fraction": clipped, **found}
    assert all(value is None or math.isfinite(value) for value in found.values())


def test_a_model_that_learns_well_gets_no_advice_and_neither_does_noise(tmp_path: Path) -> None:
    arrays = classes(160, kinds=1)
    arrays = replace(arrays, y=(arrays.x[:, -1, 0] > 0).astype(np.int64))  # which no mean over the steps shows
    run = make_run(arrays, training={"epochs": 20, "optimizer": {"name": "adam", "lr": 0.02}})
    result, notes = finished(run, tmp_path / "good")
    assert result["baseline"]["is_beaten"]
    assert (result["advice"], notes) == ([], [])
    run = make_run(classes(), training={"epochs": 1}, data={"dataset": None, "synthetic": {}})
    assert finished(run, tmp_path / "noise")[0]["advice"] == []
