"""Builds weight expressions: what changes nothing is left out, what cancels out is not written."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from bnfx.passes.algebra.expressions.expression import Expression, Ones
from bnfx.passes.algebra.expressions.rearrange import Joined, Slice, Sum


def broadcast_to(expression: Expression, shape: Sequence[int]) -> Expression:
    """The expression repeated to ``shape``, by NumPy's rules."""
    target = tuple(shape)
    if expression.shape == target:
        return expression
    if np.broadcast_shapes(expression.shape, target) != target:
        raise ValueError(f"cannot broadcast {expression.shape} to {target}")
    return expression * Ones(target)


def concat(parts: Sequence[Expression], axis: int) -> Expression:
    """The parts along ``axis``, without the empty ones; neighbours in one tensor stay together."""
    full = [part for part in parts if part.shape[axis] > 0] or [*parts[:1]]
    joined = full[:1]
    for part in full[1:]:
        last = joined[-1]
        if isinstance(part, Slice) and isinstance(last, Slice) and _follows(last, part, axis):
            joined[-1] = take(part.operand, axis, last.start, part.stop)
        else:
            joined.append(part)
    return joined[0] if len(joined) == 1 else Joined(tuple(joined), axis)


def _follows(one: Slice, other: Slice, axis: int) -> bool:
    beside = one.axis == other.axis == axis and one.stop == other.start
    return beside and one.operand == other.operand


def take(expression: Expression, axis: int, start: int, stop: int) -> Expression:
    """Positions ``start`` to ``stop`` (exclusive) of ``axis``."""
    while (start, stop) != (0, expression.shape[axis]):
        if isinstance(expression, Slice) and expression.axis == axis:
            start, stop = expression.start + start, expression.start + stop
            expression = expression.operand
        elif isinstance(expression, Joined) and expression.axis == axis:
            ends = list(accumulate(part.shape[axis] for part in expression.operands))
            which = bisect_right(ends, start)
            if which == len(ends) or stop > ends[which]:
                break
            expression = expression.operands[which]
            before = ends[which] - expression.shape[axis]
            start, stop = start - before, stop - before
        else:
            break
    else:
        return expression
    return Slice(expression, axis, start, stop)


def zeros(shape: Sequence[int]) -> Expression:
    """An array of zeros."""
    return Ones(tuple(shape)) * 0.0


def pad(expression: Expression, sides: Sequence[tuple[int, int]]) -> Expression:
    """The expression with ``(before, after)`` zeros on each axis."""
    for axis, (before, after) in enumerate(sides):
        shape = list(expression.shape)
        parts = []
        for count in (before, after):
            shape[axis] = count
            parts.append(zeros(shape))
        expression = concat((parts[0], expression, parts[1]), axis)
    return expression


def embed(expression: Expression, axis: int, start: int, size: int, fill: float) -> Expression:
    """The expression as positions from ``start`` on of an axis of ``size``; ``fill`` elsewhere."""
    shape = list(expression.shape)
    parts = [expression]
    for position, count in ((0, start), (2, size - start - shape[axis])):
        rest = [*shape[:axis], count, *shape[axis + 1 :]]
        part = Ones(tuple(rest)) * fill
        parts = [part, *parts] if position == 0 else [*parts, part]
    return concat(parts, axis)


def every(expression: Expression, axis: int, step: int) -> Expression:
    """Positions 0, ``step``, ``2 step``, ... of ``axis``."""
    if step == 1:
        return expression
    *front, size = expression.shape[: axis + 1]
    rest, count = expression.shape[axis + 1 :], -(-size // step)
    filled = embed(expression, axis, 0, count * step, 0.0).reshape(*front, count, step, *rest)
    return take(filled, axis + 1, 0, 1).reshape(*front, count, *rest)


def apart(expression: Expression, axis: int, step: int, fill: float) -> Expression:
    """The expression with ``step - 1`` positions of ``fill`` between neighbours on ``axis``."""
    if step == 1:
        return expression
    *front, count = expression.shape[: axis + 1]
    rest = expression.shape[axis + 1 :]
    spread = embed(expression.reshape(*front, count, 1, *rest), axis + 1, 0, step, fill)
    return take(spread.reshape(*front, count * step, *rest), axis, 0, (count - 1) * step + 1)


def total(expression: Expression, axes: Sequence[int]) -> Expression:
    """The sum over ``axes``."""
    return Sum(expression, tuple(axes)) if axes else expression


def size_of(expression: Expression) -> int:
    """Number of elements."""
    return math.prod(expression.shape)
