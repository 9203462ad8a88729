"""Weight expressions that rearrange, join and contract; :mod:`.building` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnfx.passes.algebra.expression import Compound, Expression, Shape


@dataclass(frozen=True, eq=False, repr=False)
class Permuted(Compound):
    """Axis ``i`` of the value is axis ``order[i]`` of the operand."""

    operand: Expression
    order: Shape

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.operand.shape))):
            raise ValueError(f"{self.order} does not permute the axes of {self.operand.shape}")
        super().__post_init__()

    @property
    def shape(self) -> Shape:
        return tuple(self.operand.shape[axis] for axis in self.order)

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.operand,)

    @property
    def attributes(self) -> tuple[object, ...]:
        return (self.order,)


@dataclass(frozen=True, eq=False, repr=False)
class Joined(Compound):
    """The operands one after the other along ``axis``."""

    operands: tuple[Expression, ...]
    axis: int

    def __post_init__(self) -> None:
        rests = {(*part.shape[: self.axis], *part.shape[self.axis + 1 :]) for part in self.operands}
        if len(rests) != 1:
            shapes = ", ".join(str(part.shape) for part in self.operands)
            raise ValueError(f"cannot join {shapes} along axis {self.axis}")
        super().__post_init__()

    @property
    def shape(self) -> Shape:
        first = self.operands[0].shape
        size = sum(part.shape[self.axis] for part in self.operands)
        return (*first[: self.axis], size, *first[self.axis + 1 :])

    @property
    def children(self) -> tuple[Expression, ...]:
        return self.operands

    @property
    def attributes(self) -> tuple[object, ...]:
        return (self.axis,)


@dataclass(frozen=True, eq=False, repr=False)
class Slice(Compound):
    """Positions ``start`` to ``stop`` (exclusive) of ``axis``."""

    operand: Expression
    axis: int
    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop <= self.operand.shape[self.axis]:
            raise ValueError(
                f"no {self.start}:{self.stop} on axis {self.axis} of {self.operand.shape}"
            )
        super().__post_init__()

    @property
    def shape(self) -> Shape:
        dims = list(self.operand.shape)
        dims[self.axis] = self.stop - self.start
        return tuple(dims)

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.operand,)

    @property
    def attributes(self) -> tuple[object, ...]:
        return (self.axis, self.start, self.stop)


@dataclass(frozen=True, eq=False, repr=False)
class Sum(Compound):
    """The sum over ``axes``, which disappear."""

    operand: Expression
    axes: Shape

    @property
    def shape(self) -> Shape:
        return tuple(n for axis, n in enumerate(self.operand.shape) if axis not in self.axes)

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.operand,)

    @property
    def attributes(self) -> tuple[object, ...]:
        return (self.axes,)


@dataclass(frozen=True, eq=False, repr=False)
class MatMul(Compound):
    """``(..., m, k) @ (..., k, n)``, the leading axes alike."""

    left: Expression
    right: Expression

    def __post_init__(self) -> None:
        left, right = self.left.shape, self.right.shape
        if len(left) < 2 or left[:-2] != right[:-2] or left[-1] != right[-2]:
            raise ValueError(f"cannot multiply {left} by {right}")
        super().__post_init__()

    @property
    def shape(self) -> Shape:
        return (*self.left.shape[:-1], self.right.shape[-1])

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.left, self.right)


@dataclass(frozen=True)
class Eye(Expression):
    """The identity matrix of ``size`` rows."""

    size: int

    @property
    def shape(self) -> Shape:
        return (self.size, self.size)


@dataclass(frozen=True)
class Table(Expression):
    """Constant numbers that depend on shapes alone, such as which taps of a kernel meet padding.

    Args:
        rows: a matrix, row by row.
    """

    rows: tuple[tuple[float, ...], ...]

    @property
    def shape(self) -> Shape:
        return (len(self.rows), len(self.rows[0]) if self.rows else 0)

    @property
    def array(self) -> npt.NDArray[np.float64]:
        return np.asarray(self.rows, dtype=np.float64)


def permute(expression: Expression, order: Sequence[int]) -> Expression:
    """The expression with its axes in another order."""
    if isinstance(expression, Permuted):
        return permute(expression.operand, [expression.order[axis] for axis in order])
    if tuple(order) == tuple(range(len(expression.shape))):
        return expression
    return Permuted(expression, tuple(order))
