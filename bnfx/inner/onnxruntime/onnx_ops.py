"""The operators that rows write, as nodes of an ONNX graph.

Names and arguments are those of OpenVINO's operator sets (see :mod:`bnfx.inner.engines.rows`), as
far as rows use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnfx.inner.base import EngineRefusal
from bnfx.inner.onnxruntime.onnx_arithmetic import OnnxArithmetic
from bnfx.inner.onnxruntime.onnx_writer import Value


class OnnxOps(OnnxArithmetic):
    """Layers and what moves numbers; :meth:`model` gives the graph."""

    # Layers.

    def convolution(
        self, x: Value, w: Value, strides: Any, begin: Any, end: Any, dilations: Any
    ) -> Value:
        given = {"strides": strides, "pads": [*begin, *end], "dilations": dilations}
        return self.write("Conv", x, w, **given)

    def group_convolution(
        self, x: Value, w: Value, strides: Any, begin: Any, end: Any, dilations: Any
    ) -> Value:
        given = {"strides": strides, "pads": [*begin, *end], "dilations": dilations}
        return self.write("Conv", x, self._ungrouped(w), group=w.size[0], **given)

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
        return self.write(
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

    def batch_norm_inference(
        self, x: Value, gamma: Value, beta: Value, mean: Value, variance: Value, epsilon: float
    ) -> Value:
        weights = gamma, beta, mean, variance
        return self.write("BatchNormalization", x, *weights, epsilon=epsilon)

    def matmul(self, x: Value, y: Value, transpose_x: bool, transpose_y: bool) -> Value:
        assert not transpose_x
        assert not transpose_y
        return self.write("MatMul", x, y)

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
        return self.write("MaxPool", x, kernel_shape=kernel, **given)

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
        return self.write("AveragePool", x, kernel_shape=kernel, **given)

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
        return self.write(
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
        y = self.write("Reshape", x, size, allowzero=not special_zero)
        return Value(y.name, size=tuple(size.array.tolist()))

    def transpose(self, x: Value, order: Value) -> Value:
        if x.array is not None:
            return self.constant(x.array.transpose(order.array))
        return self.write("Transpose", x, perm=order.array.tolist())

    def broadcast(self, x: Value, size: Value) -> Value:
        return self.write("Expand", x, size)

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        return self.write("Concat", *values, axis=axis)

    def slice(self, x: Value, start: Value, stop: Value, step: Value, axes: Value) -> Value:
        return self.write("Slice", x, start, stop, axes, step)

    def pad(self, x: Value, begin: Value, end: Value, mode: str, value: Value) -> Value:
        both = self.constant(np.concatenate([begin.array, end.array]))
        return self.write("Pad", x, both, value, mode=mode)
