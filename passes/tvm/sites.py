"""What reports call the values of a function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bnfx.passes.report import Site
from bnfx.passes.tvm.dataflow import Expr, Value, ValueForm


class Names:
    """Gives each value a name of its own, its frontend's where it noted one.

    Args:
        prefix: in front of every name, for functions other than ``main``.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._counts: dict[str, int] = {}
        self._taken: set[str] = set()

    def of(self, value: Value) -> str:
        if value.form is ValueForm.CONSTANT:  # one that is shared notes its first reader
            return self.unique("constant")
        if value.name:
            return self.unique(value.name)
        op = value.op or type(value.expr).__name__.lower()
        return self.of_call(value.expr, op, (arg.expr for arg in value.args))

    def of_call(self, expr: Expr, op: str, operands: Iterable[Expr] = ()) -> str:
        """A name for a call of ``op``.

        Args:
            operands: what it reads; those of a BatchNorm may know its module.
        """
        own = next(locations(expr), "")
        if not own and op == "nn.batch_norm":
            own = module_of(operands)
        return self.unique(own or op.rpartition(".")[2])

    def unique(self, name: str) -> str:
        """``name`` with the prefix, numbered if it is taken; a module may be called ``norm_1``."""
        own = name
        while own in self._taken:
            count = self._counts[name] = self._counts.get(name, 0) + 1
            own = f"{name}_{count}"
        self._taken.add(own)
        return f"{self._prefix}{own}"


def module_of(operands: Iterable[Expr]) -> str:
    """The module whose parameters a BatchNorm reads, ``""`` where their names do not tell.

    ``layer1.0.bn1.weight``, ``layer1.0.bn1.running_var`` and so on are of ``layer1.0.bn1``.

    Args:
        operands: of the call: the data, then the parameters.
    """
    parameters = list(operands)[1:5]
    modules = {_name_of(parameter).rpartition(".")[0] for parameter in parameters} - {""}
    return modules.pop() if len(modules) == 1 else ""


def _name_of(parameter: Any) -> str:
    """Of a variable, or of what it was before it was bound to a constant."""
    own = getattr(parameter, "name_hint", None) or getattr(parameter, "name", None)
    return str(own or next(locations(parameter), ""))


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
