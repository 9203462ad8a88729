"""Writes single calls of Relax: linear operators and multiply-adds."""

from __future__ import annotations

from typing import Any

from tvm import relax

from bnfx.passes.algebra import Conv, ConvTranspose, Dense, LinearOperator
from bnfx.passes.relax.compat import Expr
from bnfx.passes.tvm.layouts import SPATIAL

_CONVS = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}
# Not each of these is in every TVM.
_TRANSPOSED = {n: getattr(relax.op.nn, f"conv{n}d_transpose", None) for n in (1, 2, 3)}


def write_operator(operator: LinearOperator, data: Expr, weight: Expr) -> Expr:
    """A call that computes ``operator`` without its bias, in TVM's usual kernel layout.

    Args:
        weight: in the operator's own layout, but for a dense operator ``(in, out)``.

    Raises:
        ValueError: for an operator that this Relax has no call for.
    """
    if isinstance(operator, Dense):
        return relax.op.matmul(data, weight)
    assert isinstance(operator, (Conv, ConvTranspose))
    spatial = len(operator.kernel)
    axes = SPATIAL[spatial]
    befores, afters = zip(*operator.padding, strict=True)
    arguments: dict[str, Any] = {
        "strides": list(operator.stride),
        "padding": [*befores, *afters],
        "dilation": list(operator.dilation),
        "groups": operator.groups,
        "data_layout": f"N{axes}C" if operator.channels_last else f"NC{axes}",
    }
    if isinstance(operator, Conv):
        return _CONVS[spatial](data, weight, kernel_layout=f"OI{axes}", **arguments)
    call = _TRANSPOSED[spatial]
    if call is None:
        raise ValueError(f"this Relax has no transposed convolution of {spatial} dimensions")
    arguments["output_padding"] = list(operator.output_padding)
    return call(data, weight, kernel_layout=f"IO{axes}", **arguments)
