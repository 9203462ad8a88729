"""Arithmetic: with constants it is an affine map, between values a sum or a product."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from bnfx.passes.algebra import BroadcastAffine, Expression, Scalar
from bnfx.passes.graph import Add, Affine, Gate, Node, Role

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
_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
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
    if rest or not _is_number(alpha) or node.dtype not in _FLOATS:
        return None
    if op == "neg":
        return _affine(node, nodes, fx_node.args[:1], BroadcastAffine(Scalar(-1.0), Scalar(0.0)))
    if len(fx_node.args) != 2:
        return None
    left, right = fx_node.args
    if op == "rsub":
        op, left, right = "sub", right, left
    factor = float(alpha)  # type: ignore[arg-type]
    one, other = (_constant(value, node, constant) for value in (left, right))
    if one is None and other is None:
        return _between(op, node, nodes, (left, right), factor)
    if one is not None and other is not None:
        return None
    data = left if one is None else right
    known = one if one is not None else other
    assert known is not None
    affine = _with_constant(op, known, on_the_left=one is not None, alpha=factor)
    return None if affine is None else _affine(node, nodes, (data,), affine)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _constant(value: object, node: Node, constant: Constant) -> Expression | None:
    """A constant operand, its axes those of ``node``'s value; ``None`` if it is data."""
    if _is_number(value):
        return Scalar(float(value))  # type: ignore[arg-type]
    expression = constant(value)
    if expression is None or not expression.shape:
        return expression
    if node.rank is None or len(expression.shape) > node.rank:
        return None
    return expression.reshape(*(1,) * (node.rank - len(expression.shape)), *expression.shape)


def _with_constant(
    op: str, known: Expression, on_the_left: bool, alpha: float
) -> BroadcastAffine | None:
    one, zero = Scalar(1.0), Scalar(0.0)
    minus = Scalar(-known.value) if isinstance(known, Scalar) else -known
    match op, on_the_left:
        case "add", False:
            return BroadcastAffine(one, known * alpha)
        case "add", True:
            return BroadcastAffine(Scalar(alpha), known)
        case "sub", False:
            return BroadcastAffine(one, minus * alpha)
        case "sub", True:
            return BroadcastAffine(Scalar(-alpha), known)
        case "mul", _ if alpha == 1.0:
            return BroadcastAffine(known, zero)
        case "div", False if alpha == 1.0:
            return BroadcastAffine(one / known, zero)
    return None


def _affine(
    node: Node, nodes: Callable[[fx.Node], Node], data: tuple[Any, ...], affine: BroadcastAffine
) -> Arithmetic | None:
    """An affine map, if its output has the shape and dtype of its input."""
    (source,) = data
    if not isinstance(source, fx.Node):
        return None
    before = nodes(source)
    if before.dtype != node.dtype:
        return None
    if affine.axes:
        if node.shape is None or before.shape != node.shape:
            return None
        sizes = affine.shape
        if any(sizes[axis] != node.shape[axis] for axis in affine.axes):
            return None
    elif before.shape != node.shape:
        return None
    return Arithmetic(Affine(affine), (source,))


def _between(
    op: str,
    node: Node,
    nodes: Callable[[fx.Node], Node],
    operands: tuple[Any, Any],
    alpha: float,
) -> Arithmetic | None:
    """A sum or product of two values of one dtype."""
    if not all(isinstance(operand, fx.Node) for operand in operands) or node.shape is None:
        return None
    before = [nodes(operand) for operand in operands]
    if any(source.dtype != node.dtype for source in before):
        return None
    whole = [source.shape == node.shape for source in before]
    ranks = {source.rank for source in before}
    if op == "mul" and any(whole) and len(ranks) == 1 and alpha == 1.0:
        return Arithmetic(Gate(), operands)
    if op in ("add", "sub") and all(whole) and alpha != 0.0:
        return Arithmetic(Add((1.0, -alpha if op == "sub" else alpha)), operands)
    return None
