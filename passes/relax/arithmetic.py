"""Relax arithmetic: with constants it is an affine map, between values a sum or a product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bnfx.passes.algebra import BroadcastAffine, Expression
from bnfx.passes.arithmetic import FLOATS, NEGATION, affine_at, between, operand, with_constant
from bnfx.passes.graph import Node, Role
from bnfx.passes.relax.expressions import Value

_BINARY = {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "div"}
ARITHMETIC = frozenset({*_BINARY, "negative"})


@dataclass(frozen=True)
class Arithmetic:
    """A role, and the data inputs that it reads."""

    role: Role
    inputs: list[Node]


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
        return _affine(args[0], node, NEGATION)
    name = _BINARY[value.op or ""]
    left, right = constant(0), constant(1)
    if left is None and right is None:
        role = between(name, args, node)
        return None if role is None else Arithmetic(role, args)
    if left is not None and right is not None:
        return None
    known = operand(left if right is None else right, node.rank)  # type: ignore[arg-type]
    if known is None:
        return None
    affine = with_constant(name, known, on_the_left=left is not None)
    return _affine(args[0] if left is None else args[1], node, affine)


def _affine(before: Node, node: Node, affine: BroadcastAffine | None) -> Arithmetic | None:
    role = None if affine is None else affine_at(before, node, affine)
    return None if role is None else Arithmetic(role, [before])
