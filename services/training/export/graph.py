"""Builds an ONNX graph, one operator after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import helper, numpy_helper

OPSET = 18
IR_VERSION = 8
"""The file format of that opset's time, so that older runtimes read it too."""

Value = str
"""The name of a tensor in a graph."""
Shape = Sequence[int | str]
"""Of an input or output; a word stands for a size that may be any."""


class Graph:
    """A graph under construction. Each method adds operators and returns the name of what they compute."""

    def __init__(self, parent: Graph | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        self._names: list[Value] = [] if parent is None else parent._names  # no name twice, within subgraphs neither

    def input(self, name: str, dtype: DTypeLike, shape: Shape) -> Value:
        self.inputs.append(helper.make_tensor_value_info(name, _type(dtype), shape))
        return name

    def output(self, name: str, value: Value, dtype: DTypeLike, shape: Shape) -> None:
        """Gives a value away under this name."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, _type(dtype), shape))

    def model(self, name: str, about: str, properties: dict[str, str]) -> bytes:
        """The whole file."""
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, [*self._constants.values()])
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="loopline")
        made.ir_version, made.doc_string = IR_VERSION, about
        helper.set_model_props(made, properties)
        data: bytes = made.SerializeToString(deterministic=True)
        return data

    # ---- single operators

    def op(self, kind: str, *inputs: Value, **attributes: Any) -> Value:
        """An operator with one output."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: Value, **attributes: Any) -> list[Value]:
        """An operator with several outputs. An empty name is an input that is left out."""
        found = [self._name(kind) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, found, **attributes))
        return found

    def constant(self, values: Any, dtype: DTypeLike) -> Value:
        array = np.ascontiguousarray(np.asarray(values, dtype)).reshape(np.shape(values))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, self._name("constant"))
        return self._constants[key].name

    def integers(self, *values: int) -> Value:
        """(values,) int64"""
        return self.constant(values, np.int64)

    def cast(self, value: Value, dtype: DTypeLike) -> Value:
        return self.op("Cast", value, to=_type(dtype))

    # ---- a few operators together

    def size(self, value: Value, axis: int) -> Value:
        """(1,) int64"""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def slice(self, value: Value, begin: Value, end: Value, axis: int, step: int = 1) -> Value:
        """`begin` and `end` (1,)."""
        return self.op("Slice", value, begin, end, self.integers(axis), self.integers(step))

    def unsqueeze(self, value: Value, *axes: int) -> Value:
        return self.op("Unsqueeze", value, self.integers(*axes))

    def count(self, size: Value) -> Value:
        """0, 1, 2, ...: (size,) int64. `size` is (1,)."""
        zero, one = self.constant(0, np.int64), self.constant(1, np.int64)
        return self.op("Range", zero, self.op("Squeeze", size, self.integers(0)), one)

    def columns(self, value: Value, places: Sequence[int], axis: int) -> Value:
        """Some columns of an axis."""
        return self.op("Gather", value, self.integers(*places), axis=axis)

    def divided_up(self, value: Value, by: int) -> Value:
        """Whole numbers divided and rounded up."""
        more = self.op("Add", value, self.constant(by - 1, np.int64))
        return self.op("Div", more, self.constant(by, np.int64))

    def inside(self, lengths: Value, time: Value) -> Value:
        """Which steps are valid: (batch, time) bool. `lengths` (batch,); `time` (1,) is how many steps there are."""
        return self.op("Less", self.unsqueeze(self.count(time), 0), self.unsqueeze(lengths, 1))

    def at_steps(self, value: Value, places: Value) -> Value:
        """Of each sequence of value (batch, time, columns), the steps at places (batch, steps)."""
        return self.op("GatherND", value, self.unsqueeze(places, 2), batch_dims=1)

    def scan(
        self,
        step: Callable[[Graph, list[Value], list[Value]], list[Value]],
        states: Sequence[tuple[Value, DTypeLike]],
        inputs: Sequence[tuple[Value, DTypeLike]],
        *,
        backwards: bool = False,
    ) -> list[Value]:
        """Goes along axis 1 of the inputs (batch, time, columns). `step` makes the next states of the states and of the
        inputs of one step, (batch, columns) each. The states after every step: (batch, time, columns) each."""
        body = Graph(self)
        at = ("batch", "columns")
        names = [body.input(self._name("state"), dtype, at) for _, dtype in states]
        read = [body.input(self._name("step"), dtype, at) for _, dtype in inputs]
        after = step(body, names, read)
        for _ in range(2):  # once to carry on, once to give away
            for value, (_, dtype) in zip(after, states, strict=True):
                body.output(self._name("after"), value, dtype, at)
        graph = helper.make_graph(
            body.nodes, self._name("body"), body.inputs, body.outputs, [*body._constants.values()]
        )
        found = self.ops(
            "Scan",
            2 * len(states),
            *(value for value, _ in states),
            *(value for value, _ in inputs),
            body=graph,
            num_scan_inputs=len(inputs),
            scan_input_axes=[1] * len(inputs),
            scan_output_axes=[1] * len(states),
            scan_input_directions=[int(backwards)] * len(inputs),
            scan_output_directions=[int(backwards)] * len(states),
        )
        return found[len(states) :]

    def _name(self, kind: str) -> Value:
        self._names.append(f"{kind.lower()}_{len(self._names)}")
        return self._names[-1]


def _type(dtype: DTypeLike) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


Weights = dict[str, NDArray[np.float32]]
"""Those of a network, by torch's names."""
