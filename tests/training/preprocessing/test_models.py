"""Networks that read words, patches and values of whole sequences: beside plain PyTorch, and in the gate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from services.training import run as runs
from services.training.data import prepare
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.gate import drift
from services.training.gate.verdict import Retraining
from services.training.loop import Run, evaluate
from services.training.messages import Finished, SavedModel
from services.training.spec import check_data, parse
from services.training.spec.footprint import footprint
from tests.training.building import document, make_run, mixed, tagged, trained, values, weights_of

CPU = torch.device("cpu")
EVERYTHING: dict[str, Any] = {
    "missing": "linear",
    "missing_mask": True,
    "differences": "append",
    "categories": "embedding",
    "embedding_size": 3,
    "scaling": "standard",
    "patch": 2,
    "split": {"validation": 0.2, "test": 0.2},
}


class Plain(nn.Module):
    """The network as one would write it: five numbers, two masks and a word at each of two steps side by side."""

    def __init__(self, numbers: int, words: int, static: int, classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words + 1, 3, padding_idx=0)
        self.rnn = nn.GRU(2 * (numbers + 3), 5, batch_first=True)
        self.head = nn.Linear(5 + static, classes)

    def forward(self, x: Tensor, lengths: Tensor, static: Tensor) -> Tensor:
        halves = [torch.cat((half[..., :-1], self.words(half[..., -1].long())), dim=2) for half in x.chunk(2, dim=2)]
        packed = nn.utils.rnn.pack_padded_sequence(
            torch.cat(halves, dim=2), lengths, batch_first=True, enforce_sorted=False
        )
        _, hidden = self.rnn(packed)
        return self.head(torch.cat((hidden[-1], static), dim=1))


def test_the_network_is_that_of_plain_pytorch() -> None:
    run = make_run(mixed(), data=EVERYTHING)
    part = run.data.train
    assert part.lengths is not None
    assert part.static is not None
    half = part.x.shape[2] // 2
    torch.manual_seed(run.training.seed)
    plain = Plain(half - 1, 3, part.static.shape[1], 2)
    ours, theirs = list(run.model.parameters()), list(plain.parameters())
    assert [one.shape for one in ours] == [one.shape for one in theirs]
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True)), "drawn in the same order"
    expected = plain(part.x, part.lengths, part.static)
    torch.testing.assert_close(run.model(part.x, part.lengths, part.static), expected, rtol=0, atol=1e-6)


def test_the_vector_of_an_unknown_word_stays_zero() -> None:
    run = make_run(mixed(), data=EVERYTHING)
    before = run.model.embeddings[0].weight.detach().clone()
    trained(run)
    after = run.model.embeddings[0].weight
    assert not after[0].any()
    assert (after[1:] != before[1:]).any(dim=1).all()


def test_values_of_a_sequence_stand_beside_each_of_its_steps() -> None:
    """A tag is the value of its sequence: nothing else says it."""
    arrays = tagged(40, kinds=2)
    static = np.arange(40.0)[:, None] % 2
    y = np.where(arrays.y < 0, arrays.y, static[:, :, None].astype(np.int64))
    for full in (False, True):
        lengths = np.full(40, 7) if full else arrays.lengths
        y = np.broadcast_to(static[:, :, None].astype(np.int64), arrays.y.shape).copy()
        y[np.arange(7) >= lengths[:, None]] = -1
        told = replace(arrays, lengths=lengths, y=y, static=static, static_columns=mixed().static_columns[:1])
        run = make_run(told, training={"epochs": 30, "optimizer": {"name": "adam", "lr": 0.1}})
        assert trained(run)[-1]["validation_accuracy"] == 1.0


@pytest.mark.parametrize("kind", ["classes", "tags", "values"])
def test_the_loss_is_weighted_as_in_plain_pytorch(kind: str) -> None:
    arrays = {"classes": mixed(gaps=False), "tags": tagged(), "values": values()}[kind]
    weights = np.random.default_rng(0).uniform(0.1, 5.0, len(arrays))
    arrays = replace(arrays, weights=weights)
    run = make_run(arrays, data={"scaling": "standard"})
    part = run.data.train
    own = weights[run.data.rows["train"]]
    each = np.repeat(own, part.steps) if kind == "tags" else own
    factors = torch.from_numpy(each / each.mean()).float()
    assert part.weights is not None
    torch.testing.assert_close(part.weights, factors)
    outputs = run.model(part.x, part.lengths, part.static)
    if kind == "values":
        plain = (outputs - part.y).square().mean(dim=1)
    else:
        plain = nn.functional.cross_entropy(outputs, part.y, reduction="none")
    expected = float((plain * factors).mean().detach())
    assert evaluate(run, part)["loss"] == pytest.approx(expected, rel=1e-5)


def gradients(arrays: Arrays, **training: Any) -> list[Tensor]:
    """What one update of all training samples changes."""
    run = make_run(
        arrays,
        data={"missing": "mean", "scaling": "standard"},
        training={"epochs": 1, "optimizer": {"name": "sgd", "lr": 1.0}, "max_grad_norm": None, **training},
    )
    before = weights_of(run)
    trained(run)
    return [run.model.state_dict()[name] - before[name] for name in before]


def test_only_the_ratios_of_weights_count_and_the_same_at_every_batch_size() -> None:
    arrays = mixed()
    assert arrays.weights is not None
    whole = gradients(arrays, batch_size=18)
    tenfold = gradients(replace(arrays, weights=arrays.weights * 10), batch_size=18)
    pieces = gradients(arrays, batch_size=3, accumulation_steps=6)
    plain = gradients(replace(arrays, weights=None), batch_size=18)
    for one, ten, small, other in zip(whole, tenfold, pieces, plain, strict=True):
        torch.testing.assert_close(one, ten, rtol=0, atol=1e-6)
        torch.testing.assert_close(one, small, rtol=0, atol=1e-6)
        assert not torch.allclose(one, other, rtol=0, atol=1e-5)


def test_the_recorded_loss_is_weighted_and_the_metrics_are_not() -> None:
    arrays = mixed(gaps=False)
    heavy = replace(arrays, weights=np.where(arrays.y == 0, 100.0, 1.0))
    run = make_run(heavy, training={"epochs": 1, "batch_size": 100, "optimizer": {"name": "sgd", "lr": 1e-12}})
    record = trained(run)[0]
    part = run.data.train
    outputs = run.model(part.x, part.lengths, part.static)
    each = nn.functional.cross_entropy(outputs, part.y, reduction="none") * part.weights
    assert record["train_loss"] == pytest.approx(float(each.mean().detach()), rel=1e-4)
    assert record["train_accuracy"] == pytest.approx(float((outputs.argmax(dim=1) == part.y).float().mean()))


@pytest.mark.parametrize("chosen", [3.0, [0.5, 2.0, 8.0], "balanced", None])
def test_a_yes_weighs_as_in_torchs_own_loss(chosen: Any) -> None:
    y = (np.random.default_rng(1).random((40, 3)) < (0.1, 0.5, 0.8)).astype(np.int64)
    arrays = replace(mixed(40, gaps=False), y=y, weights=None)
    run = make_run(arrays, training={"loss": {"name": "bce", "pos_weight": chosen}})
    part = run.data.train
    yes = part.y.sum(dim=0)
    weights = {"balanced": (len(part.y) - yes) / yes, 3.0: torch.full((3,), 3.0), None: None}.get(
        chosen if not isinstance(chosen, list) else 0, torch.tensor([0.5, 2.0, 8.0])
    )
    outputs = run.model(part.x, part.lengths, part.static).detach()
    expected = nn.BCEWithLogitsLoss(pos_weight=weights)(outputs, part.y)
    assert evaluate(run, part)["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_of_two_classes_the_second_is_the_yes() -> None:
    arrays = mixed(gaps=False)
    run = make_run(arrays, training={"loss": {"name": "bce", "pos_weight": 5.0}})
    part = run.data.train
    assert part.weights is not None
    outputs = run.model(part.x, part.lengths, part.static).detach()
    losses = nn.functional.binary_cross_entropy_with_logits(outputs, part.y, reduction="none")[:, 0]
    expected = (losses * torch.where(part.y[:, 0] == 1, 5.0, 1.0) * part.weights).mean()
    assert evaluate(run, part)["loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("categories", ["one_hot", "embedding"])
@pytest.mark.parametrize("patch", [1, 3])
def test_the_parameters_and_channels_are_counted_before(categories: str, patch: int) -> None:
    for mask in (False, True):
        data = {**EVERYTHING, "categories": categories, "patch": patch, "missing_mask": mask, "stride": 2}
        data["embedding_size"] = 3 if categories == "embedding" else None
        run = make_run(mixed(40), data=data)
        counted = footprint(run.spec, npz.summarise(mixed(40)))
        assert counted.parameters == sum(parameter.numel() for parameter in run.parameters)
        longest = {1: 4, 3: 2}[patch]  # of the four steps that a stride of 2 leaves of seven
        assert counted.data == mixed(40).x.nbytes + 40 * longest * run.data.input_size * 4


def finished(arrays: Arrays, folder: Path, before: Path | None = None, **changes: Any) -> dict[str, Any]:
    """A run as a retraining, trained to its end; its result."""
    retrain = {"model": "m", "warm_start": "production" if changes.pop("warm", False) else None}
    gate = changes.pop("gate", {})
    data = changes.pop("data", {})
    spec = check_data(
        parse(document(data={**EVERYTHING, **data}, retrain={**retrain, "gate": gate}, **changes)),
        npz.summarise(arrays),
    )
    named = None if before is None else SavedModel("m@1", str(before))
    baselines = {"against": named, "warm_start": named if retrain["warm_start"] else None}
    retraining = Retraining(spec, arrays, CPU, baselines)
    notes = [getattr(event, "message", "") for event in retraining.beginning()]
    run = Run(spec, retraining.data, CPU, retraining.initial)
    trained(run)
    events: Iterator[Any] = runs.finish(run, folder, retraining)
    result = next(event.result for event in events if isinstance(event, Finished))
    return {**result, "notes": notes}


def test_a_model_goes_through_the_gate_with_its_own_preprocessing(tmp_path: Path) -> None:
    first = finished(mixed(80), tmp_path / "one")
    card = json.loads((tmp_path / "one" / "model.json").read_text())
    assert card["format"] == "loopline-model/3"
    assert [feature["name"] for feature in card["preprocessing"]["features"]] == ["pulse", "load", "mode", "drift"]
    for metric in ("loss", "accuracy"):
        other = {"patch": 1, "missing": "mean", "categories": "one_hot", "embedding_size": None, "max_length": 5}
        told = finished(mixed(80), tmp_path / "two", tmp_path / "one", data=other, gate={"metric": metric})
        comparison = told["retrain"]["gate"]["comparison"]
        assert comparison["old"] == pytest.approx(first["metrics"][f"test_{metric}"], rel=1e-5)
        assert comparison["new"] == pytest.approx(told["metrics"][f"test_{metric}"], rel=1e-5)


def test_a_warm_start_goes_on_with_what_was_fitted_before(tmp_path: Path) -> None:
    finished(mixed(80), tmp_path / "one")
    told = finished(mixed(80, seed=9), tmp_path / "two", tmp_path / "one", warm=True)
    assert told["retrain"]["warm_start"] == "m@1"
    cards = [json.loads((tmp_path / name / "model.json").read_text()) for name in ("one", "two")]
    assert cards[0]["preprocessing"] == cards[1]["preprocessing"]
    assert cards[0]["scaling"] == cards[1]["scaling"]


def test_a_warm_start_from_other_steps_begins_from_scratch_and_says_why(tmp_path: Path) -> None:
    finished(mixed(80), tmp_path / "one")
    told = finished(mixed(80), tmp_path / "two", tmp_path / "one", warm=True, data={"patch": 1})
    assert told["retrain"]["warm_start"] is None
    assert "prepares its input otherwise (data.patch is 2 there, and 1 here)" in told["notes"][0]


def test_a_model_that_knows_no_way_with_gaps_is_not_compared_on_them(tmp_path: Path) -> None:
    finished(mixed(80, gaps=False), tmp_path / "one", data={"missing": "refuse", "missing_mask": False})
    told = finished(mixed(80), tmp_path / "two", tmp_path / "one")
    assert told["retrain"]["gate"]["reason"] == "not_comparable"
    assert "takes no missing values" in told["retrain"]["gate"]["message"]
    fewer = replace(mixed(80), static=None, static_columns=())
    told = finished(fewer, tmp_path / "three", tmp_path / "one")
    assert "takes 2 values of whole sequences, and the data has 0" in told["retrain"]["gate"]["message"]


def test_drift_is_told_of_words_and_of_features_with_gaps(tmp_path: Path) -> None:
    arrays = mixed(200)
    rows = np.arange(200)
    profile = json.loads(json.dumps(drift.profile(drift.sample(arrays, rows)), allow_nan=False))
    same = drift.between(profile, drift.sample(mixed(200, seed=6), rows))
    assert same["features"]["shifted"] == 0
    changed = replace(arrays, x=arrays.x.copy())
    changed.x[:, :, 2] = np.where(np.arange(7) < arrays.lengths[:, None], 1.0, 0.0)
    assert drift.between(profile, drift.sample(changed, rows))["features"]["most"][0]["feature"] == 2


def test_what_was_left_out_is_told_by_split() -> None:
    arrays = mixed(40, gaps=False)
    arrays.x[:4, 0, 0] = np.nan
    spec = check_data(parse(document(data={"missing": "drop"})), npz.summarise(arrays))
    note = runs.left_out(prepare(arrays, spec))
    assert note.message.startswith("Samples with missing values were left out: ")
    assert sum(note.data["left_out"].values()) == 4
