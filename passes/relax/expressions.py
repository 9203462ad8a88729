"""Relax expressions as a graph: in which order they run, and who reads whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import tvm
from tvm import relax, tirx

from bnfx.passes.relax.compat import Constant, Expr, Type, call, data_of, name_of, type_of
from bnfx.passes.relax.effects import is_pure, written_to
from bnfx.passes.tvm import dataflow
from bnfx.passes.tvm.dataflow import ValueForm

_NESTED = (relax.If, relax.Function, relax.SeqExpr)
_FORMS = {
    relax.Call: ValueForm.CALL,
    relax.Tuple: ValueForm.TUPLE,
    relax.TupleGetItem: ValueForm.PART,
}


@dataclass(eq=False)
class Value(dataflow.Value):
    """What a binding binds, a parameter, or an operand that is written in its place.

    For a function or a branch inside, ``args`` is what that captures.

    Args:
        binding: ``None`` for parameters and operands in place.
        block: the number of the binding block in which it stands; -1 for parameters.
    """

    binding: Expr | None = field(default=None, repr=False)
    block: int = -1

    @cached_property
    def op(self) -> str | None:
        return op_name(self.expr)

    @cached_property
    def kind(self) -> Type:
        return type_of(self.expr if self.binding is None else self.binding.var)

    @cached_property
    def form(self) -> ValueForm:
        if isinstance(self.expr, relax.Var):
            return ValueForm.VARIABLE if self.binding is None else ValueForm.COPY
        if isinstance(self.expr, Constant):
            return ValueForm.CONSTANT
        if isinstance(self.expr, _NESTED):
            return ValueForm.NESTED
        return _FORMS.get(type(self.expr), ValueForm.OTHER)

    @property
    def name(self) -> str:
        return name_of(self.expr) if self.form is ValueForm.VARIABLE else ""

    def array(self) -> Any:
        return data_of(self.expr)

    @property
    def is_cast(self) -> bool:
        """Whether it is a ``match_cast``, which checks and names sizes."""
        return isinstance(self.binding, relax.MatchCast)


class Bindings(dataflow.Dataflow):
    """The values of one sequence of binding blocks.

    Args:
        sequence: a function's body, or a branch.
        parameters: of the function.
    """

    def __init__(self, sequence: Expr, parameters: Sequence[Expr] = ()) -> None:
        self.blocks: list[Expr] = list(sequence.blocks)
        self.values: list[Value] = []
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
        self._forget_the_dead()
        self.pinned = written_to(self)

    def is_dataflow(self, value: Value) -> bool:
        """Whether it stands in a dataflow block, where nothing has side effects."""
        return value.block >= 0 and isinstance(self.blocks[value.block], relax.DataflowBlock)

    def must_run(self, value: dataflow.Value) -> bool:
        assert isinstance(value, Value)
        return value.is_cast or not is_pure(value.expr, self.is_dataflow(value))

    def stand_together(self, values: Sequence[dataflow.Value]) -> bool:
        return len({value.block for value in values if isinstance(value, Value)}) == 1

    def _parameter(self, variable: Expr) -> Value:
        value = self._bound[variable] = Value(variable, [])
        self.values.append(value)
        return value

    def _add(self, expr: Expr, binding: Expr | None) -> Value:
        args = list(map(self._read, operands(expr, self._bound)))
        value = Value(expr, list(args), [], binding, self._block)
        for arg in args:
            arg.readers.append(value)
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
    return expr  # it reads variables by name, which keep their names


def op_name(expr: Expr) -> str | None:
    """The name of the operator that is called, or ``None``."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
        return str(expr.op.name).removeprefix("relax.")
    return None
