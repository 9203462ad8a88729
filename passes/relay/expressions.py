"""Relay expressions as a graph: in which order they run, and who reads whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tvm import relay, tir

Expr = Any  # relay.Expr; TVM has no type hints


class UnreadableFunctionError(Exception):
    """The function holds what has no place in a graph of values; it is left as it is."""


# Ops whose order is more than the data that they read.
_STATEFUL = ("memory.", "vm.", "device_copy", "on_device")
_Op = type(relay.op.get("add"))  # tvm.ir.Op, wherever this version keeps it
_REFERENCES = (relay.RefCreate, relay.RefRead, relay.RefWrite, relay.Match)


class Dataflow:
    """The values of one function's body, each after what it reads.

    ``let`` is resolved: a bound variable is the value that it stands for. Functions inside are
    single values; their bodies are graphs of their own.

    Raises:
        UnreadableFunctionError: for references, pattern matches, recursion, and functions inside
            that capture what ``let`` binds.
    """

    def __init__(self, function: Expr) -> None:
        self._bound: dict[Expr, Expr] = {}
        self.body = self.resolve(function.body)
        self.order: list[Expr] = []
        self.readers: dict[Expr, list[Expr]] = {}
        self.functions: list[Expr] = []
        self._walk()
        for inner in self.functions:
            captured = set(relay.analysis.free_vars(inner)) & self._bound.keys()
            if captured:
                names = ", ".join(sorted(variable.name_hint for variable in captured))
                raise UnreadableFunctionError(f"a function inside captures {names}")

    def resolve(self, expr: Expr) -> Expr:
        """The expression itself, or what ``let`` or a tuple says that it is."""
        while True:
            if isinstance(expr, relay.Let):
                self._bound[expr.var] = expr.value
                expr = expr.body
            elif expr in self._bound:
                expr = self._bound[expr]
            elif isinstance(expr, relay.TupleGetItem):
                whole = self.resolve(expr.tuple_value)
                if not isinstance(whole, relay.Tuple):
                    return expr
                expr = whole.fields[expr.index]
            else:
                return expr

    def children(self, expr: Expr) -> list[Expr]:
        """What the expression reads, resolved, in order."""
        return list(map(self.resolve, operands(expr)))

    def _walk(self) -> None:
        done: set[Expr] = set()
        stack: list[tuple[Expr, bool]] = [(self.body, False)]
        while stack:  # no recursion: networks are deeper than Python's stack
            expr, ready = stack.pop()
            if expr in done:
                continue
            if ready:
                done.add(expr)
                self.order.append(expr)
                continue
            self._check(expr)
            stack.append((expr, True))
            children = self.children(expr)
            for child in children:
                self.readers.setdefault(child, []).append(expr)
            stack.extend((child, False) for child in reversed(children))

    def _check(self, expr: Expr) -> None:
        if isinstance(expr, _REFERENCES):
            raise UnreadableFunctionError(f"it uses {type(expr).__name__}")
        if isinstance(expr, relay.Function):
            self.functions.append(expr)
        name = op_name(expr)
        if name is not None and name.startswith(_STATEFUL):
            raise UnreadableFunctionError(f"it calls {name}")


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


def type_of(expr: Expr) -> Any:
    """The inferred type, or ``None``."""
    try:
        return expr.checked_type
    except ValueError:  # TVM raises it where inference did not come by
        return None


def static(dim: Any) -> int | None:
    """A size as a number, or ``None`` if it is not fixed."""
    return int(dim) if isinstance(dim, (int, tir.IntImm)) else None


def numbers(values: Any) -> tuple[int, ...]:
    """An attribute that is a list of integers."""
    return tuple(int(value) for value in values)


def locations(expr: Expr) -> Iterator[str]:
    """What the frontend noted on where the expression comes from: its name, then its line."""
    span = getattr(expr, "span", None)
    name = getattr(getattr(span, "source_name", None), "name", None)
    if name:
        name = str(name).rpartition("@@")[2]  # ONNX: the output's name, then the node's
        yield name
        line = getattr(span, "line", 0)
        yield f"{name}:{line}" if line else name
