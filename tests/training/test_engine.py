"""The compiled layers against PyTorch's own in float64; and which engine a run takes."""

from __future__ import annotations

import copy
import ctypes
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, note
from loopline.files.sequences import Column
from torch import Tensor, nn

from services.errors import Diverged
from services.training import checkpoint, preparing
from services.training.data import batches_of, in_pieces
from services.training.engine import building, choice, layers, library
from services.training.engine.layers import CELLS as MODES
from services.training.engine.layers import recur
from services.training.engine.network import refusal
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.loop import Run, fit
from services.training.run import use_threads
from services.training.spec.fields import Training
from tests.training.building import (
    classes,
    document,
    events,
    forecast_spec,
    hourly,
    make_run,
    of_many_lengths,
    same,
    spec_for,
    tagged,
    values,
    weights_of,
)

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
CELLS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "tanh": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
}


def is_built() -> bool:
    try:
        library.load()
    except library.Unavailable:
        return False
    return True


compiled = pytest.mark.skipif(not is_built(), reason="this machine has no compiled layers: there is no C++ compiler")


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.RNNBase, Tensor, Tensor | None]:
    """A network of any cell, in float64, with steps and their lengths."""
    kind, options = CELLS[draw(st.sampled_from(sorted(CELLS)))]
    sizes = st.integers(1, 9)
    inputs, hidden, depth = draw(sizes), draw(st.sampled_from((1, 2, 7, 16, 33))), draw(st.integers(1, 3))
    batch, time = draw(sizes), draw(st.integers(1, 12))
    torch.manual_seed(draw(st.integers(0, 2**32)))
    both = draw(st.booleans())
    rnn = kind(inputs, hidden, depth, batch_first=True, bidirectional=both, dtype=torch.float64, **options)
    if rnn.mode == "RNN_RELU":  # far from its kink, where rounding would decide which of two gradients it has
        with torch.no_grad():
            for name, parameter in rnn.named_parameters():
                parameter.copy_(parameter.sign() if name.startswith("bias_ih") else parameter * 0.01)
    lengths = None
    if draw(st.booleans()):
        lengths = torch.tensor(draw(st.lists(st.integers(1, time), min_size=batch, max_size=batch)))
    return rnn, torch.randn(batch, time, inputs, dtype=torch.float64), lengths


def by_torch(rnn: nn.RNNBase, x: Tensor, lengths: Tensor | None, state: Any = None) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, the top layer's final states and all final states."""
    if lengths is None:
        outputs, after = rnn(x, state)
    else:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        found, after = rnn(packed, state)
        outputs, _ = nn.utils.rnn.pad_packed_sequence(found, batch_first=True, total_length=x.shape[1])
    hidden = after[0] if isinstance(after, tuple) else after
    final = torch.cat((hidden[-2], hidden[-1]), dim=1) if rnn.bidirectional else hidden[-1]
    return outputs, final, hidden


def near(found: Tensor | None, wanted: Tensor | None) -> None:
    assert found is not None
    assert wanted is not None
    torch.testing.assert_close(found.double(), wanted, rtol=2e-3, atol=3e-5 * (1 + float(wanted.detach().abs().max())))


