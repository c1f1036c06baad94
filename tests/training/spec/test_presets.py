"""The presets against the networks of the tutorial, written by hand in plain PyTorch: equal, not close."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from services.training.model import SequenceModel
from services.training.spec import parse
from services.training.spec.presets import PRESETS

FEATURES, OUTPUTS = 4, 3


class ByHand(nn.Module):
    """The last time step of a recurrent network through a linear layer, as the tutorial has it."""

    def __init__(
        self, rnn: Callable[[], nn.RNNBase], width: int, *, batch_norm: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.rnn = rnn()
        if batch_norm:
            self.norm = nn.BatchNorm1d(width)
        if dropout:
            self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x)
        out = out[:, -1, :]
        if hasattr(self, "norm"):
            out = self.norm(out)
        if hasattr(self, "dropout"):
            out = self.dropout(out)
        return self.head(out)


BY_HAND: dict[str, Callable[[], ByHand]] = {
    "basic_rnn": lambda: ByHand(lambda: nn.RNN(FEATURES, 128, batch_first=True), 128),
    "basic_lstm": lambda: ByHand(lambda: nn.LSTM(FEATURES, 128, batch_first=True), 128),
    "basic_gru": lambda: ByHand(lambda: nn.GRU(FEATURES, 128, batch_first=True), 128),
    "bi_lstm": lambda: ByHand(lambda: nn.LSTM(FEATURES, 128, batch_first=True, bidirectional=True), 256),
    "sequence_classifier": lambda: ByHand(lambda: nn.LSTM(FEATURES, 128, batch_first=True), 128),
    "two_layer_lstm": lambda: ByHand(lambda: nn.LSTM(FEATURES, 256, 2, batch_first=True), 256),
    "dropout_gru": lambda: ByHand(lambda: nn.GRU(FEATURES, 128, 2, batch_first=True, dropout=0.3), 128),
    "bi_rnn_with_bn": lambda: ByHand(
        lambda: nn.RNN(FEATURES, 128, batch_first=True, bidirectional=True), 256, batch_norm=True
    ),
    "dropout_sequence_classifier": lambda: ByHand(lambda: nn.LSTM(FEATURES, 128, batch_first=True), 128, dropout=0.5),
}


def built(name: str, seed: int) -> SequenceModel:
    architecture = parse({"preset": name, "data": {"dataset": "d"}}).architecture
    torch.manual_seed(seed)
    return SequenceModel(architecture, FEATURES, OUTPUTS)


def by_hand(name: str, seed: int) -> ByHand:
    torch.manual_seed(seed)
    return BY_HAND[name]()


def sequences() -> Tensor:
    return torch.randn(5, 7, FEATURES, generator=torch.Generator().manual_seed(3))


def test_every_preset_is_written_by_hand_here() -> None:
    assert list(BY_HAND) == list(PRESETS)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_preset_has_the_parameters_of_the_network_by_hand(name: str) -> None:
    model, plain = built(name, 7), by_hand(name, 7)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [key for key, _ in model.named_parameters()] == [key for key, _ in plain.named_parameters()]
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in plain.state_dict().items())


@pytest.mark.parametrize("name", BY_HAND)
def test_a_preset_takes_as_much_of_the_random_stream_as_the_network_by_hand(name: str) -> None:
    built(name, 7)
    after = torch.get_rng_state()
    by_hand(name, 7)
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize("name", BY_HAND)
def test_a_preset_gives_the_output_of_the_network_by_hand(name: str) -> None:
    model, plain = built(name, 1).eval(), by_hand(name, 1).eval()
    x = sequences()
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("name", BY_HAND)
def test_a_preset_trains_as_the_network_by_hand_dropout_and_all(name: str) -> None:
    model, plain = built(name, 2).train(), by_hand(name, 2).train()
    x = sequences()
    for network in (model, plain):
        torch.manual_seed(11)
        network.outputs = network(x)
        network.outputs.square().sum().backward()
    assert torch.equal(model.outputs, plain.outputs)
    assert all(
        torch.equal(model.state_dict()[key], tensor) for key, tensor in plain.state_dict().items()
    )  # of norm too
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    for key, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-6, atol=1e-6)  # sums in another order


@pytest.mark.parametrize("name", BY_HAND)
def test_lengths_that_are_all_full_change_nothing(name: str) -> None:
    model = built(name, 1).eval()
    x = sequences()
    torch.testing.assert_close(model(x, torch.full((5,), 7)), model(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_described_in_a_sentence(name: str) -> None:
    assert PRESETS[name].description.endswith(".")
