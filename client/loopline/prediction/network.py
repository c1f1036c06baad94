"""The network in numpy, in float32: whole sequences, and one step at a time.

Formulas: torch.nn.RNN, LSTM and GRU. Steps after the end of a sequence cannot reach those before it, so padding needs
no care forwards; backwards, sequences are mirrored within their lengths.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.prediction.document import Architecture
from loopline.prediction.weights import Weights

Floats = NDArray[np.float32]
State = tuple[Floats, ...]
"""h, or h and c of an LSTM: (batch, hidden_size) each."""
EPSILON = np.float32(1e-5)
"""What torch.nn.BatchNorm1d adds to a variance."""


@dataclass(frozen=True)
class Network:
    """A recurrent network, a pooling over time, and a linear head."""

    architecture: Architecture
    weights: Weights

    def outputs(self, x: Floats, lengths: NDArray[np.int64], static: Floats | None) -> Floats:
        """What the head gives for x (batch, time, channels): (batch, output_size), or with the pooling `none` (valid
        steps, output_size). `static` is (batch, values)."""
        a = self.architecture
        with np.errstate(over="ignore", invalid="ignore"):  # beyond the end of a sequence
            outputs, final = self._recurred(self.looked_up(x), lengths)
        inside = np.arange(x.shape[1]) < lengths[:, None]
        if a.pooling == "none":
            beside = None if static is None else np.repeat(static, lengths, axis=0)
            return self.answered(outputs[inside], beside)
        return self.answered(self._pooled(outputs, final, lengths, inside), static)

    def looked_up(self, x: Floats) -> Floats:
        """x (batch, time, channels) with the vectors of words in the place of their numbers."""
        a = self.architecture
        if not a.embeddings:
            return x
        steps = x.reshape(*x.shape[:2], a.patch, -1)
        first = steps.shape[3] - len(a.embeddings)
        vectors = [
            self.weights[f"embeddings.{place}.weight"][steps[..., first + place].astype(np.int64)]
            for place in range(len(a.embeddings))
        ]
        found: Floats = np.concatenate((steps[..., :first], *vectors), axis=3).reshape(*x.shape[:2], -1)
        return found

    def answered(self, pooled: Floats, static: Floats | None) -> Floats:
        """What the head makes of what is pooled (rows, width)."""
        w = self.weights
        if self.architecture.batch_norm:
            scale = w["norm.weight"] / np.sqrt(w["norm.running_var"] + EPSILON)
            pooled = np.asarray((pooled - w["norm.running_mean"]) * scale + w["norm.bias"], np.float32)
        if static is not None:
            pooled = np.concatenate((pooled, static), axis=1)
        return np.asarray(pooled @ w["head.weight"].T + w["head.bias"], np.float32)

    def scores(self, outputs: Floats) -> Floats:
        """Before the softmax, how much attention each output (..., width) gets: (...)."""
        found: Floats = outputs @ self.weights["attention.weight"][0] + self.weights["attention.bias"][0]
        return found

    def _pooled(self, outputs: Floats, final: Floats, lengths: NDArray[np.int64], inside: NDArray[np.bool_]) -> Floats:
        a, valid = self.architecture, inside[:, :, None]
        if a.pooling == "final":
            return final
        if a.pooling == "last":
            return outputs[np.arange(len(outputs)), lengths - 1]
        if a.pooling == "max":
            return np.asarray(np.where(valid, outputs, -np.inf).max(axis=1), np.float32)
        kept = np.where(valid, outputs, np.float32(0))
        if a.pooling == "mean":
            return np.asarray(kept.sum(axis=1) / lengths[:, None], np.float32)
        scores = np.where(inside, self.scores(kept), -np.inf)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return np.asarray((shares[:, :, None] * kept).sum(axis=1), np.float32)

    def _recurred(self, x: Floats, lengths: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Outputs (batch, time, width), right at valid steps, and the final state of the top layer (batch, width)."""
        rows = np.arange(len(x))
        if not self.architecture.bidirectional:
            for layer in range(self.architecture.num_layers):
                x = self._layer(x, f"l{layer}")
            return x, x[rows, lengths - 1]
        steps = np.arange(x.shape[1])
        mirror = lengths[:, None] - 1 - steps
        mirror = np.where(mirror >= 0, mirror, steps)[:, :, None]
        final = x[:, 0]
        for layer in range(self.architecture.num_layers):
            forwards = self._layer(x, f"l{layer}")
            backwards = self._layer(np.take_along_axis(x, mirror, axis=1), f"l{layer}_reverse")
            final = np.concatenate((forwards[rows, lengths - 1], backwards[rows, lengths - 1]), axis=1)
            x = np.concatenate((forwards, np.take_along_axis(backwards, mirror, axis=1)), axis=2)
        return x, final

    def _layer(self, x: Floats, end: str) -> Floats:
        """One layer in one direction: (batch, time, hidden_size)."""
        w = self.weights
        read = x @ w[f"rnn.weight_ih_{end}"].T + w[f"rnn.bias_ih_{end}"]
        found = np.empty((*x.shape[:2], self.architecture.hidden_size), np.float32)
        state = self.zeros(len(x))
        for step in range(x.shape[1]):
            state = self._stepped(read[:, step], state, end)
            found[:, step] = state[0]
        return found

    def zeros(self, batch: int) -> State:
        h = np.zeros((batch, self.architecture.hidden_size), np.float32)
        return (h, h) if self.architecture.cell == "lstm" else (h,)

    def stepped(self, x: Floats, states: tuple[State, ...]) -> tuple[Floats, tuple[State, ...]]:
        """One step (batch, channels) through the layers of a network of one direction: the output (batch,
        hidden_size), and the states of the layers after it."""
        after = []
        w = self.weights
        for layer, state in enumerate(states):
            read = x @ w[f"rnn.weight_ih_l{layer}"].T + w[f"rnn.bias_ih_l{layer}"]
            after.append(self._stepped(read, state, f"l{layer}"))
            x = after[-1][0]
        return x, tuple(after)

    def _stepped(self, read: Floats, state: State, end: str) -> State:
        """`read` (batch, gates * hidden_size) is what the gates get from the input."""
        w, a = self.weights, self.architecture
        back = state[0] @ w[f"rnn.weight_hh_{end}"].T + w[f"rnn.bias_hh_{end}"]
        if a.cell == "rnn":
            both = read + back
            return (np.tanh(both) if a.nonlinearity == "tanh" else np.maximum(both, 0),)
        if a.cell == "lstm":
            i, f, g, o = np.split(read + back, 4, axis=1)
            c = _sigmoid(f) * state[1] + _sigmoid(i) * np.tanh(g)
            return _sigmoid(o) * np.tanh(c), c
        (r, z, n), (r_back, z_back, n_back) = np.split(read, 3, axis=1), np.split(back, 3, axis=1)
        z = _sigmoid(z + z_back)
        n = np.tanh(n + _sigmoid(r + r_back) * n_back)
        return ((1 - z) * n + z * state[0],)


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), np.float32)


