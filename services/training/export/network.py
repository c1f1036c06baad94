"""`services.training.model.SequenceModel` in evaluation mode, as operators."""

from __future__ import annotations

from typing import Any

import numpy as np
from loopline.prediction.document import Architecture
from numpy.typing import NDArray

from services.training.export.graph import Graph, Value, Weights
from services.training.export.preprocessing import Steps

GATES = {"rnn": (0,), "lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
"""Of each cell, where torch has the gates that ONNX has first, second and so on."""
EPSILON = 1e-5
"""That of nn.BatchNorm1d."""


def states_of(architecture: Architecture) -> int:
    """How many rows of hidden_size numbers a state has: h of each layer, then c of each layer of an LSTM."""
    return architecture.num_layers * (2 if architecture.cell == "lstm" else 1)


def answered(g: Graph, weights: Weights, architecture: Architecture, steps: Steps, static: Value | None) -> Value:
    """What the head answers: (batch, output_size), or (batch, time, output_size) with the pooling `none`. `static`
    (batch, static_size)."""
    return continued(g, weights, architecture, steps, static, None)[0]


def continued(
    g: Graph, weights: Weights, architecture: Architecture, steps: Steps, static: Value | None, state: Value | None
) -> tuple[Value, Value]:
    """The same from a state (states, batch, hidden_size) on, and the state after the last step of each one. Without a
    state it begins at zeros, and there is none after it either (an empty name)."""
    if count := len(architecture.embeddings):
        steps = Steps(_looked_up(g, weights, steps.x, count, architecture.patch), steps.lengths)
    outputs, final, after = _recurrent(g, weights, architecture, steps, state)
    pooled = _pooled(g, weights, architecture, steps, outputs, final)
    if architecture.batch_norm:
        pooled = _normalised(g, weights, pooled)
    if static is not None:
        if architecture.pooling == "none":
            ones = g.integers(1)
            shape = g.op("Concat", ones, g.size(steps.x, 1), ones, axis=0)
            static = g.op("Expand", g.unsqueeze(static, 1), shape)
        pooled = g.op("Concat", pooled, static, axis=-1)
    return _linear(g, weights, "head", pooled), "" if state is None else g.op("Concat", *after, axis=0)


def _looked_up(g: Graph, weights: Weights, x: Value, count: int, patch: int) -> Value:
    """x (batch, time, patch * channels) with vectors for the last `count` channels of each step, which are numbers of
    words."""
    if patch > 1:
        shape = g.op("Concat", g.size(x, 0), g.size(x, 1), g.integers(patch, -1), axis=0)
        x = g.op("Reshape", x, shape)
    axis = 3 if patch > 1 else 2
    parts = [g.slice(x, g.integers(0), g.integers(-count), axis)]
    for place in range(count):
        code = g.cast(g.op("Gather", x, g.constant(place - count, np.int64), axis=axis), np.int64)
        parts.append(g.op("Gather", g.constant(weights[f"embeddings.{place}.weight"], np.float32), code))
    found = g.op("Concat", *parts, axis=axis)
    if patch > 1:
        shape = g.op("Concat", g.size(x, 0), g.size(x, 1), g.integers(-1), axis=0)
        found = g.op("Reshape", found, shape)
    return found


def _recurrent(
    g: Graph, weights: Weights, a: Architecture, steps: Steps, state: Value | None
) -> tuple[Value, Value, list[Value]]:
    """Outputs (batch, time, width), the final h of the top layer (batch, width), and the final states (directions,
    batch, hidden_size) each: h of each layer, then c of each layer of an LSTM."""
    directions, hidden = 2 if a.bidirectional else 1, a.hidden_size
    kinds = 2 if a.cell == "lstm" else 1
    lengths = g.cast(steps.lengths, np.int32)
    x = g.op("Transpose", steps.x, perm=[1, 0, 2])
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": "bidirectional" if a.bidirectional else "forward"}
    if a.cell == "gru":
        attributes["linear_before_reset"] = 1  # as torch has it
    if a.cell == "rnn":
        attributes["activations"] = [a.nonlinearity.capitalize()] * directions
    after: list[list[Value]] = []
    for layer in range(a.num_layers):
        arrays = (g.constant(each, np.float32) for each in _weights_of(weights, a, layer))
        places = [layer + kind * a.num_layers for kind in range(kinds)]
        begun = [] if state is None else [g.columns(state, [place], 0) for place in places]
        found, *ends = g.ops(a.cell.upper(), 1 + kinds, x, *arrays, lengths, *begun, **attributes)
        after.append(ends)
        x = g.op("Transpose", found, perm=[0, 2, 1, 3])  # (time, batch, directions, hidden)
        x = g.op("Reshape", x, g.integers(0, 0, directions * hidden))
    final = g.op("Reshape", g.op("Transpose", after[-1][0], perm=[1, 0, 2]), g.integers(-1, directions * hidden))
    states = [each[kind] for kind in range(kinds) for each in after]
    return g.op("Transpose", x, perm=[1, 0, 2]), final, states


def _weights_of(weights: Weights, a: Architecture, layer: int) -> tuple[NDArray[np.float32], ...]:
    """W (directions, gates * hidden, inputs), R (directions, gates * hidden, hidden) and B of one layer."""
    ways = ("", "_reverse") if a.bidirectional else ("",)

    def stacked(name: str) -> NDArray[np.float32]:
        return np.stack([_reordered(weights[f"rnn.{name}_l{layer}{way}"], a.cell) for way in ways])

    bias = np.concatenate((stacked("bias_ih"), stacked("bias_hh")), axis=1)
    return stacked("weight_ih"), stacked("weight_hh"), bias


def _reordered(weight: NDArray[np.float32], cell: str) -> NDArray[np.float32]:
    gates = np.split(weight, len(GATES[cell]))
    return np.concatenate([gates[place] for place in GATES[cell]])


def _pooled(g: Graph, weights: Weights, a: Architecture, steps: Steps, outputs: Value, final: Value) -> Value:
    if a.pooling == "none":
        return outputs
    if a.pooling == "final" or (a.pooling == "last" and not a.bidirectional):
        return final
    if a.pooling == "last":
        ends = g.op("Sub", steps.lengths, g.constant(1, np.int64))
        return g.op("Squeeze", g.at_steps(outputs, g.unsqueeze(ends, 1)), g.integers(1))
    inside = g.unsqueeze(g.inside(steps.lengths, g.size(steps.x, 1)), 2)
    if a.pooling == "mean":
        total = g.op("Where", inside, outputs, g.constant(0, np.float32))
        total = g.op("ReduceSum", total, g.integers(1), keepdims=0)
        return g.op("Div", total, g.cast(g.unsqueeze(steps.lengths, 1), np.float32))
    nothing = g.constant(-np.inf, np.float32)
    if a.pooling == "max":
        return g.op("ReduceMax", g.op("Where", inside, outputs, nothing), g.integers(1), keepdims=0)
    shares = g.op("Softmax", g.op("Where", inside, _linear(g, weights, "attention", outputs), nothing), axis=1)
    return g.op("ReduceSum", g.op("Mul", shares, outputs), g.integers(1), keepdims=0)


def _normalised(g: Graph, weights: Weights, pooled: Value) -> Value:
    mean, variance, weight, bias = (
        weights[f"norm.{name}"].astype(np.float64) for name in ("running_mean", "running_var", "weight", "bias")
    )
    apart = g.op("Sub", pooled, g.constant(mean, np.float32))
    scaled = g.op("Mul", apart, g.constant(weight / np.sqrt(variance + EPSILON), np.float32))
    return g.op("Add", scaled, g.constant(bias, np.float32))


def _linear(g: Graph, weights: Weights, name: str, values: Value) -> Value:
    product = g.op("MatMul", values, g.constant(weights[f"{name}.weight"].T, np.float32))
    return g.op("Add", product, g.constant(weights[f"{name}.bias"], np.float32))
