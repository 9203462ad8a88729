"""What reports call the values of a function."""

from __future__ import annotations

from collections.abc import Iterator

from bnfx.passes.report import Site
from bnfx.passes.tvm.dataflow import Expr, Form, Value


class Names:
    """Gives each value a name of its own, its frontend's where it noted one.

    Args:
        prefix: in front of every name, for functions other than ``main``.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._counts: dict[str, int] = {}

    def of(self, value: Value) -> str:
        if value.form is Form.CONSTANT:  # one that is shared notes its first reader
            return self.unique("constant")
        if value.name:
            return self.unique(value.name)
        return self.of_call(value.expr, value.op or type(value.expr).__name__.lower())

    def of_call(self, expr: Expr, op: str) -> str:
        """A name for a call of ``op``."""
        return self.unique(next(locations(expr), op.rpartition(".")[2]))

    def unique(self, name: str) -> str:
        """``name`` with the prefix, numbered if it is taken."""
        count = self._counts[name] = self._counts.get(name, -1) + 1
        return f"{self._prefix}{name}_{count}" if count else f"{self._prefix}{name}"


def site_of(expr: Expr, name: str, kind: str = "batch_norm") -> Site:
    """A report's site for an expression."""
    noted = list(locations(expr))
    return Site(name, kind, noted[1] if noted else "")


def locations(expr: Expr) -> Iterator[str]:
    """What the frontend noted on where the expression comes from: its name, then its line."""
    span = getattr(expr, "span", None)
    name = getattr(getattr(span, "source_name", None), "name", None)
    if name:
        name = str(name).rpartition("@@")[2]  # ONNX: the output's name, then the node's
        yield name
        line = getattr(span, "line", 0)
        yield f"{name}:{line}" if line else name
