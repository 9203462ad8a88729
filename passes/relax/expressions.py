"""Relax expressions as a graph: in which order they run, and who reads whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import tvm
from tvm import relax, tirx

from bnfx.passes.relax.compat import Constant, Expr, Type, call, type_of

_NESTED = (relax.If, relax.Function, relax.SeqExpr)


@dataclass(eq=False)
class Value:
    """One value: what a binding binds, a parameter, or an operand that is written in its place.

    Args:
        expr: what computes it; a parameter is the variable itself.
        args: the values that it reads, in order; for a function or a branch inside, what that
            captures.
        binding: ``None`` for parameters and operands in place.
        block: the number of the binding block in which it stands; -1 for parameters.
        readers: the values that read it, once for each time.
    """

    expr: Expr
    args: list[Value] = field(repr=False)
    binding: Expr | None = field(default=None, repr=False)
    block: int = -1
    readers: list[Value] = field(default_factory=list, repr=False)

    @cached_property
    def op(self) -> str | None:
        """The name of the operator that is called, or ``None``."""
        return op_name(self.expr)

    @property
    def attrs(self) -> Any:
        return self.expr.attrs

    @cached_property
    def kind(self) -> Type:
        """The inferred type."""
        return type_of(self.expr if self.binding is None else self.binding.var)

    @property
    def is_nested(self) -> bool:
        """Whether it holds a function or branches, which capture variables by name."""
        return isinstance(self.expr, _NESTED)

    @property
    def is_cast(self) -> bool:
        """Whether it is a ``match_cast``, which checks and names sizes."""
        return isinstance(self.binding, relax.MatchCast)


class Dataflow:
    """The values of one sequence of binding blocks, each after what it reads.

    Args:
        sequence: a function's body, or a branch.
        parameters: of the function.
    """

    def __init__(self, sequence: Expr, parameters: Sequence[Expr] = ()) -> None:
        self.blocks: list[Expr] = list(sequence.blocks)
        self.values: list[Value] = []
        self.captured: set[Value] = set()
        self._bound: dict[Expr, Value] = {}
        self._constants: dict[Expr, Value] = {}
        self._block = -1
        for parameter in parameters:
            self._parameter(parameter)
        for number, block in enumerate(self.blocks):
            self._block = number
            for binding in block.bindings:
                self._bound[binding.var] = self._add(binding.value, binding)
        self.result = self._read(sequence.body)

    def is_dataflow(self, value: Value) -> bool:
        """Whether it stands in a dataflow block, where nothing has side effects."""
        return value.block >= 0 and isinstance(self.blocks[value.block], relax.DataflowBlock)

    def _parameter(self, variable: Expr) -> Value:
        value = self._bound[variable] = Value(variable, [])
        self.values.append(value)
        return value

    def _add(self, expr: Expr, binding: Expr | None) -> Value:
        args = list(map(self._read, operands(expr, self._bound)))
        value = Value(expr, args, binding, self._block)
        for arg in args:
            arg.readers.append(value)
        if value.is_nested:
            self.captured.update(args)
        self.values.append(value)
        return value

    def _read(self, expr: Expr) -> Value:
        if isinstance(expr, (tirx.Var, relax.Var)):
            return self._bound.get(expr) or self._parameter(expr)  # of a function around this one
        if not isinstance(expr, Constant):
            return self._add(expr, None)
        if expr not in self._constants:  # one that is shared is one value
            self._constants[expr] = self._add(expr, None)
        return self._constants[expr]


def operands(expr: Expr, bound: Any = ()) -> Iterator[Expr]:
    """What the expression reads, as it is written.

    Args:
        bound: the variables that are known; sizes that are computed may be among them.
    """
    if isinstance(expr, relax.Call):
        if _is_value(expr.op):
            yield expr.op
        yield from expr.args
    elif isinstance(expr, relax.Tuple):
        yield from expr.fields
    elif isinstance(expr, relax.TupleGetItem):
        yield expr.tuple_value
    elif isinstance(expr, _NESTED):
        if isinstance(expr, relax.If):
            yield expr.cond
        yield from relax.analysis.free_vars(expr)
    elif isinstance(expr, relax.ShapeExpr):
        for size in expr.values:
            if not isinstance(size, tirx.IntImm):
                names = tvm.tirx.analysis.undefined_vars(size)
                yield from (variable for variable in names if variable in bound)
    elif isinstance(expr, relax.Var):
        yield expr


def _is_value(callee: Expr) -> bool:
    return not isinstance(callee, (tvm.ir.Op, relax.GlobalVar, relax.ExternFunc))


def rebuilt(expr: Expr, children: list[Expr]) -> Expr:
    """The expression over other children; attributes, type arguments and span are kept."""
    if isinstance(expr, relax.Call):
        callee, args = expr.op, children
        if _is_value(callee):
            callee, *args = children
        return call(callee, args, expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple(children, expr.span)
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(children[0], expr.index, expr.span)
    if isinstance(expr, relax.Var):
        return children[0]
    if isinstance(expr, relax.If):
        return relax.If(children[0], expr.true_branch, expr.false_branch, expr.span)
    return expr  # it reads variables by name, which keep their names


def op_name(expr: Expr) -> str | None:
    """The name of the operator that is called, or ``None``."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
        return str(expr.op.name).removeprefix("relax.")
    return None


def static(dim: Any) -> int | None:
    """A size as a number, or ``None`` if it is not fixed."""
    return int(dim) if isinstance(dim, (int, tirx.IntImm)) else None


def numbers(values: Any) -> tuple[int, ...]:
    """An attribute that is a list of integers."""
    return tuple(int(value) for value in values)


def locations(expr: Expr) -> Iterator[str]:
    """What the frontend noted on where the expression comes from: its name, then its line."""
    span = getattr(expr, "span", None)
    name = getattr(getattr(span, "source_name", None), "name", None)
    if name:
        yield str(name)
        line = getattr(span, "line", 0)
        yield f"{name}:{line}" if line else str(name)
