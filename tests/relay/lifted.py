"""Small functions that are read, and not built: what becomes of each value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from graphs import Expr, Make, module_of
from tvm import relay

from bnfx.passes.graph import Move
from bnfx.passes.relay.expressions import Expressions
from bnfx.passes.relay.tables import RELAY
from bnfx.passes.tvm.lift import LiftedFlow, lift

Build = Callable[[Make], Expr]


def function_of(body: Expr) -> Any:
    return module_of(body)["main"]


def lifted(build: Build, dtype: str = "float64") -> LiftedFlow:
    return lift(Expressions(function_of(build(Make(0, dtype)))), RELAY)


def role_of(build: Build) -> Any:
    """The role of the call that gives the result, and of a move what it does."""
    flow = lifted(build)
    role = flow.nodes[flow.flow.result].role
    return role.movement if isinstance(role, Move) else role


def calls(function: Expr) -> list[str]:
    """The operators that are called, in order."""
    found: list[str] = []

    def visit(expr: Expr) -> None:
        if isinstance(expr, relay.Call) and isinstance(expr.op, tvm.ir.Op):
            found.append(str(expr.op.name))

    relay.analysis.post_order_visit(function, visit)
    return found
