"""Arithmetic of both IRs: with constants it is an affine map, between values a sum or a product."""

from __future__ import annotations

from collections.abc import Callable

from bnfx.passes.algebra import Expression
from bnfx.passes.graph import Node
from bnfx.passes.lifting.affine_arithmetic import (
    FLOATS,
    NEGATION,
    Arithmetic,
    read_affine,
    read_binary,
    with_constant,
)
from bnfx.passes.tvm.dataflow import Value

_BINARY = {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "div"}
ARITHMETIC = frozenset({*_BINARY, "negative", "nn.bias_add"})


def read_arithmetic(
    value: Value, node: Node, args: list[Node], constant: Callable[[int], Expression | None]
) -> Arithmetic | None:
    """The role of a call of one of :data:`ARITHMETIC`, or ``None``.

    Args:
        value: the call.
        node: its neutral node, with what is known of its value.
        args: the nodes of its operands.
        constant: the operand at a position as an expression, if it is a constant.
    """
    if node.dtype not in FLOATS or node.rank is None:
        return None
    if value.op == "negative":
        return read_affine(args[0], node, NEGATION)
    left, right = constant(0), constant(1)
    if value.op == "nn.bias_add":
        if left is not None or right is None:
            return None
        axis = int(value.attrs.axis) % node.rank
        bias = right.reshape(*(1,) * axis, *right.shape)
        return read_affine(args[0], node, with_constant("add", bias, on_the_left=False))
    one = args[0] if left is None else left
    return read_binary(_BINARY[value.op or ""], node, one, args[1] if right is None else right)
