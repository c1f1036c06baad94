"""The network in plain torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from loopline.prediction.document import Architecture
from loopline.prediction.weights import Weights


class Layers(nn.Module):
    """Parts with the names of the weights in the file."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.architecture = a
        self.embeddings = nn.ModuleList(nn.Embedding(words, size) for words, size in a.embeddings)
        options: dict[str, Any] = {"nonlinearity": a.nonlinearity} if a.cell == "rnn" else {}
        cell = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[a.cell]
        self.rnn = cell(
            a.read_size, a.hidden_size, a.num_layers, batch_first=True, bidirectional=a.bidirectional, **options
        )
        self.attention = nn.Linear(a.width, 1) if a.pooling == "attention" else None
        self.norm = nn.BatchNorm1d(a.width) if a.batch_norm else None
        self.head = nn.Linear(a.width + a.static_size, a.output_size)

    def forward(self, x: Tensor, lengths: Tensor, static: Tensor | None) -> Tensor:
        """x (batch, time, channels), lengths (batch,) on the CPU, static (batch, values)."""
        packed = pack_padded_sequence(self._looked_up(x), lengths, batch_first=True, enforce_sorted=False)
        found, state = self.rnn(packed)
        outputs, _ = pad_packed_sequence(found, batch_first=True, total_length=x.shape[1])
        hidden = state[0] if isinstance(state, tuple) else state
        inside = torch.arange(x.shape[1], device=x.device) < lengths.to(x.device)[:, None]
        if self.architecture.pooling == "none":
            pooled = outputs[inside]
            static = None if static is None else static.repeat_interleave(lengths.to(x.device), dim=0)
        else:
            pooled = self._pooled(outputs, hidden, lengths.to(x.device), inside[:, :, None])
        if self.norm is not None:
            pooled = self.norm(pooled)
        result: Tensor = self.head(pooled if static is None else torch.cat((pooled, static), dim=1))
        return result

    def _looked_up(self, x: Tensor) -> Tensor:
        if not len(self.embeddings):
            return x
        batch, time, _ = x.shape
        steps = x.view(batch, time, self.architecture.patch, -1)
        first = steps.shape[3] - len(self.embeddings)
        vectors = [table(steps[..., first + place].long()) for place, table in enumerate(self.embeddings)]
        return torch.cat((steps[..., :first], *vectors), dim=3).view(batch, time, -1)

    def _pooled(self, outputs: Tensor, hidden: Tensor, lengths: Tensor, valid: Tensor) -> Tensor:
        pooling = self.architecture.pooling
        if pooling == "final":
            return torch.cat((hidden[-2], hidden[-1]), dim=1) if self.architecture.bidirectional else hidden[-1]
        if pooling == "last":
            return outputs[torch.arange(len(outputs), device=outputs.device), lengths - 1]
        if pooling == "mean":
            return outputs.sum(dim=1) / lengths[:, None]  # beyond the end of a sequence outputs are zero
        if pooling == "max":
            return outputs.masked_fill(~valid, -torch.inf).amax(dim=1)
        assert self.attention is not None  # noqa: S101
        shares = self.attention(outputs).masked_fill(~valid, -torch.inf).softmax(dim=1)
        found: Tensor = (shares * outputs).sum(dim=1)
        return found


class Network:
    """As `network.Network`, on a device."""

    def __init__(self, architecture: Architecture, weights: Weights, device: str) -> None:
        """Raises RuntimeError where torch has no such device."""
        self.device = torch.device(device)
        self.layers = Layers(architecture)
        self.layers.load_state_dict(
            {name: torch.from_numpy(np.array(each)) for name, each in weights.items()}, strict=False
        )
        self.layers.to(self.device).eval()

    @torch.inference_mode()
    def outputs(
        self, x: NDArray[np.float32], lengths: NDArray[np.int64], static: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        given = None if static is None else torch.from_numpy(static).to(self.device)
        found = self.layers(torch.from_numpy(x).to(self.device), torch.from_numpy(lengths), given)
        result: NDArray[np.float32] = found.float().cpu().numpy()
        return result
