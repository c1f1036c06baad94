"""SequenceModel: variable lengths right by construction, poolings, and how weights start."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from services.training.model import SequenceModel
from services.training.spec import parse

FEATURES, HIDDEN, OUTPUTS = 3, 5, 2
LENGTHS = torch.tensor([4, 9, 1, 6, 9])
CELLS = ("rnn", "lstm", "gru")
POOLINGS = ("last", "final", "mean", "max", "attention")
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
NEVERTHELESS = 1e-6
"""How far apart the same sums lie in another order of batches, in float32 numbers of about 1."""

every_network = pytest.mark.parametrize(
    ("cell", "bidirectional", "pooling", "layers"), list(itertools.product(CELLS, (False, True), POOLINGS, (1, 2)))
)
every_recurrence = pytest.mark.parametrize(
    ("cell", "bidirectional", "layers"), list(itertools.product(CELLS, (False, True), (1, 2)))
)


def model_of(seed: int = 0, **architecture: Any) -> SequenceModel:
    document = {"architecture": {"hidden_size": HIDDEN, **architecture}, "data": {"dataset": "d"}}
    torch.manual_seed(seed)
    return SequenceModel(parse(document).architecture, FEATURES, OUTPUTS)


def padded_batch(padding: float = 0.0) -> Tensor:
    """Sequences of LENGTHS, with `padding` after their ends."""
    x = torch.randn(len(LENGTHS), int(LENGTHS.max()), FEATURES, generator=torch.Generator().manual_seed(5))
    return torch.where(torch.arange(x.shape[1])[None, :, None] < LENGTHS[:, None, None], x, padding)


def gradients_of(model: SequenceModel, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@every_network
def test_a_sequence_gives_the_same_output_alone_or_padded_beside_a_longer_one(
    cell: str, bidirectional: bool, pooling: str, layers: int
) -> None:
    model = model_of(cell=cell, bidirectional=bidirectional, pooling=pooling, num_layers=layers).eval()
    x = padded_batch()
    together = model(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model(x[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=NEVERTHELESS)


@every_network
def test_padding_changes_no_gradient(cell: str, bidirectional: bool, pooling: str, layers: int) -> None:
    model = model_of(cell=cell, bidirectional=bidirectional, pooling=pooling, num_layers=layers)
    x = padded_batch()
    together = gradients_of(model, model(x, LENGTHS).square().sum())
    alone = sum(model(x[row : row + 1, :length]).square().sum() for row, length in enumerate(LENGTHS.tolist()))
    apart = gradients_of(model, alone)  # type: ignore[arg-type]
    assert together.keys() == apart.keys()
    for name in apart:
        torch.testing.assert_close(together[name], apart[name], rtol=1e-5, atol=5 * NEVERTHELESS)


@every_network
def test_what_stands_in_the_padding_changes_nothing(cell: str, bidirectional: bool, pooling: str, layers: int) -> None:
    model = model_of(cell=cell, bidirectional=bidirectional, pooling=pooling, num_layers=layers)
    outcomes = []
    for padding in (0.0, 1e6, -1e6):
        outputs = model(padded_batch(padding), LENGTHS)
        outcomes.append({"": outputs.detach(), **gradients_of(model, outputs.square().sum())})
    for other in outcomes[1:]:
        assert all(torch.equal(other[name], outcomes[0][name]) for name in outcomes[0])


@every_recurrence
def test_outputs_and_final_states_are_those_of_a_packed_sequence(cell: str, bidirectional: bool, layers: int) -> None:
    model = model_of(cell=cell, bidirectional=bidirectional, num_layers=layers)
    x = padded_batch()
    outputs, final = model.recur(x, LENGTHS)
    packed = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    packed_outputs, state = model.rnn(packed)
    expected, _ = pad_packed_sequence(packed_outputs, batch_first=True)
    hidden = state[0] if isinstance(state, tuple) else state
    expected_final = torch.cat((hidden[-2], hidden[-1]), dim=1) if bidirectional else hidden[-1]
    valid = torch.arange(x.shape[1]) < LENGTHS[:, None]
    torch.testing.assert_close(outputs[valid], expected[valid], rtol=0, atol=NEVERTHELESS)
    torch.testing.assert_close(final, expected_final, rtol=0, atol=NEVERTHELESS)


@every_recurrence
def test_the_layout_for_gpus_gives_the_same(cell: str, bidirectional: bool, layers: int) -> None:
    model = model_of(cell=cell, bidirectional=bidirectional, num_layers=layers)
    x = padded_batch()
    (outputs, final), (packed, packed_final) = model.recur(x, LENGTHS), model._recur_packed(x, LENGTHS)
    valid = torch.arange(x.shape[1]) < LENGTHS[:, None]
    torch.testing.assert_close(outputs[valid], packed[valid], rtol=0, atol=NEVERTHELESS)
    torch.testing.assert_close(final, packed_final, rtol=0, atol=NEVERTHELESS)


@every_recurrence
def test_layer_by_layer_as_on_gpus_in_deterministic_mode_gives_the_same(
    cell: str, bidirectional: bool, layers: int
) -> None:
    model = model_of(cell=cell, bidirectional=bidirectional, num_layers=layers)
    for lengths in (LENGTHS, None):
        x = padded_batch()
        wanted, last = model._recur(x, lengths)
        outputs, final = model._recur_layers(x, lengths)
        valid = torch.arange(x.shape[1]) < (LENGTHS if lengths is not None else torch.tensor([x.shape[1]]))[:, None]
        torch.testing.assert_close(outputs[valid.expand(len(x), -1)], wanted[valid.expand(len(x), -1)])
        torch.testing.assert_close(final, last)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [LENGTHS, None])
def test_layer_by_layer_dropout_comes_from_the_random_stream_that_checkpoints_hold(
    bidirectional: bool, lengths: Tensor | None
) -> None:
    model = model_of(cell="gru", num_layers=2, bidirectional=bidirectional, dropout=0.5).train()
    x, state = padded_batch(), torch.get_rng_state()
    first, second = model._recur_layers(x, lengths)[1], model._recur_layers(x, lengths)[1]
    torch.set_rng_state(state)
    assert torch.equal(model._recur_layers(x, lengths)[1], first)
    assert not torch.equal(first, second)


@every_recurrence
def test_a_packed_sequence_without_the_module_gives_the_same(cell: str, bidirectional: bool, layers: int) -> None:
    model = model_of(cell=cell, bidirectional=bidirectional, num_layers=layers)
    packed = pack_padded_sequence(padded_batch(), LENGTHS, batch_first=True, enforce_sorted=False)
    wanted, state = model.rnn(packed)
    outputs, hidden = model._call_packed(packed)
    assert torch.equal(outputs.data, wanted.data)
    assert torch.equal(hidden, state[0] if isinstance(state, tuple) else state)


@every_recurrence
def test_in_bf16_as_on_gpus_the_result_is_near_and_gradients_come_in_the_weights_type(
    cell: str, bidirectional: bool, layers: int
) -> None:
    model = model_of(cell=cell, bidirectional=bidirectional, num_layers=layers)
    for lengths in (LENGTHS, None):
        _, wanted = model._recur(padded_batch(), lengths)
        recur = model._recur_full if lengths is None else lambda x: model._recur_packed(x, LENGTHS)
        _, final = recur(padded_batch().bfloat16())
        assert final.dtype == torch.bfloat16
        torch.testing.assert_close(final.float(), wanted, atol=3e-2, rtol=0)  # eight bits, nine steps
        gradients = gradients_of(model, final.float().sum())
        assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
        assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_relu_network_is_torchs_own(bidirectional: bool) -> None:
    model = model_of(cell="rnn", nonlinearity="relu", bidirectional=bidirectional)
    assert model.rnn.nonlinearity == "relu"
    x = padded_batch()
    for row, length in enumerate(LENGTHS.tolist()):
        expected = model.head(model.rnn(x[row : row + 1, :length])[0][:, -1])
        torch.testing.assert_close(model(x, LENGTHS)[row : row + 1], expected, rtol=0, atol=NEVERTHELESS)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pooling", ["last", "mean", "attention"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_relu_state_that_overflows_after_the_end_reaches_neither_outputs_nor_gradients(
    bidirectional: bool, layers: int, pooling: str, precision: torch.dtype
) -> None:
    model = model_of(cell="rnn", nonlinearity="relu", bidirectional=bidirectional, num_layers=layers, pooling=pooling)
    with torch.no_grad():
        for name, parameter in model.rnn.named_parameters():
            if name.startswith("weight_hh"):
                parameter.copy_(torch.eye(HIDDEN) + 0.1)  # grows by half at every step
    found = []
    for x in (padded_batch(), nn.functional.pad(padded_batch(), (0, 0, 0, 400))):
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            outputs = model(x, LENGTHS).float()
        found.append({"outputs": outputs.detach(), **gradients_of(model, outputs.square().mean())})
    rough = 1e-5 if precision == torch.float32 else 0.1  # where it overflows it is computed in float32
    largest = max(float(expected.abs().max()) for expected in found[0].values())
    for name, expected in found[0].items():
        assert bool(found[1][name].isfinite().all()), name
        torch.testing.assert_close(found[1][name], expected, rtol=rough, atol=rough * largest)


def expected_pooled(model: SequenceModel, outputs: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    """Each pooling by hand, of one sequence: outputs (time, width), hidden (directions, hidden_size)."""
    assert model.attention is not None
    attention = (outputs @ model.attention.weight[0] + model.attention.bias).exp()
    return {
        "last": outputs[-1],
        "final": hidden.flatten(),
        "mean": outputs.sum(dim=0) / len(outputs),
        "max": outputs.max(dim=0).values,
        "attention": (attention[:, None] * outputs).sum(dim=0) / attention.sum(),
    }


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings_are_what_their_names_say(pooling: str, bidirectional: bool) -> None:
    model = model_of(cell="gru", bidirectional=bidirectional, pooling=pooling)
    with_attention = model_of(cell="gru", bidirectional=bidirectional, pooling="attention")
    x = padded_batch()
    pooled = model.pool(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        outputs, hidden = model.rnn(x[row : row + 1, :length])
        expected = expected_pooled(with_attention, outputs[0], hidden[:, 0])[pooling]
        torch.testing.assert_close(pooled[row], expected, rtol=0, atol=NEVERTHELESS)


def test_last_and_final_differ_only_where_a_direction_reads_backwards() -> None:
    x = padded_batch()
    one_way = {pooling: model_of(cell="lstm", pooling=pooling).pool(x, LENGTHS) for pooling in ("last", "final")}
    assert torch.equal(one_way["last"], one_way["final"])
    both = {p: model_of(cell="lstm", pooling=p, bidirectional=True).pool(x, LENGTHS) for p in ("last", "final")}
    assert torch.equal(both["last"][:, :HIDDEN], both["final"][:, :HIDDEN])
    assert not torch.equal(both["last"][:, HIDDEN:], both["final"][:, HIDDEN:])


def test_padding_of_zero_never_wins_the_maximum() -> None:
    model = model_of(cell="rnn", pooling="max")
    with torch.no_grad():
        for name, parameter in model.rnn.named_parameters():
            parameter.fill_(-2.0 if name == "bias_ih_l0" else 0.0)
    pooled = model.pool(padded_batch(), LENGTHS)
    torch.testing.assert_close(pooled, torch.full_like(pooled, math.tanh(-2.0)))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_dropout_between_layers_is_for_training_and_comes_from_the_random_stream(bidirectional: bool) -> None:
    model = model_of(cell="gru", num_layers=2, dropout=0.5, bidirectional=bidirectional)
    x = padded_batch()
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        seen.append(model(x, LENGTHS))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    model.eval()
    assert torch.equal(model(x, LENGTHS), model(x, LENGTHS))


def test_dropout_between_layers_drops_as_many_as_it_says_and_keeps_the_mean() -> None:
    model = model_of(cell="rnn", num_layers=2, dropout=0.25, bidirectional=True, hidden_size=50)
    with torch.no_grad():  # the first layer answers tanh(1) always, the second hands its inputs on, made small
        for name, parameter in model.rnn.named_parameters():
            parameter.fill_(1.0 if name.startswith("bias_ih_l0") else 0.0)
        model.rnn.weight_ih_l1.copy_(torch.eye(50, 100) * 1e-3)
    torch.manual_seed(0)
    outputs, _ = model.recur(torch.zeros(200, 4, FEATURES), torch.tensor([4] * 100 + [2] * 100))
    kept = outputs[:100, :, :50] / 1e-3 / math.tanh(1.0)
    assert float((kept == 0).float().mean()) == pytest.approx(0.25, abs=0.02)  # of 20,000 draws
    torch.testing.assert_close(kept[kept > 0], torch.full_like(kept[kept > 0], 1 / 0.75), rtol=1e-4, atol=0)


def test_head_dropout_and_norm_stand_between_pooling_and_head() -> None:
    model = model_of(cell="gru", batch_norm=True, head_dropout=0.5).train()
    x = padded_batch()
    torch.manual_seed(4)
    outputs = model(x, LENGTHS)
    norm = nn.BatchNorm1d(HIDDEN)
    torch.manual_seed(4)
    expected = model.head(nn.functional.dropout(norm(model.pool(x, LENGTHS)), 0.5))
    assert torch.equal(outputs, expected)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_parameters_carry_torchs_names(bidirectional: bool) -> None:
    model = model_of(
        cell="lstm", num_layers=2, bidirectional=bidirectional, batch_norm=True, head_dropout=0.1, pooling="attention"
    )
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ways = ("", "_reverse") if bidirectional else ("",)
    rnn = [f"rnn.{kind}_l{layer}{way}" for layer in (0, 1) for way in ways for kind in kinds]
    norm = [f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    assert list(model.state_dict()) == [
        *rnn, "attention.weight", "attention.bias", *norm, "head.weight", "head.bias",
    ]  # fmt: skip


def recurrent(model: SequenceModel, kind: str) -> list[Tensor]:
    """Every gate's part of every parameter of a kind."""
    gates = GATES[model.architecture.cell]
    return [
        gate
        for name, parameter in model.rnn.named_parameters()
        if name.startswith(kind)
        for gate in parameter.detach().chunk(gates)
    ]


