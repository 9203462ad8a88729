"""Relay arithmetic: with constants it is an affine map, between values a sum or a product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bnfx.passes.algebra import BroadcastAffine, Expression
from bnfx.passes.arithmetic import FLOATS, NEGATION, affine_at, between, operand, with_constant
from bnfx.passes.graph import Node, Role
from bnfx.passes.relay.expressions import Expr, op_name

_BINARY = {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "div"}
ARITHMETIC = frozenset({*_BINARY, "negative", "nn.bias_add"})


@dataclass(frozen=True)
class Arithmetic:
    """A role, and the data inputs that it reads."""

    role: Role
    inputs: list[Node]


def read_arithmetic(
    expr: Expr, node: Node, args: list[Node], constant: Callable[[int], Expression | None]
) -> Arithmetic | None:
    """The role of a call of one of :data:`ARITHMETIC`, or ``None``.

    Args:
        expr: the call.
        node: its neutral node, with what is known of its value.
        args: the nodes of its operands.
        constant: the operand at a position as an expression, if it is a constant.
    """
    name = op_name(expr) or ""
    if node.dtype not in FLOATS or node.rank is None:
        return None
    if name == "negative":
        return _affine(args[0], node, NEGATION)
    left, right = constant(0), constant(1)
    if name == "nn.bias_add":
        if left is not None or right is None:
            return None
        axis = int(expr.attrs.axis) % node.rank
        bias = right.reshape(*(1,) * axis, *right.shape)
        return _affine(args[0], node, with_constant("add", bias, on_the_left=False))
    if left is None and right is None:
        role = between(_BINARY[name], args, node)
        return None if role is None else Arithmetic(role, args)
    if left is not None and right is not None:
        return None
    known = operand(left if right is None else right, node.rank)  # type: ignore[arg-type]
    if known is None:
        return None
    affine = with_constant(_BINARY[name], known, on_the_left=left is not None)
    return _affine(args[0] if left is None else args[1], node, affine)


def _affine(before: Node, node: Node, affine: BroadcastAffine | None) -> Arithmetic | None:
    role = None if affine is None else affine_at(before, node, affine)
    return None if role is None else Arithmetic(role, [before])
