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

from bnfx.passes.algebra.expressions.structural import Structural

Shape = tuple[int, ...]
Operand = Union["Expression", float, int]

ELEMENTWISE = {"add": 2, "subtract": 2, "multiply": 2, "divide": 2, "sqrt": 1, "negative": 1}


class Expression(ABC):
    """A node of a weight expression; ``shape`` is its value's shape.

    Supports ``+ - * /``, minus, :meth:`sqrt` and :meth:`reshape`; Python numbers are operands too.
    """

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Shape of the value, known without evaluation."""

    @property
    def children(self) -> tuple[Expression, ...]:
        return ()

    @property
    def reads(self) -> tuple[Source | None, bool]:
        """The first of :meth:`sources`, and whether the IR computes any; known without a walk."""
        return None, False

    def sources(self) -> Iterator[Source]:
        """The parameters that this expression reads, each once, in first-use order."""
        seen: set[Expression] = set()
        stack: list[Expression] = [self]
        while stack:
            expression = stack.pop()
            if expression in seen:
                continue
            seen.add(expression)
            if isinstance(expression, Source) and not expression.bases:
                yield expression
            stack.extend(reversed(expression.children))

    def sqrt(self) -> Expression:
        return _elementwise("sqrt", self)

    def reshape(self, *shape: int) -> Expression:
        if isinstance(self, Reshaped):
            return self.operand.reshape(*shape)
        return self if shape == self.shape else Reshaped(self, shape)

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
        bases: the parameters that it is computed from, if the IR computes it from parameters alone
            (weight_norm, FrozenBatchNorm's ``scale``); the reader carries that computation out.
    """

    name: str
    dims: Shape
    dtype: str
    bases: tuple[Source, ...] = ()

    @property
    def shape(self) -> Shape:
        return self.dims

    @property
    def children(self) -> tuple[Expression, ...]:
        return self.bases

    @property
    def reads(self) -> tuple[Source | None, bool]:
        return (self.bases[0].reads[0], True) if self.bases else (self, False)


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


class Compound(Structural, Expression):
    """An expression over others; equality, hash and text are by structure, without recursion."""

    @property
    def children(self) -> tuple[Expression, ...]:
        return ()

    @cached_property
    def reads(self) -> tuple[Source | None, bool]:
        found = [child.reads for child in self.children]
        return next((source for source, _ in found if source), None), any(c for _, c in found)

    def __post_init__(self) -> None:
        # Now: a chain of folds nests deeper than Python recurses, and a shape error belongs to the
        # rule that wrote it.
        _ = self.shape, hash(self), self.reads


@dataclass(frozen=True, eq=False, repr=False)
class Elementwise(Compound):
    """One of :data:`ELEMENTWISE`, broadcasting its operands."""

    op: str
    operands: tuple[Expression, ...]

    def __post_init__(self) -> None:
        if ELEMENTWISE.get(self.op) != len(self.operands):
            raise ValueError(f"{self.op!r} with {len(self.operands)} operands is no elementwise op")
        super().__post_init__()

    @cached_property
    def shape(self) -> Shape:
        return np.broadcast_shapes(*(operand.shape for operand in self.operands))

    @property
    def children(self) -> tuple[Expression, ...]:
        return self.operands

    @property
    def attributes(self) -> tuple[object, ...]:
        return (self.op,)


@dataclass(frozen=True, eq=False, repr=False)
class Reshaped(Compound):
    """The same elements, in row-major order, under another shape."""

    operand: Expression
    dims: Shape

    def __post_init__(self) -> None:
        if math.prod(self.dims) != math.prod(self.operand.shape):
            raise ValueError(f"cannot reshape {self.operand.shape} to {self.dims}")
        super().__post_init__()

    @property
    def shape(self) -> Shape:
        return self.dims

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.operand,)

    @property
    def attributes(self) -> tuple[object, ...]:
        return (self.dims,)


def as_expression(operand: Operand) -> Expression:
    """``operand`` itself, or a Python number as a :class:`Scalar`."""
    return operand if isinstance(operand, Expression) else Scalar(float(operand))


_NEUTRAL = {"add": 0.0, "subtract": 0.0, "multiply": 1.0, "divide": 1.0}


def _elementwise(op: str, *operands: Operand) -> Expression:
    """The expression; an operand that changes nothing is left out (``x * 1``, ``0 + x``)."""
    first, *rest = map(as_expression, operands)
    neutral = Scalar(_NEUTRAL[op]) if op in _NEUTRAL else None
    if rest and rest[0] == neutral:
        return first
    if first == neutral and op in ("add", "multiply"):
        return rest[0]
    if op == "multiply" and (merged := _scaled_again(first, rest[0])) is not None:
        return merged
    return Elementwise(op, (first, *rest))


def _scaled_again(one: Expression, other: Expression) -> Expression | None:
    """``(W s) t = W (s t)`` where ``s`` and ``t`` are of one small shape, ``W`` of a larger one.

    A weight that is scaled again and again is multiplied once, by the product of its scales.
    """
    match one:
        case Elementwise("multiply", (weight, scale)) if scale.shape == other.shape:
            if math.prod(weight.shape) > math.prod(other.shape):
                return weight * (scale * other)
    return None
