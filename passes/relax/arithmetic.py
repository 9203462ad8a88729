"""Relax arithmetic: with constants it is an affine map, between values a sum or a product."""

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
)
from bnfx.passes.relax.expressions import Value

_BINARY = {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "div"}
ARITHMETIC = frozenset({*_BINARY, "negative"})


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
    name = value.op or ""
    if name == "negative":
        return read_affine(args[0], node, NEGATION)
    left, right = constant(0), constant(1)
    one = args[0] if left is None else left
    return read_binary(_BINARY[name], node, one, args[1] if right is None else right)