@compiled
@given(networks(), st.integers(1, 3), st.sampled_from(((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))))
def test_the_layers_agree_with_torch_in_float64(
    network: tuple[nn.RNNBase, Tensor, Tensor | None], threads: int, of: tuple[float, float]
) -> None:
    """Outputs, states, and the gradients of everything: of a loss of all outputs, of the final states, and of both."""
    rnn, x, lengths = network
    mine, given_x = copy.deepcopy(rnn).float(), x.float().requires_grad_()
    x = x.clone().requires_grad_()
    wanted = by_torch(rnn, x, lengths)
    factors = [torch.randn_like(each) * share for each, share in zip(wanted[:2], of, strict=True)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        outputs, final, state = recur(mine, given_x, lengths, outputs=of[0] > 0)
        found = (final,) if outputs is None else (outputs, final)
        pairs = zip(found, factors[-len(found) :], strict=True)
        torch.stack([(each * factor.float()).sum() for each, factor in pairs]).sum().backward()  # type: ignore[no-untyped-call]
    finally:
        torch.set_num_threads(before)
    torch.stack([(e * f).sum() for e, f in zip(wanted, factors, strict=False)]).sum().backward()  # type: ignore[no-untyped-call]
    if outputs is not None:
        near(outputs, wanted[0])
    near(final, wanted[1])
    near(state[0], wanted[2])
    near(given_x.grad, x.grad)
    for parameter, reference in zip(mine.parameters(), rnn.parameters(), strict=True):
        near(parameter.grad, reference.grad)


@compiled
@pytest.mark.parametrize(("size", "hidden"), [(1, 31), (40, 8), (33, 50)])
def test_products_of_many_rows_and_columns_agree_with_torch(size: int, hidden: int) -> None:
    """More than the compiled code lays out at a time, and some that fill neither a register nor a tile."""
    torch.manual_seed(0)
    rnn, x = nn.LSTM(size, hidden, 2, batch_first=True, dtype=torch.float64), torch.randn(37, 23, size).double()
    mine, given_x = copy.deepcopy(rnn).float(), x.float().requires_grad_()
    x.requires_grad_()
    outputs, _, _ = recur(mine, given_x, None)
    wanted = by_torch(rnn, x, None)[0]
    near(outputs, wanted)
    assert outputs is not None
    outputs.sin().mean().backward()  # type: ignore[no-untyped-call]
    wanted.sin().mean().backward()  # type: ignore[no-untyped-call]
    for found, reference in zip((given_x, *mine.parameters()), (x, *rnn.parameters()), strict=True):
        assert reference.grad is not None
        scale = float(reference.grad.abs().max())
        torch.testing.assert_close(found.grad, reference.grad.float(), rtol=1e-3, atol=1e-5 * scale)


@compiled
@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
@pytest.mark.parametrize("lengths", [None, [6, 2, 9, 1]])
def test_the_layers_go_on_from_states(cell: str, lengths: list[int] | None) -> None:
    kind, options = CELLS[cell]
    torch.manual_seed(0)
    rnn = kind(3, 5, 2, batch_first=True, dtype=torch.float64, **options)
    x, sizes = torch.randn(4, 9, 3, dtype=torch.float64), None if lengths is None else torch.tensor(lengths)
    state = [torch.randn(2, 4, 5, dtype=torch.float64) for _ in range(2 if cell == "lstm" else 1)]
    mine = copy.deepcopy(rnn).float()
    outputs, final, after = recur(mine, x.float(), sizes, tuple(each.float() for each in state))
    wanted = by_torch(rnn, x, sizes, tuple(state) if cell == "lstm" else state[0])
    assert outputs is not None
    for found, reference in zip((outputs, final, after[0]), wanted, strict=True):
        near(found, reference)
    outputs.square().sum().backward()  # type: ignore[no-untyped-call]
    wanted[0].square().sum().backward()  # type: ignore[no-untyped-call]
    for parameter, reference in zip(mine.parameters(), rnn.parameters(), strict=True):
        near(parameter.grad, reference.grad)


@compiled
@pytest.mark.parametrize("lengths", [None, [6, 2, 9, 1]])
def test_without_a_gradient_a_few_sequences_are_computed_at_a_time(
    lengths: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    rnn, x = nn.LSTM(3, 5, 2, batch_first=True), torch.randn(4, 9, 3)
    sizes, state = None if lengths is None else torch.tensor(lengths), (torch.randn(2, 4, 5), torch.randn(2, 4, 5))
    whole = recur(rnn, x, sizes, state)
    monkeypatch.setattr(layers, "NUMBERS_AT_ONCE", 3 * 9 * 2 * 5 * 8)
    with torch.no_grad():
        parts = recur(rnn, x, sizes, state)
    for found, wanted in zip((parts[0], parts[1], *parts[2]), (whole[0], whole[1], *whole[2]), strict=True):
        torch.testing.assert_close(found, wanted)


@compiled
@pytest.mark.parametrize(
    ("x", "lengths", "said"),
    [
        (torch.zeros(2, 4, 2, dtype=torch.float64), None, "float32"),
        (torch.zeros(2, 0, 2), None, "no steps"),
        (torch.zeros(0, 4, 2), None, "no steps"),
        (torch.zeros(2, 4, 2), torch.tensor([4, 0]), "from 1 to 4"),
        (torch.zeros(2, 4, 2), torch.tensor([4, 5]), "from 1 to 4"),
        (torch.zeros(2, 4, 2), torch.tensor([4]), "one for each of 2"),
    ],
)
def test_what_compiled_code_cannot_read_is_refused(x: Tensor, lengths: Tensor | None, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        recur(nn.GRU(2, 3, batch_first=True), x, lengths)


@compiled
def test_lengths_of_any_kind_are_read() -> None:
    rnn, x = nn.GRU(2, 3, batch_first=True), torch.randn(3, 4, 2)
    wanted = recur(rnn, x, torch.tensor([4, 1, 2]))[1]
    strided = torch.tensor([4, 9, 1, 9, 2, 9])[::2]
    for lengths in (torch.tensor([4, 1, 2], dtype=torch.int32), strided):
        assert torch.equal(recur(rnn, x, lengths)[1], wanted)


@compiled
def test_a_wide_network_is_cut_into_few_shards() -> None:
    """Each but the first has a gradient of its own: 64 of them would take 0.8 GB."""
    size = 900
    call = library.Layers(MODES["LSTM"], 64, 1, size, size, 1, 1, 64)
    numbers = [ctypes.c_int64(), ctypes.c_int64()]
    library.load().sizes(call, *map(ctypes.byref, numbers))
    assert numbers[1].value * 4 < 200e6


@compiled
@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
def test_the_gradient_is_that_of_finite_differences(cell: str) -> None:
    """Along random directions in the space of all weights: the loss changes as the gradient says."""
    kind, options = CELLS[cell]
    torch.manual_seed(0)
    rnn = kind(3, 6, 2, batch_first=True, bidirectional=True, **options)
    x, lengths = torch.randn(5, 8, 3), torch.tensor([8, 3, 5, 1, 8])

    def loss() -> Tensor:
        outputs, final, _ = recur(rnn, x, lengths)
        assert outputs is not None
        return outputs.sin().sum() + final.square().sum()

    loss().backward()  # type: ignore[no-untyped-call]
    step = 3e-3
    for _ in range(4):
        directions = [torch.randn_like(weight) for weight in rnn.parameters()]
        found = []
        with torch.no_grad():
            for sign in (step, -2 * step, step):  # there, to the other side, and back
                for weight, direction in zip(rnn.parameters(), directions, strict=True):
                    weight += sign * direction
                found.append(float(loss()))
        pairs = zip(rnn.parameters(), directions, strict=True)
        expected = sum(float((weight.grad * direction).sum()) for weight, direction in pairs if weight.grad is not None)
        assert (found[0] - found[1]) / (2 * step) == pytest.approx(expected, rel=0.02, abs=0.05)


@compiled
def test_a_gradient_can_be_asked_for_once() -> None:
    rnn = nn.GRU(2, 3, batch_first=True)
    _, final, _ = recur(rnn, torch.randn(2, 4, 2), None)
    final.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="once"):
        final.sum().backward()  # type: ignore[no-untyped-call]


@compiled
@pytest.mark.parametrize("batch_norm", [False, True])
def test_numbers_that_are_not_finite_stop_a_compiled_run_before_its_weights_are_touched(batch_norm: bool) -> None:
    """Neither the weights nor the statistics nor the optimizer's state change if only the gradient is not finite."""
    weighted = {"name": "cross_entropy", "class_weights": "balanced"}
    training = {"optimizer": {"name": "adam"}, "loss": weighted}
    run = make_run(architecture={"batch_norm": batch_norm}, training=training)
    loop = fit(run)
    for _ in range(3):
        next(loop)
    before, state = weights_of(run), copy.deepcopy(run.optimizer.state_dict()["state"])
    assert run.network is not None
    assert run.network.loss.weights is not None
    run.network.loss.weights.fill_(1e30)
    with pytest.raises(Diverged) as caught:
        next(loop)
    assert (caught.value.step, math.isfinite(caught.value.loss)) == (4, True)
    assert same(weights_of(run), before)
    now = run.optimizer.state_dict()["state"]
    assert all(torch.equal(now[place][name], state[place][name]) for place in state for name in state[place])


@compiled
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("cell", list(CELLS))
def test_what_is_not_finite_is_not_hidden(cell: str, bad: float) -> None:
    kind, options = CELLS[cell]
    rnn = kind(2, 3, batch_first=True, **options)
    x = torch.randn(2, 4, 2)
    x[1, 2, 0] = bad
    outputs, _, _ = recur(rnn, x, None)
    wanted, _ = rnn(x)
    assert outputs is not None
    assert torch.equal(outputs.isnan(), wanted.isnan())


TRAINED: dict[str, dict[str, Any]] = {
    "lstm": {"architecture": {"cell": "lstm", "num_layers": 2, "dropout": 0.3}},
    "gru": {"architecture": {"cell": "gru", "bidirectional": True, "pooling": "max", "head_dropout": 0.2}},
    "rnn": {"architecture": {"cell": "rnn", "bidirectional": True, "pooling": "attention", "batch_norm": True}},
    "relu": {"architecture": {"cell": "rnn", "nonlinearity": "relu", "pooling": "mean", "batch_norm": True}},
}


@compiled
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("of_lengths", [False, True])
def test_a_run_is_the_same_with_either_engine(name: str, of_lengths: bool) -> None:
    """Its random draws too: the losses are those of the other engine, but for rounding."""
    arrays = of_many_lengths(classes(24)) if of_lengths else classes(24)
    found = {}
    for engine in ("torch", "compiled"):
        run = make_run(arrays, **TRAINED[name], training={"epochs": 3, "batch_size": 8, "engine": engine})
        assert run.engine.compiled == (engine == "compiled")
        found[engine] = [epoch for epoch in fit(run) if epoch is not None]
    for ours, theirs in zip(found["compiled"], found["torch"], strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"seconds", "samples_per_second"}:
            wanted = theirs[key]
            assert ours[key] == (wanted if wanted is None else pytest.approx(wanted, rel=1e-3, abs=1e-6)), key


# With the usual `eps` adaptive optimizers make whole steps even of a gradient that is nothing but rounding.
OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "adam", "weight_decay": 0.01, "eps": 1e-4},
    {"name": "adamw", "weight_decay": 0.1, "betas": [0.8, 0.95], "eps": 1e-4},
    {"name": "sgd", "lr": 0.1},
    {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"name": "rmsprop", "eps": 1e-4},
    {"name": "rmsprop", "momentum": 0.5, "weight_decay": 0.01, "eps": 1e-4},
]
LOSSES: dict[str, list[dict[str, Any]]] = {
    "classes": [
        {"name": "cross_entropy"},
        {"name": "cross_entropy", "label_smoothing": 0.1},
        {"name": "cross_entropy", "class_weights": [1.0, 5.0, 0.5]},
    ],
    "labels": [{"name": "bce"}, {"name": "bce", "pos_weight": [1.0, 3.0, 0.5]}, {"name": "bce", "pos_weight": 2.0}],
    "series": [{"name": "mse"}, {"name": "mae"}, {"name": "huber", "delta": 0.2}, {"name": "pinball"}],
    "tags": [{"name": "cross_entropy"}, {"name": "cross_entropy", "class_weights": "balanced", "label_smoothing": 0.2}],
    "values": [{"name": "mse"}, {"name": "mae"}, {"name": "huber"}, {"name": "huber", "delta": 0.1}],
}


