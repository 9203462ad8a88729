"""BatchNorms of float16 that stay in a Relax module, in the dtype that the module says.

TVM (0.27) computes ``nn.batch_norm`` of float16 in float32, and hands that on as if it were
float16: what the build returns is of another dtype than the module says, and the op behind it does
not build. Here the op is written in float32, and what it gives cast back.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from bnfx.passes.relax.compat import Expr, call, tensor_types, type_of

_NORM = tvm.ir.Op.get("relax.nn.batch_norm")


@relax.expr_functor.mutator
class _Widener(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, expr: Expr) -> Expr:
        new = super().visit_call_(expr)
        if not (expr.op == _NORM and _is_half(expr.args[0])):
            return new
        whole = self.builder_.emit(call(_NORM, [self._cast(x, "float32") for x in new.args], new))
        parts = (self.builder_.emit(relax.TupleGetItem(whole, part)) for part in range(3))
        kinds = tensor_types(type_of(expr))
        return relax.Tuple(
            [self._cast(part, _dtype(kind)) for part, kind in zip(parts, kinds, strict=True)]
        )

    def _cast(self, value: Expr, dtype: str) -> Expr:
        if _dtype(type_of(value)) == dtype:
            return value
        return self.builder_.emit(relax.op.astype(value, dtype))


def _dtype(kind: Any) -> str:
    return str(kind.dtype).removeprefix("T.")


def _is_half(expr: Expr) -> bool:
    return _dtype(type_of(expr)) == "float16"


def widened(mod: tvm.IRModule) -> tvm.IRModule:
    """A copy with BatchNorms of float16 in float32, or ``mod`` itself if it has none.

    To be called behind the fold: what folds needs none of this.
    """
    changed = {
        name: _Widener(mod).visit_expr(function)
        for name, function in mod.functions_items()
        if isinstance(function, relax.Function) and _has_half_norm(function)
    }
    if not changed:
        return mod
    functions = {**dict(mod.functions.items()), **changed}
    copy = tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)
    result = relax.transform.Normalize()(copy)
    assert isinstance(result, tvm.IRModule)
    return result


def widening() -> Any:
    """:func:`widened` as a ``tvm.transform.Pass``."""
    return tvm.transform.module_pass(
        lambda mod, context: widened(mod), opt_level=0, name="bnfx.WidenHalfBatchNorm"
    )


def _has_half_norm(function: Expr) -> bool:
    found = False

    def visit(expr: Expr) -> None:
        nonlocal found
        if isinstance(expr, relax.Call) and expr.op == _NORM and type_of(expr) is not None:
            found = found or _is_half(expr.args[0])

    relax.analysis.post_order_visit(function, visit)
    return found
