"""Arithmetic: with constants it is an affine map, between values a sum or a product."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from bnfx.passes.algebra import BroadcastAffine, Expression, Scalar
from bnfx.passes.arithmetic import FLOATS, NEGATION, affine_at, between, operand, with_constant
from bnfx.passes.graph import Node, Role

aten = torch.ops.aten

_FUNCTIONS: dict[Any, str] = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    aten.add.Tensor: "add",
    aten.add.Scalar: "add",
    operator.sub: "sub",
    operator.isub: "sub",
    torch.sub: "sub",
    torch.subtract: "sub",
    aten.sub.Tensor: "sub",
    torch.rsub: "rsub",
    aten.rsub.Scalar: "rsub",
    operator.mul: "mul",
    operator.imul: "mul",
    torch.mul: "mul",
    torch.multiply: "mul",
    aten.mul.Tensor: "mul",
    aten.mul.Scalar: "mul",
    operator.truediv: "div",
    operator.itruediv: "div",
    torch.div: "div",
    torch.divide: "div",
    torch.true_divide: "div",
    aten.div.Tensor: "div",
    operator.neg: "neg",
    torch.neg: "neg",
    torch.negative: "neg",
    aten.neg.default: "neg",
}
_METHODS = {
    **{name: name for name in ("add", "sub", "mul", "div", "neg")},
    **{f"{name}_": name for name in ("add", "sub", "mul", "div", "neg")},
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
}
Constant = Callable[[object], Expression | None]


@dataclass(frozen=True)
class Arithmetic:
    """A role, and the data inputs that it reads."""

    role: Role
    inputs: tuple[fx.Node, ...]


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
    table: Any = _FUNCTIONS if fx_node.op == "call_function" else _METHODS
    if fx_node.op not in ("call_function", "call_method") or fx_node.target not in table:
        return None
    op = table[fx_node.target]
    alpha = fx_node.kwargs.get("alpha", 1)
    rest = fx_node.kwargs.keys() - {"alpha"}
    if rest or not _is_number(alpha) or node.dtype not in FLOATS:
        return None
    if op == "neg":
        return _affine(node, nodes, fx_node.args[0], NEGATION) if fx_node.args else None
    if len(fx_node.args) != 2:
        return None
    left, right = fx_node.args
    if op == "rsub":
        op, left, right = "sub", right, left
    factor = float(alpha)  # type: ignore[arg-type]
    one, other = (_constant(value, node, constant) for value in (left, right))
    if one is None and other is None:
        if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
            return None
        role = between(op, [nodes(left), nodes(right)], node, factor)
        return None if role is None else Arithmetic(role, (left, right))
    if one is not None and other is not None:
        return None
    known = one if one is not None else other
    assert known is not None
    affine = with_constant(op, known, on_the_left=one is not None, alpha=factor)
    return None if affine is None else _affine(node, nodes, left if one is None else right, affine)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _constant(value: object, node: Node, constant: Constant) -> Expression | None:
    """A constant operand, its axes those of ``node``'s value; ``None`` if it is data."""
    if _is_number(value):
        return Scalar(float(value))  # type: ignore[arg-type]
    expression = constant(value)
    return None if expression is None else operand(expression, node.rank)


def _affine(
    node: Node, nodes: Callable[[fx.Node], Node], data: Any, affine: BroadcastAffine
) -> Arithmetic | None:
    """An affine map, if its output has the shape and dtype of its input."""
    if not isinstance(data, fx.Node):
        return None
    role = affine_at(nodes(data), node, affine)
    return None if role is None else Arithmetic(role, (data,))
