"""Converters of our own for TVM's importer, of operators that rules fold: theirs are too narrow."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tvm import relax

from bnfx.passes.relax.compat import type_of
from bnfx.passes.relax.shapes import dtype_of
from bnfx.tvm.ops.products import CONVS, TRANSPOSED, spread


def _convolution(node: torch.fx.Node, importer: Any) -> Any:
    """``aten.convolution`` of any dtype, and transposed ones of three dimensions.

    TVM's own converter makes every convolution's output float32, whatever it is given, and knows
    transposed ones of one and two dimensions alone.
    """
    given: Any = [
        importer.env[argument] if isinstance(argument, torch.fx.Node) else argument
        for argument in node.args
    ]
    x, weight, bias, stride, padding, dilation, transposed, extra, groups = given
    spatial = len(type_of(weight).shape) - 2
    arguments: dict[str, Any] = {
        "strides": spread(stride, spatial),
        "padding": spread(padding, spatial),
        "dilation": spread(dilation, spatial),
        "groups": groups,
    }
    if transposed:
        arguments["output_padding"] = spread(extra, spatial)
    call = (TRANSPOSED if transposed else CONVS)[spatial]
    builder = importer.block_builder
    result = builder.emit(call(x, weight, **arguments))
    if bias is None:
        return result
    shape = [1, -1, *(1 for _ in range(spatial))]
    return builder.emit(relax.op.add(result, builder.emit(relax.op.reshape(bias, shape))))


def _product(node: torch.fx.Node, importer: Any) -> Any:
    """``aten.mm`` and ``bmm`` of any dtype; TVM's own give float32."""
    one, other = (importer.env[argument] for argument in node.args)
    return importer.block_builder.emit(relax.op.matmul(one, other))


def _sum_with_product(node: torch.fx.Node, importer: Any) -> Any:
    """``aten.addmm`` of any dtype: ``beta * bias + alpha * (one @ other)``.

    What is multiplied by 0 is not read in PyTorch, so its NaN is not to show.
    """
    bias, one, other = (importer.env[argument] for argument in node.args)
    emit = importer.block_builder.emit
    product = emit(relax.op.matmul(one, other))
    for name, value in node.kwargs.items():
        if name not in ("beta", "alpha"):
            raise ValueError(f"addmm has an argument {name}")
        dtype = str(dtype_of(type_of(product)))
        number = np.asarray(value, dtype)
        if number == 0:
            if name == "beta":
                bias = None
            else:
                product = emit(relax.op.zeros_like(product))
            continue
        factor = relax.const(number, dtype)
        if name == "beta":
            bias = emit(relax.op.multiply(bias, factor))
        else:
            product = emit(relax.op.multiply(product, factor))
    return product if bias is None else emit(relax.op.add(bias, product))


# By the names of the ops, as TVM's importer has them.
CONVERTERS = {
    "convolution.default": _convolution,
    "mm.default": _product,
    "bmm.default": _product,
    "addmm.default": _sum_with_product,
}
