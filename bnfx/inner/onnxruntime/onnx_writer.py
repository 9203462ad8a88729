"""An ONNX graph as it is written, node by node."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

OPSET, IR_VERSION = 20, 10


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph.

    Args:
        name: of it.
        array: its numbers, if it is a constant.
        size: its sizes, where somebody asks.
    """

    name: str
    array: Any = None
    size: tuple[int, ...] = ()

    def output(self, at: int) -> Value:
        assert at == 0, "no row reads another output"
        return self


def _open(size: Sequence[int]) -> list[int | None]:
    return [None if each < 0 else each for each in size]


class OnnxWriter:
    """Writes a graph; :meth:`model` gives it."""

    def __init__(self) -> None:
        self._helper: Any = importlib.import_module("onnx.helper")
        self._arrays: Any = importlib.import_module("onnx.numpy_helper")
        self._float: int = importlib.import_module("onnx").TensorProto.FLOAT
        self._nodes: list[Any] = []
        self._weights: dict[str, Any] = {}
        self._count = 0

    def model(self, parameters: Sequence[Value], results: Sequence[Value]) -> bytes:
        """The ONNX file. What nothing reads is left out."""
        read, nodes = {each.name for each in results}, list[Any]()
        for node in reversed(self._nodes):
            if read.intersection(node.output):
                read.update(node.input)
                nodes.append(node)
        info = self._helper.make_tensor_value_info
        graph = self._helper.make_graph(
            nodes[::-1],
            "bnfx",
            [info(each.name, self._float, _open(each.size)) for each in parameters],
            [info(each.name, self._float, None) for each in results],
            [
                self._arrays.from_array(array, name)
                for name, array in self._weights.items()
                if name in read
            ],
        )
        operators = [self._helper.make_opsetid("", OPSET)]
        model = self._helper.make_model(graph, opset_imports=operators, ir_version=IR_VERSION)
        content: bytes = model.SerializeToString()
        return content

    # Inputs, constants, outputs.

    def parameter(self, size: Sequence[int], dtype: Any) -> Value:
        assert dtype is np.float32
        return Value(self.new_name(), size=tuple(size))

    def constant(self, array: Any) -> Value:
        name = self.new_name()
        self._weights[name] = np.ascontiguousarray(array).reshape(array.shape)
        return Value(name, self._weights[name], tuple(array.shape))

    def result(self, x: Value) -> Value:
        return self.write("Identity", x)

    def write(self, operator: str, *inputs: Value | None, **attributes: Any) -> Value:
        name = self.new_name()
        given = {
            key: int(value) if isinstance(value, bool) else value
            for key, value in attributes.items()
        }
        names = ["" if each is None else each.name for each in inputs]
        self._nodes.append(self._helper.make_node(operator, names, [name], **given))
        return Value(name)

    def new_name(self) -> str:
        self._count += 1
        return f"v{self._count}"
