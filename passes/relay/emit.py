"""Writes single calls of Relay: constants, linear operators, multiply-adds."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relay

from bnfx.passes.algebra import Conv, ConvTranspose, Dense, LinearOperator
from bnfx.passes.layouts import SPATIAL
from bnfx.passes.relay.expressions import Expr

_CONVS = {1: relay.nn.conv1d, 2: relay.nn.conv2d, 3: relay.nn.conv3d}
_TRANSPOSED = {
    1: relay.nn.conv1d_transpose,
    2: relay.nn.conv2d_transpose,
    3: relay.nn.conv3d_transpose,
}


def constant(array: Any) -> Expr:
    """A tensor that is known when compiling, in its own dtype."""
    return relay.Constant(tvm.nd.array(np.ascontiguousarray(array)))


def write_operator(operator: LinearOperator, data: Expr, weight: Expr, rank: int) -> Expr:
    """A call that computes ``operator`` without its bias, in TVM's usual kernel layout.

    Args:
        weight: in the operator's own layout.
        rank: of the data.

    Raises:
        ValueError: for an operator that Relay has no call for.
    """
    if isinstance(operator, Dense):
        if rank == 2:
            return relay.nn.dense(data, weight)
        if rank == 3:
            return relay.nn.batch_matmul(data, relay.expand_dims(weight, axis=0))
        raise ValueError(f"Relay has no dense operator on {rank} dimensions")
    assert isinstance(operator, (Conv, ConvTranspose))
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
    }
    if isinstance(operator, ConvTranspose):
        arguments["output_padding"] = operator.output_padding
        arguments["kernel_layout"] = f"IO{axes}"
        return _TRANSPOSED[len(operator.kernel)](data, weight, **arguments)
    arguments["kernel_layout"] = f"OI{axes}"
    return _CONVS[len(operator.kernel)](data, weight, **arguments)
