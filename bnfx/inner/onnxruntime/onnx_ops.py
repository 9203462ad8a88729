"""The operators that rows write, as nodes of an ONNX graph.

Names and arguments are those of OpenVINO's operator sets (see :mod:`bnfx.inner.engines.rows`), as
far as rows use them.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnfx.inner.base import EngineRefusal

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


class OnnxOps:
    """Writes a graph; :meth:`model` gives it."""

    def __init__(self) -> None:
        self._helper: Any = importlib.import_module("onnx.helper")
        self._arrays: Any = importlib.import_module("onnx.numpy_helper")
        self._float: int = importlib.import_module("onnx").TensorProto.FLOAT
        self._nodes: list[Any] = []
        self._weights: dict[str, Any] = {}
        self._count = 0

    def model(self, parameters: Sequence[Value], results: Sequence[Value]) -> bytes:
        """The ONNX file. Constants that nothing reads are left out."""
        read = {name for node in self._nodes for name in node.input}
        info = self._helper.make_tensor_value_info
        graph = self._helper.make_graph(
            self._nodes,
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
        return Value(self._name(), size=tuple(size))

    def constant(self, array: Any) -> Value:
        name = self._name()
        self._weights[name] = np.ascontiguousarray(array).reshape(array.shape)
        return Value(name, self._weights[name], tuple(array.shape))

    def result(self, x: Value) -> Value:
        return self._write("Identity", x)

    # Layers.

    def convolution(
        self, x: Value, w: Value, strides: Any, begin: Any, end: Any, dilations: Any
    ) -> Value:
        given = {"strides": strides, "pads": [*begin, *end], "dilations": dilations}
        return self._write("Conv", x, w, **given)

    def group_convolution(
        self, x: Value, w: Value, strides: Any, begin: Any, end: Any, dilations: Any
    ) -> Value:
        given = {"strides": strides, "pads": [*begin, *end], "dilations": dilations}
        return self._write("Conv", x, self._ungrouped(w), group=w.size[0], **given)

    def convolution_backprop_data(self, x: Value, w: Value, strides: Any, **given: Any) -> Value:
        return self._transposed(x, w, 1, strides, **given)

    def group_convolution_backprop_data(
        self, x: Value, w: Value, strides: Any, **given: Any
    ) -> Value:
        return self._transposed(x, self._ungrouped(w), w.size[0], strides, **given)

    def _transposed(
        self,
        x: Value,
        w: Value,
        groups: int,
        strides: Any,
        pads_begin: Any,
        pads_end: Any,
        dilations: Any,
        output_padding: Any,
    ) -> Value:
        if any(extra >= stride for extra, stride in zip(output_padding, strides, strict=True)):
            raise EngineRefusal("ONNX Runtime takes no output padding as large as the stride")
        return self._write(
            "ConvTranspose",
            x,
            w,
            strides=strides,
            pads=[*pads_begin, *pads_end],
            dilations=dilations,
            output_padding=output_padding,
            group=groups,
        )

    def _ungrouped(self, w: Value) -> Value:
        """A weight without the axis of groups."""
        groups, each, *others = w.size
        return self.reshape(w, self.constant(np.array([groups * each, *others])), False)

    def matmul(self, x: Value, y: Value, transpose_x: bool, transpose_y: bool) -> Value:
        assert not transpose_x
        assert not transpose_y
        return self._write("MatMul", x, y)

    def max_pool(
        self,
        x: Value,
        strides: Any,
        dilations: Any,
        begin: Any,
        end: Any,
        kernel: Any,
        rounding: str,
        auto_pad: str,
    ) -> Value:
        assert (rounding, auto_pad) == ("floor", "explicit")
        given = {"strides": strides, "dilations": dilations, "pads": [*begin, *end]}
        return self._write("MaxPool", x, kernel_shape=kernel, **given)

    def avg_pool(
        self,
        x: Value,
        strides: Any,
        begin: Any,
        end: Any,
        kernel: Any,
        exclude_pad: bool,
        rounding: str,
        auto_pad: str,
    ) -> Value:
        assert (rounding, auto_pad) == ("floor", "explicit")
        given = {"strides": strides, "pads": [*begin, *end], "count_include_pad": not exclude_pad}
        return self._write("AveragePool", x, kernel_shape=kernel, **given)

    def interpolate(
        self,
        x: Value,
        sizes: Value,
        mode: str,
        shape_calculation_mode: str,
        pads_begin: Any,
        pads_end: Any,
        coordinates: str,
        nearest_mode: str,
        axes: Value,
    ) -> Value:
        assert (shape_calculation_mode, *pads_begin, *pads_end) == ("sizes", 0, 0)
        return self._write(
            "Resize",
            x,
            None,
            None,
            sizes,
            axes=axes.array.tolist(),
            mode={"nearest": "nearest", "linear_onnx": "linear"}[mode],
            coordinate_transformation_mode=coordinates,
            nearest_mode=nearest_mode,
        )

    # What moves numbers.

    def reshape(self, x: Value, size: Value, special_zero: bool) -> Value:
        if x.array is not None:
            return self.constant(x.array.reshape(size.array))
        y = self._write("Reshape", x, size, allowzero=not special_zero)
        return Value(y.name, size=tuple(size.array.tolist()))

    def transpose(self, x: Value, order: Value) -> Value:
        if x.array is not None:
            return self.constant(x.array.transpose(order.array))
        return self._write("Transpose", x, perm=order.array.tolist())

    def broadcast(self, x: Value, size: Value) -> Value:
        return self._write("Expand", x, size)

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        return self._write("Concat", *values, axis=axis)

    def slice(self, x: Value, start: Value, stop: Value, step: Value, axes: Value) -> Value:
        return self._write("Slice", x, start, stop, axes, step)

    def pad(self, x: Value, begin: Value, end: Value, mode: str, value: Value) -> Value:
        both = self.constant(np.concatenate([begin.array, end.array]))
        return self._write("Pad", x, both, value, mode=mode)

    # Arithmetic.

    def add(self, x: Value, y: Value) -> Value:
        return self._write("Add", x, y)

    def subtract(self, x: Value, y: Value) -> Value:
        return self._write("Sub", x, y)

    def multiply(self, x: Value, y: Value) -> Value:
        return self._write("Mul", x, y)

    def divide(self, x: Value, y: Value) -> Value:
        return self._write("Div", x, y)

    def maximum(self, x: Value, y: Value) -> Value:
        return self._write("Max", x, y)

    def minimum(self, x: Value, y: Value) -> Value:
        return self._write("Min", x, y)

    def clamp(self, x: Value, low: float, high: float) -> Value:
        limits = (self.constant(np.asarray(each, dtype=np.float32)) for each in (low, high))
        return self._write("Clip", x, *limits)

    def reduce_mean(self, x: Value, axes: Value, keep: bool) -> Value:
        return self._write("ReduceMean", x, axes, keepdims=keep)

    def reduce_sum(self, x: Value, axes: Value, keep: bool) -> Value:
        return self._write("ReduceSum", x, axes, keepdims=keep)

    def reduce_max(self, x: Value, axes: Value, keep: bool) -> Value:
        return self._write("ReduceMax", x, axes, keepdims=keep)

    def softmax(self, x: Value, axis: int) -> Value:
        return self._write("Softmax", x, axis=axis)

    # Activations.

    def relu(self, x: Value) -> Value:
        return self._write("Relu", x)

    def sigmoid(self, x: Value) -> Value:
        return self._write("Sigmoid", x)

    def tanh(self, x: Value) -> Value:
        return self._write("Tanh", x)

    def abs(self, x: Value) -> Value:
        return self._write("Abs", x)

    def negative(self, x: Value) -> Value:
        return self._write("Neg", x)

    def exp(self, x: Value) -> Value:
        return self._write("Exp", x)

    def sqrt(self, x: Value) -> Value:
        return self._write("Sqrt", x)

    def swish(self, x: Value) -> Value:
        return self.multiply(x, self.sigmoid(x))

    def hswish(self, x: Value) -> Value:
        return self._write("HardSwish", x)

    def hsigmoid(self, x: Value) -> Value:
        return self._write("HardSigmoid", x, alpha=1 / 6, beta=0.5)

    def mish(self, x: Value) -> Value:
        return self._write("Mish", x)

    def gelu(self, x: Value, mode: str) -> Value:
        return self._write("Gelu", x, approximate={"erf": "none", "tanh": "tanh"}[mode])

    def elu(self, x: Value, alpha: float) -> Value:
        return self._write("Elu", x, alpha=alpha)

    def prelu(self, x: Value, slope: Value) -> Value:
        return self._write("LeakyRelu", x, alpha=slope.array.item())

    def _write(self, operator: str, *inputs: Value | None, **attributes: Any) -> Value:
        name = self._name()
        given = {
            key: int(value) if isinstance(value, bool) else value
            for key, value in attributes.items()
        }
        names = ["" if each is None else each.name for each in inputs]
        self._nodes.append(self._helper.make_node(operator, names, [name], **given))
        return Value(name)

    def _name(self) -> str:
        self._count += 1
        return f"v{self._count}"
