"""Arithmetic: with constants it is an affine map, between values a sum or a product."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from bnfx.passes.algebra import Expression, Scalar
from bnfx.passes.fx.facts.spelling import facts_of
from bnfx.passes.graph import Node
from bnfx.passes.lifting.affine_arithmetic import (
    FLOATS,
    NEGATION,
    Arithmetic,
    read_affine,
    read_binary,
)

_OPERATIONS = frozenset({"add", "sub", "rsub", "mul", "div", "neg"})
Constant = Callable[[object], Expression | None]


def read_arithmetic(
    fx_node: fx.Node, node: Node, constant: Constant, nodes: Callable[[fx.Node], Node]
) -> Arithmetic | None:
    """The role of an addition, subtraction, product, quotient or negation, or ``None``.

    Args:
        fx_node: the call.
        node: its neutral node, with what is known of its value.
        constant: a parameter, or what is computed from parameters alone, as an expression.
        nodes: the neutral node of an fx node.
    """
    facts = facts_of(fx_node)
    if facts is None or facts.name not in _OPERATIONS:
        return None
    op = facts.name
    alpha = fx_node.kwargs.get("alpha", 1)
    rest = fx_node.kwargs.keys() - {"alpha"}
    if rest or not _is_number(alpha) or node.dtype not in FLOATS:
        return None
    if op == "neg":
        (data,) = fx_node.args
        return read_affine(nodes(data), node, NEGATION) if isinstance(data, fx.Node) else None
    if len(fx_node.args) != 2:
        return None
    left, right = (_operand(value, constant, nodes) for value in fx_node.args)
    if left is None or right is None:
        return None
    if op == "rsub":
        op, left, right = "sub", right, left
    return read_binary(op, node, left, right, float(alpha))  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _operand(
    value: object, constant: Constant, nodes: Callable[[fx.Node], Node]
) -> Node | Expression | None:
    """A constant, or data; ``None`` for anything else."""
    if _is_number(value):
        return Scalar(float(value))  # type: ignore[arg-type]
    expression = constant(value)
    if expression is not None:
        return expression
    return nodes(value) if isinstance(value, fx.Node) else None