def labelled() -> Arrays:
    """Sequences with three yes-or-no labels each."""
    arrays = values(columns=3)
    return replace(arrays, y=(arrays.y > 0).astype(np.int64))


def beside(arrays: Arrays, seed: int = 0) -> Arrays:
    """The same sequences with weights, and with numbers of whole sequences, which the head reads."""
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((len(arrays), 2))
    columns = (Column("age"), Column("height"))
    return replace(arrays, weights=rng.uniform(0.5, 3.0, len(arrays)), static=numbers, static_columns=columns)


DATA: dict[str, Callable[[], Arrays]] = {
    "classes": classes,
    "labels": labelled,
    "series": lambda: hourly([30, 30], target=("load", "wind")),
    "tags": tagged,
    "values": values,
}


@st.composite
def specs(draw: st.DrawFn) -> tuple[Arrays, dict[str, Any]]:
    kind = draw(st.sampled_from(sorted(LOSSES)))
    loss = draw(st.sampled_from(LOSSES[kind]))
    arrays = DATA[kind]()
    if kind not in ("tags", "series") and draw(st.booleans()):
        arrays = of_many_lengths(arrays)
    if kind != "series" and draw(st.booleans()):
        arrays = beside(arrays)
    cell = draw(st.sampled_from(("rnn", "lstm", "gru")))
    depth = draw(st.integers(1, 2))
    poolings = ("none",) if kind == "tags" else ("last", "final", "mean", "max", "attention")
    architecture = {
        "cell": cell,
        "hidden_size": draw(st.sampled_from((1, 5, 16))),
        "num_layers": depth,
        "bidirectional": draw(st.booleans()),
        "pooling": draw(st.sampled_from(poolings)),
        "batch_norm": (norm := draw(st.sampled_from((False, False, True)))),
        "dropout": draw(st.sampled_from((0.0, 0.3))) if depth > 1 else 0.0,
        "head_dropout": draw(st.sampled_from((0.0, 0.2))),
    }
    training = {
        # Two or three samples may vary so little that normalising them makes large numbers of rounding errors.
        "batch_size": draw(st.sampled_from((6, 24) if norm else (3, 8, 24))),
        "accumulation_steps": draw(st.sampled_from((1, 1, 2))),
        "loss": loss,
        "optimizer": draw(st.sampled_from(OPTIMIZERS)),
        "max_grad_norm": draw(st.sampled_from((None, 0.05, 1.0))),
        "max_grad_value": draw(st.sampled_from((None, 0.01))),
        "seed": draw(st.integers(0, 1000)),
        "epochs": 5,
    }
    changes: dict[str, Any] = {"architecture": architecture, "training": training}
    if kind == "series":
        changes["task"] = {"name": "forecast", "lookback": 5, "horizon": 2}
        changes["data"] = {"scaling": "standard", "missing": "forward"}  # so that batches vary enough to be normalised
        if loss["name"] == "pinball":
            changes["task"]["quantiles"] = [0.1, 0.5, 0.8]
    return arrays, changes


