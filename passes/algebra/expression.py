"""Weight expressions: what a rule writes, symbolic over the model's own parameters.

A rule never computes a number. It writes an expression such as ``W * (gamma / sqrt(var + eps))``,
and that one expression serves three ways: evaluated now (constants), evaluated again when a
parameter changed, or emitted into the graph so that autograd sees it.

Expressions are immutable and compare by structure, so equal folds are evaluated once. Shapes
follow NumPy's broadcasting rules and are checked when the expression is built.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Union

import numpy as np

Shape = tuple[int, ...]
Operand = Union["Expression", float, int]

ELEMENTWISE = {"add": 2, "subtract": 2, "multiply": 2, "divide": 2, "sqrt": 1, "negative": 1}


class Expression(ABC):
    """A node of a weight expression; ``shape`` is its value's shape.

    Supports ``+ - * /``, unary minus, :meth:`sqrt` and :meth:`reshape`, with Python numbers as
    operands too.
    """

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Shape of the value, known without evaluation."""

    @property
    def children(self) -> tuple[Expression, ...]:
        return ()

    def sources(self) -> Iterator[Source]:
        """The parameters that this expression reads, each once, in first-use order."""
        seen: set[Expression] = set()
        stack: list[Expression] = [self]
        while stack:
            expression = stack.pop()
            if expression in seen:
                continue
            seen.add(expression)
            if isinstance(expression, Source):
                yield expression
            stack.extend(reversed(expression.children))

    def sqrt(self) -> Expression:
        return _elementwise("sqrt", self)

    def reshape(self, *shape: int) -> Expression:
        return self if shape == self.shape else Reshape(self, shape)

    def __add__(self, other: Operand) -> Expression:
        return _elementwise("add", self, other)

    def __radd__(self, other: Operand) -> Expression:
        return _elementwise("add", other, self)

    def __sub__(self, other: Operand) -> Expression:
        return _elementwise("subtract", self, other)

    def __rsub__(self, other: Operand) -> Expression:
        return _elementwise("subtract", other, self)

    def __mul__(self, other: Operand) -> Expression:
        return _elementwise("multiply", self, other)

    def __rmul__(self, other: Operand) -> Expression:
        return _elementwise("multiply", other, self)

    def __truediv__(self, other: Operand) -> Expression:
        return _elementwise("divide", self, other)

    def __rtruediv__(self, other: Operand) -> Expression:
        return _elementwise("divide", other, self)

    def __neg__(self) -> Expression:
        return _elementwise("negative", self)


@dataclass(frozen=True)
class Source(Expression):
    """A parameter or buffer of the model, by the name under which the IR reads it.

    Args:
        name: key handed to the reader at evaluation; one name, one tensor.
        dims: its shape; ``()`` for a scalar such as an ``eps`` that arrives at run time.
        dtype: stored dtype by its common name, e.g. ``"float32"`` or ``"bfloat16"``.
    """

    name: str
    dims: Shape
    dtype: str

    @property
    def shape(self) -> Shape:
        return self.dims


@dataclass(frozen=True)
class Scalar(Expression):
    """A Python number, such as ``eps``."""

    value: float

    @property
    def shape(self) -> Shape:
        return ()


@dataclass(frozen=True)
class Ones(Expression):
    """An array of ones: broadcasts a scalar to a shape."""

    dims: Shape

    @property
    def shape(self) -> Shape:
        return self.dims


@dataclass(frozen=True, eq=False)
class Elementwise(Expression):
    """One of :data:`ELEMENTWISE`, broadcasting its operands."""

    op: str
    operands: tuple[Expression, ...]

    def __post_init__(self) -> None:
        if ELEMENTWISE.get(self.op) != len(self.operands):
            raise ValueError(f"{self.op!r} with {len(self.operands)} operands is no elementwise op")
        # Now, child by child, as a chain of folds nests deeper than Python recurses. And a shape
        # error belongs to the rule that wrote it, not to a later reader.
        _ = self.shape, self._hash

    @cached_property
    def shape(self) -> Shape:
        return np.broadcast_shapes(*(operand.shape for operand in self.operands))

    @property
    def children(self) -> tuple[Expression, ...]:
        return self.operands

    @cached_property
    def _hash(self) -> int:
        return hash((self.op, self.operands))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Elementwise) and _same(self, other)


@dataclass(frozen=True)
class Reshape(Expression):
    """The same elements, in row-major order, under another shape."""

    operand: Expression
    dims: Shape

    def __post_init__(self) -> None:
        if math.prod(self.dims) != math.prod(self.operand.shape):
            raise ValueError(f"cannot reshape {self.operand.shape} to {self.dims}")

    @property
    def shape(self) -> Shape:
        return self.dims

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.operand,)


def _same(one: Expression, other: Expression) -> bool:
    """Structural equality without recursion; a pair that was compared once is not again."""
    seen: set[tuple[int, int]] = set()
    stack = [(one, other)]
    while stack:
        left, right = stack.pop()
        if left is right or (id(left), id(right)) in seen:
            continue
        seen.add((id(left), id(right)))
        if isinstance(left, Elementwise) and isinstance(right, Elementwise):
            if left._hash != right._hash or left.op != right.op:
                return False
            stack.extend(zip(left.operands, right.operands, strict=True))
        elif isinstance(left, Reshape) and isinstance(right, Reshape):
            if left.dims != right.dims:
                return False
            stack.append((left.operand, right.operand))
        elif left != right:
            return False
    return True


def as_expression(operand: Operand) -> Expression:
    """``operand`` itself, or a Python number as a :class:`Scalar`."""
    return operand if isinstance(operand, Expression) else Scalar(float(operand))


def _elementwise(op: str, *operands: Operand) -> Expression:
    return Elementwise(op, tuple(as_expression(operand) for operand in operands))
