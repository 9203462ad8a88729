"""Relay expressions as a graph: in which order they run, and who reads whom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tvm import relay, tir

from bnfx.passes.tvm import dataflow
from bnfx.passes.tvm.dataflow import Expr, UnreadableFunctionError, ValueForm

# Ops whose order is more than the data that they read.
_STATEFUL = ("memory.", "vm.", "device_copy", "on_device")
_Op = type(relay.op.get("add"))  # tvm.ir.Op, wherever this version keeps it
_REFERENCES = (relay.RefCreate, relay.RefRead, relay.RefWrite, relay.Match)
_FORMS = {
    relay.Call: ValueForm.CALL,
    relay.Constant: ValueForm.CONSTANT,
    relay.Var: ValueForm.VARIABLE,
    relay.Tuple: ValueForm.TUPLE,
    relay.TupleGetItem: ValueForm.PART,
    relay.Function: ValueForm.NESTED,
}


@dataclass(eq=False)
class Value(dataflow.Value):
    """One expression; its operands are resolved, see :class:`Expressions`."""

    @cached_property
    def op(self) -> str | None:
        return op_name(self.expr)

    @cached_property
    def kind(self) -> Any:
        try:
            return self.expr.checked_type
        except ValueError:  # TVM raises it where inference did not come by
            return None

    @cached_property
    def form(self) -> ValueForm:
        return _FORMS.get(type(self.expr), ValueForm.OTHER)

    @property
    def name(self) -> str:
        return str(self.expr.name_hint) if self.form is ValueForm.VARIABLE else ""

    def array(self) -> Any:
        return self.expr.data.numpy()


class Expressions(dataflow.Dataflow):
    """The values of one function's body.

    ``let`` is resolved: a bound variable is the value that it stands for. Functions inside are
    single values; their bodies are graphs of their own. Branches are values as all others.

    Raises:
        UnreadableFunctionError: for references, pattern matches, recursion, and functions inside
            that capture what ``let`` binds.
    """

    def __init__(self, function: Expr) -> None:
        self._bound: dict[Expr, Expr] = {}
        self._known: dict[Expr, Value] = {}
        self.values: list[Value] = []
        self.result = self._walk(function.body)
        seen = 0  # what nobody reads has its verdicts too, and so has what it binds
        while fresh := list(self._bound.values())[seen:]:
            seen += len(fresh)
            for bound in fresh:
                self._walk(bound)
        self.pinned = frozenset[dataflow.Value]()
        self._forget_the_dead()
        for value in self.values:
            if value.form is ValueForm.NESTED:
                self._check_captured(value.expr)

    def must_run(self, value: dataflow.Value) -> bool:
        return False

    def _resolve(self, expr: Expr) -> Expr:
        """The expression itself, or what ``let`` or a tuple says that it is."""
        while True:
            if isinstance(expr, relay.Let):
                self._bound[expr.var] = expr.value
                expr = expr.body
            elif expr in self._bound:
                expr = self._bound[expr]
            elif isinstance(expr, relay.TupleGetItem):
                whole = self._resolve(expr.tuple_value)
                if not isinstance(whole, relay.Tuple):
                    return expr
                expr = whole.fields[expr.index]
            else:
                return expr

    def _walk(self, body: Expr) -> Value:
        """Each value after what it reads, without recursion: networks are deeper than a stack."""
        body = self._resolve(body)
        open_: set[Expr] = set()
        stack: list[tuple[Expr, list[Expr] | None]] = [(body, None)]
        while stack:
            expr, children = stack.pop()
            if expr in self._known:
                continue
            if children is not None:
                self._add(expr, (self._known[child] for child in children))
                continue
            self._check(expr)
            if expr in open_:
                raise UnreadableFunctionError("a value is computed from itself")
            open_.add(expr)
            children = list(map(self._resolve, operands(expr)))
            stack.append((expr, children))
            stack.extend((child, None) for child in reversed(children) if child not in self._known)
        return self._known[body]

    def _add(self, expr: Expr, args: Iterable[Value]) -> None:
        value = self._known[expr] = Value(expr, list(args))
        for arg in value.args:
            arg.readers.append(value)
        self.values.append(value)

    def _check(self, expr: Expr) -> None:
        if isinstance(expr, _REFERENCES):
            raise UnreadableFunctionError(f"it uses {type(expr).__name__}")
        name = op_name(expr)
        if name is not None and name.startswith(_STATEFUL):
            raise UnreadableFunctionError(f"it calls {name}")

    def _check_captured(self, inner: Expr) -> None:
        captured = set(relay.analysis.free_vars(inner)) & self._bound.keys()
        if captured:
            names = ", ".join(sorted(variable.name_hint for variable in captured))
            raise UnreadableFunctionError(f"a function inside captures {names}")


def operands(expr: Expr) -> list[Expr]:
    """What the expression reads, as it is written."""
    if isinstance(expr, relay.Call):
        callee = [] if isinstance(expr.op, _Op) else [expr.op]
        return [*callee, *expr.args]
    if isinstance(expr, relay.Tuple):
        return list(expr.fields)
    if isinstance(expr, relay.TupleGetItem):
        return [expr.tuple_value]
    if isinstance(expr, relay.If):
        return [expr.cond, expr.true_branch, expr.false_branch]
    return []


def rebuilt(expr: Expr, children: list[Expr]) -> Expr:
    """The expression over other children: its attributes, type arguments and span are kept."""
    if isinstance(expr, relay.Call):
        callee, args = expr.op, children
        if not isinstance(callee, _Op):
            callee, *args = children
        return relay.Call(callee, args, expr.attrs, expr.type_args, expr.span)
    if isinstance(expr, relay.Tuple):
        return relay.Tuple(children, expr.span)
    if isinstance(expr, relay.TupleGetItem):
        return relay.TupleGetItem(children[0], expr.index)
    assert isinstance(expr, relay.If)
    return relay.If(*children)


def op_name(expr: Expr) -> str | None:
    """The name of the operator that is called, or ``None``."""
    if isinstance(expr, relay.Call) and isinstance(expr.op, _Op):
        return str(expr.op.name)
    return None


def static(dim: Any) -> int | None:
    """A size as a number, or ``None`` if it is not fixed."""
    return int(dim) if isinstance(dim, (int, tir.IntImm)) else None
