"""From what the head answers to probabilities, labels, or values in the unit of the data.

`gaps` (batch,) bool says which sequences have missing values that nothing fills. They get NaN and NO_LABEL.
"""

from __future__ import annotations

import numpy as np

from services.training.export.graph import Graph, Shape, Value

NO_LABEL = -1


def of_classes(g: Graph, outputs: Value, gaps: Value, classes: int) -> None:
    """One class a sequence, of outputs (batch, classes)."""
    label = g.op("ArgMax", outputs, axis=1, keepdims=0)
    _give(g, "probabilities", g.op("Softmax", outputs, axis=1), gaps, ("batch", classes))
    _give_labels(g, "label", label, gaps, ("batch",))


def of_two_classes(g: Graph, outputs: Value, gaps: Value) -> None:
    """The same, of outputs (batch, 1) that are the logits of the second class."""
    both = g.op("Concat", _sigmoid(g, g.op("Neg", outputs)), _sigmoid(g, outputs), axis=1)
    is_second = g.op("Greater", g.op("Squeeze", outputs, g.integers(1)), g.constant(0, np.float32))
    _give(g, "probabilities", both, gaps, ("batch", 2))
    _give_labels(g, "label", g.cast(is_second, np.int64), gaps, ("batch",))


def of_labels(g: Graph, outputs: Value, gaps: Value, labels: int) -> None:
    """The probability of each yes, of outputs (batch, labels)."""
    _give(g, "probabilities", _sigmoid(g, outputs), gaps, ("batch", labels))


def of_steps(g: Graph, outputs: Value, gaps: Value, classes: int) -> None:
    """A class for each step, of outputs (batch, time, classes)."""
    _give(g, "probabilities", g.op("Softmax", outputs, axis=2), gaps, ("batch", "time", classes))
    _give_labels(g, "labels", g.op("ArgMax", outputs, axis=2, keepdims=0), gaps, ("batch", "time"))


def of_next_step(g: Graph, outputs: Value, words: int) -> None:
    """What comes next, of outputs (batch, words). A text has no gaps."""
    g.output("probabilities", g.op("Softmax", outputs, axis=1), np.float32, ("batch", words))


def of_values(g: Graph, outputs: Value, gaps: Value, shift: Value, scale: Value, shape: Shape) -> None:
    """Values in the unit of the data, in float64. `outputs` has this shape; shift and scale are float64 and of a shape
    that fits it."""
    values = g.op("Add", g.op("Mul", g.cast(outputs, np.float64), scale), shift)
    values = _or(g, gaps, values, g.constant(np.nan, np.float64), len(shape))
    g.output("values", values, np.float64, shape)


def _sigmoid(g: Graph, x: Value) -> Value:
    """1 / (1 + exp(-x)). The operator Sigmoid of ONNX Runtime is wrong by 7% at -14, and gives 0 at -20."""
    return g.op("Reciprocal", g.op("Add", g.op("Exp", g.op("Neg", x)), g.constant(1, np.float32)))


def _give(g: Graph, name: str, values: Value, gaps: Value, shape: Shape) -> None:
    g.output(name, _or(g, gaps, values, g.constant(np.nan, np.float32), len(shape)), np.float32, shape)


def _give_labels(g: Graph, name: str, labels: Value, gaps: Value, shape: Shape) -> None:
    g.output(name, _or(g, gaps, labels, g.constant(NO_LABEL, np.int64), len(shape)), np.int64, shape)


def _or(g: Graph, gaps: Value, values: Value, other: Value, axes: int) -> Value:
    at = g.unsqueeze(gaps, *range(1, axes)) if axes > 1 else gaps
    return g.op("Where", at, other, values)
