"""Arithmetic and activations, as nodes of an ONNX graph.

Names and arguments are those of OpenVINO's operator sets (see :mod:`bnfx.inner.engines.rows`), as
far as rows use them.
"""

from __future__ import annotations

import numpy as np

from bnfx.inner.onnxruntime.onnx_writer import OnnxWriter, Value


class OnnxArithmetic(OnnxWriter):
    """What works on numbers one by one, and sums of them."""

    def add(self, x: Value, y: Value) -> Value:
        return self.write("Add", x, y)

    def subtract(self, x: Value, y: Value) -> Value:
        return self.write("Sub", x, y)

    def multiply(self, x: Value, y: Value) -> Value:
        return self.write("Mul", x, y)

    def divide(self, x: Value, y: Value) -> Value:
        return self.write("Div", x, y)

    def maximum(self, x: Value, y: Value) -> Value:
        return self.write("Max", x, y)

    def minimum(self, x: Value, y: Value) -> Value:
        return self.write("Min", x, y)

    def clamp(self, x: Value, low: float, high: float) -> Value:
        limits = (self.constant(np.asarray(each, dtype=np.float32)) for each in (low, high))
        return self.write("Clip", x, *limits)

    def reduce_mean(self, x: Value, axes: Value, keep: bool) -> Value:
        return self.write("ReduceMean", x, axes, keepdims=keep)

    def reduce_sum(self, x: Value, axes: Value, keep: bool) -> Value:
        return self.write("ReduceSum", x, axes, keepdims=keep)

    def reduce_max(self, x: Value, axes: Value, keep: bool) -> Value:
        return self.write("ReduceMax", x, axes, keepdims=keep)

    def softmax(self, x: Value, axis: int) -> Value:
        return self.write("Softmax", x, axis=axis)

    def relu(self, x: Value) -> Value:
        return self.write("Relu", x)

    def sigmoid(self, x: Value) -> Value:
        return self.write("Sigmoid", x)

    def tanh(self, x: Value) -> Value:
        return self.write("Tanh", x)

    def abs(self, x: Value) -> Value:
        return self.write("Abs", x)

    def negative(self, x: Value) -> Value:
        return self.write("Neg", x)

    def exp(self, x: Value) -> Value:
        return self.write("Exp", x)

    def sqrt(self, x: Value) -> Value:
        return self.write("Sqrt", x)

    def swish(self, x: Value) -> Value:
        return self.multiply(x, self.sigmoid(x))

    def hswish(self, x: Value) -> Value:
        return self.write("HardSwish", x)

    def hsigmoid(self, x: Value) -> Value:
        return self.write("HardSigmoid", x, alpha=1 / 6, beta=0.5)

    def mish(self, x: Value) -> Value:
        return self.write("Mish", x)

    def gelu(self, x: Value, mode: str) -> Value:
        return self.write("Gelu", x, approximate={"erf": "none", "tanh": "tanh"}[mode])

    def elu(self, x: Value, alpha: float) -> Value:
        return self.write("Elu", x, alpha=alpha)

    def prelu(self, x: Value, slope: Value) -> Value:
        return self.write("LeakyRelu", x, alpha=slope.array.item())
