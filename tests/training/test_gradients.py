"""What the gradient is like inside a network: beside plain PyTorch, in closed form, and without a trace in the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from services.training import gradients
from services.training.bptt import Unrolled
from services.training.data import MiniBatch
from services.training.epochs import Epoch
from services.training.files.npz import Arrays
from services.training.loop import Run, fit, probe
from services.training.model import SequenceModel
from services.training.preparing import prepare
from services.training.spec.fields import Architecture
from tests.training.building import (
    check_that_it_resumes_exactly,
    classes,
    forecast_spec,
    hourly,
    make_run,
    of_many_lengths,
    same,
    spec_for,
    tagged,
    texts,
    timeless,
    trained,
    values,
    weights_of,
)

LENGTHS = torch.tensor([9, 4, 1, 7])


def model_of(inputs: int = 3, outputs: int = 2, **architecture: Any) -> SequenceModel:
    torch.manual_seed(5)
    return SequenceModel(Architecture.model_validate({"hidden_size": 6, **architecture}), inputs, outputs)


def batch_of(model: SequenceModel, lengths: Tensor | None = LENGTHS, *, by_step: bool = False) -> MiniBatch:
    torch.manual_seed(6)
    x = torch.randn(4, 9, model.rnn.input_size)
    if lengths is not None:
        x[torch.arange(9) >= lengths[:, None]] = 0.0
    count = 4 if not by_step else 36 if lengths is None else int(lengths.sum())
    return MiniBatch(x, lengths, torch.arange(count) % 2)


def mean_loss(outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    assert weights is None
    return F.cross_entropy(outputs, targets)


def inside(record: Epoch) -> dict[str, Any]:
    """What the probe has written into a record."""
    names = ("grad_norm_weight", "grad_norm_head", "grad_norm_att", "grad_norm_emb", "gradient_", "saturated", "dead")
    return {name: value for name, value in record.items() if name.startswith(names)}


# ---- norms


@pytest.mark.parametrize("lengths", [LENGTHS, None], ids=["lengths", "full"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_norms_are_those_of_plain_pytorch(cell: str, lengths: Tensor | None) -> None:
    model = model_of(cell=cell, num_layers=2, bidirectional=True, dropout=0.5, pooling="final", head_dropout=0.5)
    batch = batch_of(model, lengths)
    found = gradients.measured(model, batch, mean_loss)

    plain = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell](3, 6, 2, batch_first=True, bidirectional=True)
    head = nn.Linear(12, 2)
    plain.load_state_dict(model.rnn.state_dict())
    head.load_state_dict(model.head.state_dict())
    sizes = torch.full((4,), 9) if lengths is None else lengths
    packed = nn.utils.rnn.pack_padded_sequence(batch.x, sizes, batch_first=True, enforce_sorted=False)
    state = plain(packed)[1]
    hidden = state[0] if cell == "lstm" else state
    F.cross_entropy(head(torch.cat((hidden[-2], hidden[-1]), dim=1)), batch.y).backward()  # type: ignore[no-untyped-call]
    expected = {
        f"grad_norm_{name}": float(parameter.grad.norm())
        for name, parameter in plain.named_parameters()
        if name.startswith("weight") and parameter.grad is not None
    }
    assert len(expected) == 8
    norms = [each.grad for each in head.parameters()]
    expected["grad_norm_head"] = float(torch.cat([each.flatten() for each in norms if each is not None]).norm())
    assert {name: found[name] for name in found if name.startswith("grad_norm")} == pytest.approx(expected, rel=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_attention_and_embeddings_have_norms_of_their_own() -> None:
    model = model_of(cell="gru", pooling="attention")
    assert "grad_norm_attention" in gradients.measured(model, batch_of(model), mean_loss)
    run = make_run(texts())
    found = probe(run)
    (batch,) = run.train_part.pieces([gradients.rows_of(run.train_part, run.probe_size)], run.device)
    run.model.eval()
    run.weighted_loss(run.model(batch.x, batch.lengths, batch.static), batch.y, batch.weights).backward()  # type: ignore[no-untyped-call]
    table = run.model.embeddings[0].weight.grad
    assert isinstance(table, Tensor)
    assert found["grad_norm_embeddings"] == pytest.approx(float(table.norm()), rel=1e-4)


# ---- time


def decaying(factor: float, **architecture: Any) -> SequenceModel:
    """A network of tanh near 0, where tanh is linear, whose recurrence multiplies each unit by a factor."""
    model = model_of(inputs=2, cell="rnn", **architecture)
    with torch.no_grad():
        for name, parameter in model.rnn.named_parameters():
            if "bias" in name:
                parameter.zero_()
            elif "hh" in name:
                parameter.copy_(factor * torch.eye(6))
            else:
                parameter.mul_(1e-4)
    return model


@pytest.mark.parametrize(("factor", "reach"), [(0.5, 7), (0.8, 21), (0.99, 40)])
def test_the_reach_of_a_linear_recurrence_is_its_closed_form(factor: float, reach: int) -> None:
    model = decaying(factor)
    batch = MiniBatch(torch.randn(4, 40, 2), None, torch.arange(4) % 2)
    found = gradients.measured(model, batch, mean_loss)
    lags = {name: value for name, value in found.items() if name.startswith(gradients.LAG)}
    assert lags == pytest.approx({f"{gradients.LAG}{lag}": factor**lag for lag in (1, 2, 4, 8, 16, 32)}, rel=1e-3)
    assert (found["gradient_reach"], found["gradient_steps"]) == (reach, 40)


def test_with_lengths_a_lag_counts_from_the_last_valid_step_of_each_sequence() -> None:
    model = decaying(0.5)
    x = torch.randn(3, 12, 2)
    found = gradients.measured(model, MiniBatch(x, torch.tensor([12, 3, 5]), torch.tensor([0, 1, 1])), mean_loss)
    assert (found["gradient_reach"], found["gradient_steps"]) == (7, 12)
    assert found["gradient_at_lag_4"] == pytest.approx(0.5**4, rel=1e-3)
    assert found["gradient_at_lag_8"] == pytest.approx(0.5**8, rel=1e-3)


def test_with_a_loss_at_each_step_only_that_of_the_last_one_counts() -> None:
    model = decaying(0.5, pooling="none")
    x, lengths = torch.randn(3, 12, 2), torch.tensor([12, 3, 5])
    for given, count in ((lengths, 20), (None, 36)):
        found = gradients.measured(model, MiniBatch(x, given, torch.arange(count) % 2), mean_loss)
        assert found["gradient_reach"] == 7
        assert found["gradient_at_lag_1"] == pytest.approx(0.5, rel=1e-3)


def test_a_gradient_that_enters_at_both_ends_or_nowhere_has_no_reach() -> None:
    model = model_of(cell="gru", bidirectional=True, pooling="final")
    found = gradients.measured(model, batch_of(model), mean_loss)
    assert (found["gradient_reach"], found["gradient_steps"]) == (None, 9)
    assert gradients.reach_of(torch.zeros(2, 5), None) == {"gradient_reach": None, "gradient_steps": 5}


# ---- units


def test_relu_units_that_are_never_above_zero_are_dead() -> None:
    model = model_of(cell="rnn", nonlinearity="relu")
    with torch.no_grad():
        model.rnn.bias_ih_l0[[1, 4]] = -1e3
        model.rnn.bias_ih_l0[[0, 2, 3, 5]] = 10.0
    found = gradients.measured(model, batch_of(model), mean_loss)
    assert (found["dead_units"], found["saturated_fraction"]) == (2, None)


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_outputs_at_the_bound_of_tanh_are_saturated_and_padding_is_none(cell: str) -> None:
    model = model_of(cell=cell, bidirectional=True)
    with torch.no_grad():
        for parameter in model.rnn.parameters():
            parameter.mul_(0.1)
        size = 6 if cell == "rnn" else 18
        model.rnn.bias_ih_l0[size - 6 :][[0, 3, 5]] = 100.0  # of a GRU the part that is its candidate state
        if cell == "gru":
            model.rnn.bias_ih_l0[6:12] = -100.0  # its update gate lets the candidate through
    found = gradients.measured(model, batch_of(model), mean_loss)
    assert found["saturated_fraction"] == pytest.approx(3 / 12)
    assert found["dead_units"] is None


# ---- the run


RUNS: tuple[tuple[Arrays, dict[str, Any]], ...] = (
    (classes(120, 9), {"architecture": {"cell": "lstm", "num_layers": 2, "dropout": 0.4, "batch_norm": True}}),
    (of_many_lengths(classes(120, 9)), {"architecture": {"cell": "rnn", "nonlinearity": "relu", "head_dropout": 0.3}}),
    (tagged(160), {"architecture": {"bidirectional": True}, "training": {"precision": "bf16"}}),
    (tagged(160), {"training": {"bptt_steps": 3, "accumulation_steps": 2}}),
    (values(120, 9), {"architecture": {"pooling": "attention"}, "data": {"patch": 2}}),
)


def run_of(arrays: Arrays, changes: dict[str, Any]) -> Run:
    spec = spec_for(arrays, **changes | {"training": {"epochs": 8} | changes.get("training", {})})
    return Run(spec, prepare(arrays, spec))


@pytest.mark.parametrize(("arrays", "changes"), RUNS)
def test_a_run_is_the_same_bit_for_bit_without_the_probe(arrays: Arrays, changes: dict[str, Any]) -> None:
    run = run_of(arrays, changes)
    records, drawn = timeless(trained(run)), torch.get_rng_state()
    plain = run_of(arrays, changes)
    plain.is_probed = False
    others = timeless(trained(plain))
    probed = [record["epoch"] for record in records if inside(record)]
    assert probed == list(range(run.probe_interval, 9, run.probe_interval)) != []
    assert [{name: record[name] for name in record if name not in inside(record)} for record in records] == others
    assert same(weights_of(run), weights_of(plain))
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_probe_draws_nothing_and_leaves_no_gradient_and_no_statistics() -> None:
    run = make_run(architecture={"num_layers": 2, "dropout": 0.5, "batch_norm": True})
    next(iter(fit(run)))
    before, kept = weights_of(run), [parameter.grad for parameter in run.parameters]
    copies = [grad.clone() for grad in kept if grad is not None]
    drawn = torch.get_rng_state()
    assert run.model.training
    assert inside(probe(run))
    assert run.model.training
    assert run.model.rnn.dropout == 0.5
    assert torch.equal(torch.get_rng_state(), drawn)
    assert same(weights_of(run), before)
    assert all(now.grad is was for now, was in zip(run.parameters, kept, strict=True))
    assert all(torch.equal(now, was) for now, was in zip((g for g in kept if g is not None), copies, strict=True))


def test_a_resumed_run_probes_at_the_same_epochs_with_the_same_numbers(tmp_path: Path) -> None:
    arrays, changes = RUNS[0]
    changes = changes | {"training": {"epochs": 10}}
    after_a_probe = 6 * run_of(arrays, changes).steps_per_epoch + 5
    resumed = check_that_it_resumes_exactly(lambda: run_of(arrays, changes), tmp_path, after=after_a_probe)
    assert [record["epoch"] for record in resumed.state.history if inside(record)] == [5, 10]


def test_probes_are_as_rare_as_epochs_are_short() -> None:
    def interval(samples: int, batch_size: int) -> int:
        return make_run(
            classes(samples), data={"split": {"validation": 0.0}}, training={"batch_size": batch_size}
        ).probe_interval

    assert [interval(400, 4), interval(100, 4), interval(40, 4), interval(40, 64)] == [1, 4, 10, 100]
    uneven = of_many_lengths(classes(400, 50))
    run = make_run(uneven, data={"split": {"validation": 0.0}})
    longest = uneven.lengths[gradients.rows_of(run.train_part, 4)].max()
    assert run.probe_interval == int(np.ceil(2 * longest * 4 / uneven.lengths.sum() / 0.02))


def test_the_probe_is_spread_over_the_split_and_takes_no_more_than_a_batch() -> None:
    run = make_run(classes(100), data={"split": {"validation": 0.0}}, training={"batch_size": 5})
    assert gradients.rows_of(run.train_part, run.probe_size).tolist() == [0, 20, 40, 60, 80]
    run.state.batches.micro = 2
    assert gradients.rows_of(run.train_part, run.probe_size).tolist() == [0, 50]
    assert len(gradients.rows_of(run.train_part, 64)) == gradients.SEQUENCES


def test_windows_of_sequences_and_of_forecasts_are_probed() -> None:
    run = run_of(tagged(40, 13, full=True), {"training": {"bptt_steps": 5}})
    assert isinstance(run.train_part, Unrolled)
    assert probe(run)["gradient_steps"] == 5
    arrays = hourly((60, 40))
    spec = forecast_spec(arrays)
    found = probe(Run(spec, prepare(arrays, spec)))
    assert found["gradient_steps"] == 5
    assert found["gradient_reach"] is not None