def run_of(arrays: Arrays, **changes: Any) -> Run:
    """A run of any task that has not begun."""
    spec = forecast_spec(arrays, **changes) if "task" in changes else spec_for(arrays, **changes)
    return Run(spec, preparing.prepare(arrays, spec))


def in_float64(run: Run) -> Run:
    """A run whose every number is one of float64, before its first update."""
    run.model.double()
    run.begin_optimizing()
    run.train_part = replace(run.train_part, x=run.train_part.x.double())
    return run


def five_updates(run: Run) -> Tensor:
    """Makes them, over two epochs if need be; (updates, 2): their losses and gradient norms."""
    torch.manual_seed(0)
    run.model.train()
    made = []
    for epoch in (1, 2, 3):
        pieces, counts = in_pieces(run.order(epoch), run.training.accumulation_steps, None, run.least)
        batches = batches_of(run.train_part, pieces, run.device)
        made += [run.make_update(run, list(islice(batches, count))) for count in counts[: 5 - len(made)]]
    return torch.tensor([update.report[:2].tolist() for update in made], dtype=torch.float64)


@compiled
@given(specs(), st.integers(1, 3))
def test_five_updates_agree_with_autograd_in_float64(spec: tuple[Arrays, dict[str, Any]], threads: int) -> None:
    """Of any network, loss, optimizer and clipping: losses, gradient norms, and the weights after them."""
    arrays, changes = spec
    note(f"{changes}, lengths {arrays.lengths.tolist()}, weights {arrays.weights is not None}")
    mine = run_of(arrays, **changes)
    reference = run_of(arrays, **{**changes, "training": {**changes["training"], "engine": "torch"}})
    in_float64(reference)
    assert (mine.network is None) == (refusal(mine.model) is not None)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = five_updates(mine)
    finally:
        torch.set_num_threads(before)
    wanted = five_updates(reference)
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=1e-5)
    weights = mine.model.state_dict()
    weights.pop("attention.bias", None)  # softmax ignores it, so its gradient is rounding alone
    for name, weight in weights.items():
        torch.testing.assert_close(weight.double(), reference.model.state_dict()[name].double(), rtol=5e-3, atol=2e-4)


