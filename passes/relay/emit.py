"""Writes calls of Relay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relay

from bnfx.passes.algebra import Conv, ConvTranspose, Expression, LinearOperator
from bnfx.passes.relay.expressions import operands, rebuilt
from bnfx.passes.tvm.dataflow import Expr, Value
from bnfx.passes.tvm.emitter import Emitter
from bnfx.passes.tvm.layouts import SPATIAL, kernel_order
from bnfx.passes.tvm.weight_layouts import WeightLayout

_CONVS = {1: relay.nn.conv1d, 2: relay.nn.conv2d, 3: relay.nn.conv3d}
_TRANSPOSED = {
    1: relay.nn.conv1d_transpose,
    2: relay.nn.conv2d_transpose,
    3: relay.nn.conv3d_transpose,
}


class RelayEmitter(Emitter):
    """Relay's expressions need no place: whoever reads them holds them."""

    def constant(self, array: Any) -> Expr:
        return relay.Constant(tvm.nd.array(np.asarray(array, order="C")))

    def add(self, one: Expr, other: Expr) -> Expr:
        return relay.add(one, other)

    def multiply(self, one: Expr, other: Expr) -> Expr:
        return relay.multiply(one, other)

    def cast(self, data: Expr, dtype: str) -> Expr:
        return relay.cast(data, dtype)

    def bias(self, data: Expr, array: Any, axis: int, rank: int) -> Expr:
        return relay.nn.bias_add(data, self.constant(array), axis=axis)

    def stored(self, operator: LinearOperator) -> Expression:
        if isinstance(operator, (Conv, ConvTranspose)):
            return usual_kernel(operator).stored.weight(operator.weight)
        return operator.weight

    def operator(self, operator: LinearOperator, data: Expr, weight: Expr, rank: int) -> Expr:
        if isinstance(operator, (Conv, ConvTranspose)):
            return _convolution(operator, data, weight)
        if rank == 3:  # TVM has schedules for that, and none for dense on more than a matrix
            return relay.nn.batch_matmul(data, relay.expand_dims(weight, axis=0))
        return relay.nn.dense(data, weight)

    def rebuilt(self, expr: Expr, children: Sequence[Expr]) -> Expr:
        return rebuilt(expr, list(children))

    def operands(self, value: Value) -> Sequence[Expr]:
        return operands(value.expr)

    def nested(self, value: Value, args: Sequence[Expr], expr: Expr) -> Expr:
        return expr


@dataclass(frozen=True)
class Kernel:
    """How a call takes its weight: a layout string, and the way there from the operator's own."""

    layout: str
    stored: WeightLayout


def usual_kernel(operator: Conv | ConvTranspose) -> Kernel:
    """The kernel layout for which TVM has schedules.

    With channels first that is OIHW (IOHW if transposed), with channels last HWIO; for depthwise
    kernels of two dimensions, and these alone, HWOI with ``(channels, multiplier)`` as its end.
    """
    spatial, shape = len(operator.kernel), operator.weight.shape
    axes = SPATIAL[spatial]
    own = "IO" if isinstance(operator, ConvTranspose) else "OI"
    layout = f"{axes}IO" if operator.channels_last else own + axes
    if operator.channels_last and spatial == 2 and _is_depthwise(operator):
        layout = f"{axes}OI"
        shape = (operator.groups, shape[0] // operator.groups, *operator.kernel)
    return Kernel(layout, WeightLayout(shape, kernel_order(own + axes, layout)))


def _is_depthwise(operator: Conv | ConvTranspose) -> bool:
    return isinstance(operator, Conv) and operator.groups > 1 and operator.weight.shape[1] == 1


def _convolution(operator: Conv | ConvTranspose, data: Expr, weight: Expr) -> Expr:
    axes = SPATIAL[len(operator.kernel)]
    befores, afters = zip(*operator.padding, strict=True)
    arguments = {
        "strides": operator.stride,
        "padding": (*befores, *afters),
        "dilation": operator.dilation,
        "groups": operator.groups,
        "channels": operator.out_channels,
        "kernel_size": operator.kernel,
        "data_layout": f"N{axes}C" if operator.channels_last else f"NC{axes}",
        "kernel_layout": usual_kernel(operator).layout,
    }
    if isinstance(operator, ConvTranspose):
        arguments["output_padding"] = operator.output_padding
        return _TRANSPOSED[len(operator.kernel)](data, weight, **arguments)
    return _CONVS[len(operator.kernel)](data, weight, **arguments)