@pytest.mark.parametrize("cell", CELLS)
def test_orthogonal_makes_each_gates_recurrent_matrix_orthogonal(cell: str) -> None:
    model = model_of(cell=cell, init="orthogonal", num_layers=2, bidirectional=True)
    matrices = recurrent(model, "weight_hh")
    assert len(matrices) == 4 * GATES[cell]
    for matrix in matrices:
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(HIDDEN), rtol=0, atol=1e-5)
    assert not torch.equal(matrices[0], matrices[1])


@pytest.mark.parametrize("cell", CELLS)
def test_xavier_draws_each_gate_within_glorots_bound(cell: str) -> None:
    model = model_of(cell=cell, init="xavier", hidden_size=40)
    for kind, inputs in (("weight_ih", FEATURES), ("weight_hh", 40)):
        bound = math.sqrt(6 / (inputs + 40))
        for gate in recurrent(model, kind):
            assert 0.9 * bound < float(gate.abs().max()) <= bound  # 120 draws or more come near it


@pytest.mark.parametrize("cell", CELLS)
def test_kaiming_draws_each_gate_within_hes_bound(cell: str) -> None:
    model = model_of(cell=cell, init="kaiming", hidden_size=40)
    for kind, inputs in (("weight_ih", FEATURES), ("weight_hh", 40)):
        bound = math.sqrt(6 / inputs)
        for gate in recurrent(model, kind):
            assert 0.9 * bound < float(gate.abs().max()) <= bound


