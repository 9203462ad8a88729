"""Modules as they are built: what TVM's own operators get wrong is written anew, behind the fold.

``FoldBatchNorm`` by itself leaves them, since rules read these operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import relax

from bnfx.passes.relax.compat import Expr
from bnfx.tvm.repairs.as_torch import AS_TORCH, as_torch, is_otherwise
from bnfx.tvm.repairs.half_norms import is_half_norm, widened
from bnfx.tvm.repairs.odd_fills import broadcast, is_odd_fill

__all__ = ["AS_TORCH", "repaired", "repairing"]

Write = Callable[[Any, Expr, Sequence[Expr]], Expr]


def _repair(call: Expr, like_torch: bool) -> Write | None:
    """How a call is to be written, if not as it is."""
    if is_half_norm(call):
        return widened
    if is_odd_fill(call):
        return broadcast
    return as_torch if like_torch and is_otherwise(call) else None


@relax.expr_functor.mutator
class _Repairer(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, mod: tvm.IRModule, like_torch: bool) -> None:
        super().__init__(mod)
        self._like_torch = like_torch

    def visit_call_(self, expr: Expr) -> Expr:
        new = super().visit_call_(expr)
        write = _repair(expr, self._like_torch)
        return new if write is None else write(self.builder_, expr, new.args)


def repaired(mod: tvm.IRModule) -> tvm.IRModule:
    """A copy without what TVM gets wrong, or ``mod`` itself if it has nothing of the kind.

    To be called behind the fold: what folds needs no repair.
    """
    faulty = {
        name: function
        for name, function in mod.functions_items()
        if isinstance(function, relax.Function) and _is_faulty(function)
    }
    if not faulty:
        return mod
    functions = dict(mod.functions.items())
    copy = tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)
    for name, function in faulty.items():
        repairer = _Repairer(copy, _like_torch(function))
        new = repairer.visit_expr(function)
        copy = repairer.builder_.get()  # with the loops that were written
        copy.update_func(name, new)
    result = relax.transform.Normalize()(copy)
    assert isinstance(result, tvm.IRModule)
    return result


def repairing() -> Any:
    """:func:`repaired` as a ``tvm.transform.Pass``."""
    return tvm.transform.module_pass(
        lambda mod, context: repaired(mod), opt_level=0, name="bnfx.Repair"
    )


def _like_torch(function: Expr) -> bool:
    return function.attrs is not None and AS_TORCH in function.attrs


def _is_faulty(function: Expr) -> bool:
    found, like_torch = False, _like_torch(function)

    def visit(expr: Expr) -> None:
        nonlocal found
        found = found or (isinstance(expr, relax.Call) and _repair(expr, like_torch) is not None)

    relax.analysis.post_order_visit(function, visit)
    return found