@compiled
def test_a_run_is_the_same_bit_for_bit_each_time() -> None:
    histories = []
    for _ in range(2):
        run = make_run(of_many_lengths(classes(24)), **TRAINED["gru"], training={"epochs": 2, "batch_size": 8})
        histories.append([epoch["train_loss"] for epoch in fit(run) if epoch is not None])
        weights = torch.cat([parameter.detach().flatten() for parameter in run.parameters])
        histories.append(weights.tolist())
    assert histories[:2] == histories[2:]


@compiled
@pytest.mark.parametrize(("asked", "goes_on"), [("auto", "torch"), ("compiled", "compiled")])
def test_a_run_that_pytorch_began_goes_on_with_it_bit_for_bit(asked: str, goes_on: str, tmp_path: Path) -> None:
    def begun(engine: str) -> Run:
        changes = {"epochs": 4, "batch_size": 8, "engine": engine}
        return make_run(of_many_lengths(classes(24)), **TRAINED["gru"], training=changes)

    whole = [epoch["train_loss"] for epoch in fit(begun("torch")) if epoch is not None]
    broken = begun("torch")
    first = [epoch["train_loss"] for epoch in islice((each for each in fit(broken) if each is not None), 2)]
    saved = checkpoint.save(broken, tmp_path)
    resumed = begun(asked)
    assert resumed.engine.compiled
    checkpoint.load_into(resumed, tmp_path / saved.files[0].name)
    assert resumed.engine.name.partition(" ")[0] == goes_on
    rest = [epoch["train_loss"] for epoch in fit(resumed) if epoch is not None]
    assert first + rest == (whole if goes_on == "torch" else pytest.approx(whole, rel=1e-4))
    assert ("PyTorch began this run" in resumed.engine.why) == (goes_on == "torch")