def test_identity_starts_a_relu_network_as_a_sum() -> None:
    model = model_of(cell="rnn", nonlinearity="relu", init="identity")
    (recurrence,) = recurrent(model, "weight_hh")
    assert torch.equal(recurrence, torch.eye(HIDDEN))
    (inputs,) = recurrent(model, "weight_ih")
    assert 0 < float(inputs.abs().max()) < 0.01


@pytest.mark.parametrize("init", ["xavier", "orthogonal", "kaiming"])
def test_a_named_start_has_biases_of_zero_and_the_usual_head(init: str) -> None:
    model, usual = model_of(cell="lstm", init=init), model_of(cell="lstm")
    assert all(not bias.any() for bias in recurrent(model, "bias"))
    assert torch.equal(model.head.weight, usual.head.weight)


@pytest.mark.parametrize("init", ["default", "orthogonal"])
def test_the_forget_gates_total_bias_is_what_was_asked_for(init: str) -> None:
    model = model_of(cell="lstm", init=init, forget_gate_bias=1.5, num_layers=2, bidirectional=True)
    usual = model_of(cell="lstm", init=init, num_layers=2, bidirectional=True)
    for name, parameter in model.rnn.named_parameters():
        expected = usual.rnn.get_parameter(name).clone()
        if name.startswith("bias"):
            twin = model.rnn.get_parameter(name.replace("bias_ih", "bias_hh"))
            if name.startswith("bias_ih"):
                total = (parameter + twin).detach()[HIDDEN : 2 * HIDDEN]
                assert torch.equal(total, torch.full((HIDDEN,), 1.5))
            expected[HIDDEN : 2 * HIDDEN] = parameter[HIDDEN : 2 * HIDDEN]  # all but the forget gate is as usual
        assert torch.equal(parameter, expected)


def test_the_same_seed_starts_the_same_network() -> None:
    for init in ("default", "xavier", "orthogonal", "kaiming"):
        first, second, other = (model_of(seed, cell="gru", init=init).state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not torch.equal(first["rnn.weight_hh_l0"], other["rnn.weight_hh_l0"])
