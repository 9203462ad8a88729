"""What reports call the values of a function."""

from __future__ import annotations

from tvm import relay

from bnfx.passes.relay.expressions import Expr, locations, op_name
from bnfx.passes.report import Site


class Names:
    """Gives each value a name of its own, its frontend's where it noted one.

    Args:
        prefix: in front of every name, for functions other than ``main``.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._counts: dict[str, int] = {}

    def of(self, expr: Expr) -> str:
        noted = None if isinstance(expr, relay.Constant) else next(locations(expr), None)
        name = noted or (op_name(expr) or type(expr).__name__.lower()).rpartition(".")[2]
        if isinstance(expr, relay.Var):
            name = expr.name_hint
        count = self._counts[name] = self._counts.get(name, -1) + 1
        return f"{self._prefix}{name}_{count}" if count else f"{self._prefix}{name}"


def site_of(expr: Expr, name: str, kind: str = "batch_norm") -> Site:
    """A report's site for an expression."""
    noted = list(locations(expr))
    return Site(name, kind, noted[1] if noted else "")
