"""What reports call the values of a function."""

from __future__ import annotations

from tvm import relax

from bnfx.passes.relax.compat import name_of
from bnfx.passes.relax.expressions import Value, locations
from bnfx.passes.report import Site


class Names:
    """Gives each value a name of its own, its frontend's where it noted one.

    Args:
        prefix: in front of every name, for functions other than ``main``.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._counts: dict[str, int] = {}

    def of(self, value: Value) -> str:
        noted = next(locations(value.expr), None)
        name = noted or (value.op or type(value.expr).__name__.lower()).rpartition(".")[2]
        if isinstance(value.expr, relax.Var) and value.binding is None:
            name = name_of(value.expr)
        count = self._counts[name] = self._counts.get(name, -1) + 1
        return f"{self._prefix}{name}_{count}" if count else f"{self._prefix}{name}"


def site_of(value: Value, name: str, kind: str = "batch_norm") -> Site:
    """A report's site for a value."""
    noted = list(locations(value.expr))
    return Site(name, kind, noted[1] if noted else "")
