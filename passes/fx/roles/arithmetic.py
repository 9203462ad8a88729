"""Arithmetic: with constants it is an affine map, between values a sum or a product."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from bnfx.passes.algebra import Expression, Scalar
from bnfx.passes.graph import Node
from bnfx.passes.lifting.affine_arithmetic import (
    FLOATS,
    NEGATION,
    Arithmetic,
    read_affine,
    read_binary,
)

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
        (data,) = fx_node.args[:1] or (None,)
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