# ---- which engine it is


def training(**more: Any) -> Training:
    return Training.model_validate(more)


@compiled
def test_auto_takes_the_compiled_layers_on_a_cpu() -> None:
    engine = choice.choose(training(), CPU)
    assert engine.compiled
    assert engine.name.startswith("compiled (")


@pytest.mark.parametrize(
    ("given_training", "device", "why"),
    [
        ({"engine": "torch"}, "cpu", "the spec says so"),
        ({}, "cuda", "compiled layers are for the CPU"),
        ({"precision": "bf16"}, "cpu", "the spec asks for bf16"),
    ],
)
def test_the_choice_says_why(given_training: dict[str, Any], device: str, why: str) -> None:
    engine = choice.choose(training(**given_training), torch.device(device))
    assert (engine.compiled, engine.name) == (False, "torch")
    assert why in engine.why


@compiled
@pytest.mark.parametrize(
    ("engine", "hidden_size", "threads"),
    [("compiled", 32, 1), ("compiled", 64, 2), ("torch", 64, 1), ("torch", 128, 2)],
)
def test_compiled_layers_use_a_second_thread_sooner(engine: str, hidden_size: int, threads: int) -> None:
    architecture = {"cell": "lstm", "hidden_size": hidden_size}
    spec = spec_for(classes(), architecture=architecture, training={"batch_size": 32, "engine": engine})
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        use_threads(spec, choice.choose(spec.training, CPU))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A machine on which nothing was built."""
    monkeypatch.setattr(library, "path_of", lambda processor: tmp_path / processor)
    library.load.cache_clear()
    yield
    library.load.cache_clear()


@pytest.mark.parametrize(("asked", "level"), [("auto", "info"), ("compiled", "warning")])
def test_a_machine_without_them_trains_with_torch_and_says_so(
    unbuilt: None, tmp_path: Path, asked: str, level: str
) -> None:
    data = tmp_path / "data.npz"
    npz.write(data, classes(12))
    spec = document(training={"epochs": 1, "engine": asked})
    said = list(events({"spec": spec, "data": str(data), "directory": str(tmp_path / "job")}))
    notes = [event for event in said if event.get("type") == "engine"]
    assert [(note["level"], note["data"]) for note in notes] == [(level, {"engine": "torch"})]
    assert "`make setup` builds them" in notes[0]["message"]
    assert json.loads((tmp_path / "job" / "model.json").read_text())["made_with"]["engine"] == "torch"


# ---- building


def test_building_says_what_is_missing(tmp_path: Path) -> None:
    """In an environment of its own, with a compiler that fails, and with none at all."""
    program = f"import sys; sys.prefix = {str(tmp_path)!r}; from services.training.engine.__main__ import main; main()"
    for environment, why in (({"CXX": "false"}, "false failed"), ({"PATH": str(tmp_path)}, "there is no C++ compiler")):
        ran = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        assert why in ran.stdout
        assert "make setup" in ran.stdout


@compiled
def test_building_replaces_what_an_older_version_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(building, "processors", lambda: ["DEFAULT"])
    monkeypatch.setattr(building, "FLAGS", tuple(flag for flag in building.FLAGS if flag != "-O3"))
    folder = building.path_of("DEFAULT").parent
    folder.mkdir(parents=True)
    old, other = folder / "recurrent-0123456789ab-avx2.so", folder / "recurrent-ba9876543210-avx2.so"
    for path in (old, other):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    (made,) = building.build()
    assert made.stat().st_mode & 0o777 == 0o644
    assert set(folder.iterdir()) == {made, other}  # which another checkout may use
