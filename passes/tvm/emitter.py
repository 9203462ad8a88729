"""What an IR does to write single calls; :mod:`bnfx.passes.tvm.lower` says which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from bnfx.passes.algebra import Expression, LinearOperator
from bnfx.passes.tvm.dataflow import Expr, Value


class Emitter(ABC):
    """Writes one function's new calls."""

    @abstractmethod
    def constant(self, array: Any) -> Expr:
        """A tensor that is known when compiling, in its own dtype."""

    @abstractmethod
    def add(self, one: Expr, other: Expr) -> Expr: ...

    @abstractmethod
    def multiply(self, one: Expr, other: Expr) -> Expr: ...

    @abstractmethod
    def cast(self, data: Expr, dtype: str) -> Expr: ...

    @abstractmethod
    def bias(self, data: Expr, array: Any, axis: int, rank: int) -> Expr:
        """``data`` of ``rank`` dimensions plus one number for each position of ``axis``."""

    @abstractmethod
    def stored(self, operator: LinearOperator) -> Expression:
        """The operator's weight as :meth:`operator` takes it."""

    @abstractmethod
    def operator(self, operator: LinearOperator, data: Expr, weight: Expr, rank: int) -> Expr:
        """A call that computes ``operator`` without its bias.

        Args:
            weight: see :meth:`stored`.
            rank: of the output.

        Raises:
            ValueError: for an operator that this IR has no call for.
        """

    @abstractmethod
    def rebuilt(self, expr: Expr, children: Sequence[Expr]) -> Expr:
        """The expression over other children; attributes, type arguments and span are kept."""

    @abstractmethod
    def operands(self, value: Value) -> Sequence[Expr]:
        """What the value's expression reads, as it is written."""

    @abstractmethod
    def nested(self, value: Value, args: Sequence[Expr], expr: Expr) -> Expr:
        """Write a function, or branches, which read variables by their old names."""

    def copy(self, value: Value, expr: Expr) -> Expr:
        """Write an old value, as ``expr``; gives what its readers read."""
        return expr

    def step(self, expr: Expr, place: Value) -> Expr:
        """Write what is read by the next step alone."""
        return expr

    def bind(self, expr: Expr, place: Value, old: Sequence[Value]) -> Expr:
        """Write what is new, in the place of ``place``; it stands for the ``old`` values."""
        return expr

    def seen_by_all(self, written: Sequence[Expr]) -> Expr:
        """Of expressions of one value, the one that each of their readers may read."""
        return written[-1]

    def body(self, result: Expr) -> Expr:
        """All that was written, with the function's ``result``."""
        return result
