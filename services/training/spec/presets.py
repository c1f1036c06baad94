"""The named architectures: each a fragment of a spec, any field of which the spec may override.

Each is numerically the network of the same name in the PyTorch RNN tutorial that Loopline grew from: the same
parameters, the same initial draw from the seed, the same output. All start from a zero state and send the last time
step's output through a linear layer. The sizes of input and output come from the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A fragment of a spec and a sentence that says what it is."""

    description: str
    fragment: dict[str, Any]


def _preset(description: str, **architecture: Any) -> Preset:
    return Preset(description, {"architecture": architecture})


PRESETS: dict[str, Preset] = {
    "basic_rnn": _preset("One layer of nn.RNN with tanh.", cell="rnn", nonlinearity="tanh", hidden_size=128),
    "basic_lstm": _preset("One layer of nn.LSTM.", cell="lstm", hidden_size=128),
    "basic_gru": _preset("One layer of nn.GRU.", cell="gru", hidden_size=128),
    "bi_lstm": _preset(
        "A bidirectional LSTM, linear over both directions.", cell="lstm", hidden_size=128, bidirectional=True
    ),
    "sequence_classifier": _preset("An LSTM that classifies whole sequences.", cell="lstm", hidden_size=128),
    "two_layer_lstm": _preset("Two layers of LSTM, 256 wide.", cell="lstm", hidden_size=256, num_layers=2),
    "dropout_gru": _preset(
        "Two layers of GRU with dropout between the layers only.",
        cell="gru",
        hidden_size=128,
        num_layers=2,
        dropout=0.3,
    ),
    "bi_rnn_with_bn": _preset(
        "A bidirectional tanh RNN with batch normalisation before the linear layer.",
        cell="rnn",
        nonlinearity="tanh",
        hidden_size=128,
        bidirectional=True,
        batch_norm=True,
    ),
    "dropout_sequence_classifier": _preset(
        "An LSTM with dropout between its output and the linear layer.", cell="lstm", hidden_size=128, head_dropout=0.5
    ),
}