@dataclass
class Pooled:
    """What is pooled of the steps so far, one sequence at a time: (1, width)."""

    network: Network
    count: int = 0
    kept: dict[str, Any] = field(default_factory=dict)

    def add(self, output: Floats) -> None:
        """Takes the output of one more step, (1, width)."""
        pooling, kept = self.network.architecture.pooling, self.kept
        self.count += 1
        if pooling == "mean":
            kept["sum"] = kept.get("sum", 0.0) + output.astype(np.float64)
        elif pooling == "max":
            kept["max"] = np.maximum(kept.get("max", -np.inf), output)
        elif pooling == "attention":  # the softmax of all steps so far, as Milakov and Gimelshein (2018) compute it
            score = self.network.scores(output).astype(np.float64)[:, None]
            most = np.maximum(kept.get("most", -np.inf), score)
            before, now = np.exp(kept.get("most", -np.inf) - most), np.exp(score - most)
            kept["total"] = kept.get("total", 0.0) * before + now
            kept["sum"] = kept.get("sum", 0.0) * before + now * output
            kept["most"] = most
        else:
            kept["last"] = output

    @property
    def value(self) -> Floats:
        pooling, kept = self.network.architecture.pooling, self.kept
        if pooling == "mean":
            return np.asarray(kept["sum"] / self.count, np.float32)
        if pooling == "attention":
            return np.asarray(kept["sum"] / kept["total"], np.float32)
        return np.asarray(kept["max" if pooling == "max" else "last"], np.float32)
