"""Arithmetic of any IR: with constants it is an affine map, between values a sum or a product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bnfx.passes.algebra import BroadcastAffine, Expression, Scalar
from bnfx.passes.graph import Add, Affine, Node, Product, Role

FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
NEGATION = BroadcastAffine(Scalar(-1.0), Scalar(0.0))


def operand(expression: Expression, rank: int | None) -> Expression | None:
    """A constant operand, its axes those of a value of ``rank``; ``None`` if it has more.

    Every IR aligns the shapes of operands at the end, as NumPy does.
    """
    if not expression.shape:
        return expression
    if rank is None or len(expression.shape) > rank:
        return None
    return expression.reshape(*(1,) * (rank - len(expression.shape)), *expression.shape)


def aligned(expression: Expression, rank: int) -> Expression:
    """The inverse of :func:`operand`: axes counted from the front, as an operand of arithmetic.

    Every IR aligns shapes at the end, so sizes of one in front are left out.
    """
    dims = (*expression.shape, *(1,) * (rank - len(expression.shape)))[:rank]
    while dims and dims[0] == 1:
        dims = dims[1:]
    return expression.reshape(*dims) if expression.shape else expression


def with_constant(
    op: str, known: Expression, on_the_left: bool, alpha: float = 1.0
) -> BroadcastAffine | None:
    """The map ``x -> op(x, alpha * known)``, or ``x -> op(known, alpha * x)`` on the left.

    Args:
        op: add, sub, mul or div.
    """
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


def affine_at(before: Node, node: Node, affine: BroadcastAffine) -> Affine | None:
    """The role of ``node``, which does ``affine`` to ``before``; ``None`` if it also changes the
    dtype or the shape.
    """
    if before.dtype != node.dtype or before.shape != node.shape:
        return None
    if affine.axes:
        sizes = affine.shape
        if node.shape is None or any(sizes[axis] != node.shape[axis] for axis in affine.axes):
            return None
    return Affine(affine)


def between(
    op: str, before: Sequence[Node], node: Node, alpha: float = 1.0
) -> Add | Product | None:
    """The role of a sum, difference or product of two values of one dtype."""
    if node.shape is None or any(source.dtype != node.dtype for source in before):
        return None
    whole = [source.shape == node.shape for source in before]
    ranks = {source.rank for source in before}
    if op == "mul" and any(whole) and len(ranks) == 1 and alpha == 1.0:
        return Product()
    if op in ("add", "sub") and all(whole) and alpha != 0.0:
        return Add((1.0, -alpha if op == "sub" else alpha))
    return None


@dataclass(frozen=True)
class Arithmetic:
    """A role, and the data inputs that it reads."""

    role: Role
    inputs: list[Node]


def read_affine(before: Node, node: Node, affine: BroadcastAffine | None) -> Arithmetic | None:
    """:func:`affine_at`, if there is a map and a role."""
    role = None if affine is None else affine_at(before, node, affine)
    return None if role is None else Arithmetic(role, [before])


def read_binary(
    op: str, node: Node, left: Node | Expression, right: Node | Expression, alpha: float = 1.0
) -> Arithmetic | None:
    """The role of ``op(left, alpha * right)``, or ``None``.

    Args:
        op: add, sub, mul or div.
        node: the result, with what is known of it.
        left, right: data, or a constant as an expression.
    """
    if isinstance(left, Node) and isinstance(right, Node):
        role = between(op, [left, right], node, alpha)
        return None if role is None else Arithmetic(role, [left, right])
    if isinstance(left, Node):
        data, constant = left, right
    elif isinstance(right, Node):
        data, constant = right, left
    else:
        return None
    assert isinstance(constant, Expression)
    known = operand(constant, node.rank)
    if known is None:
        return None
    return read_affine(data, node, with_constant(op, known, data is right, alpha))
