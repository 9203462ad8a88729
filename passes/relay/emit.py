"""Writes single calls of Relay: constants, linear operators, multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relay

from bnfx.passes.algebra import Conv, ConvTranspose
from bnfx.passes.relay.expressions import Expr
from bnfx.passes.tvm.layouts import SPATIAL, kernel_order
from bnfx.passes.tvm.weight_layouts import WeightLayout

_CONVS = {1: relay.nn.conv1d, 2: relay.nn.conv2d, 3: relay.nn.conv3d}
_TRANSPOSED = {
    1: relay.nn.conv1d_transpose,
    2: relay.nn.conv2d_transpose,
    3: relay.nn.conv3d_transpose,
}


def constant(array: Any) -> Expr:
    """A tensor that is known when compiling, in its own dtype."""
    return relay.Constant(tvm.nd.array(np.ascontiguousarray(array)))


@dataclass(frozen=True)
class Kernel:
    """How a call takes its weight: a layout string, and the way there from the operator's own."""

    layout: str
    stored: WeightLayout


def usual_kernel(operator: Conv | ConvTranspose) -> Kernel:
    """The kernel layout for which TVM has schedules.

    With channels first that is OIHW (IOHW if transposed), with channels last HWIO, or HWOI, as
    ``(channels, multiplier)``, for depthwise kernels.
    """
    axes, shape = SPATIAL[len(operator.kernel)], operator.weight.shape
    own = "IO" if isinstance(operator, ConvTranspose) else "OI"
    layout = f"{axes}IO" if operator.channels_last else own + axes
    if operator.channels_last and isinstance(operator, Conv) and _is_depthwise(operator):
        layout = f"{axes}OI"
        shape = (operator.groups, shape[0] // operator.groups, *operator.kernel)
    return Kernel(layout, WeightLayout(shape, kernel_order(own + axes, layout)))


def _is_depthwise(conv: Conv) -> bool:
    return conv.groups > 1 and conv.weight.shape[1] == 1


def write_convolution(operator: Conv | ConvTranspose, data: Expr, weight: Expr) -> Expr:
    """A call that computes ``operator`` without its bias.

    Args:
        weight: in its usual layout.
    """
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


def write_dense(data: Expr, weight: Expr, rank: int) -> Expr:
    """``x W^T`` along the last axis of data of ``rank`` dimensions."""
    if rank == 3:  # TVM has schedules for that, and none for a dense layer on more than a matrix
        return relay.nn.batch_matmul(data, relay.expand_dims(weight, axis=0))
    return relay.nn.dense(data, weight)
