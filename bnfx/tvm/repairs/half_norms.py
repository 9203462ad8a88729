"""BatchNorms of float16 that stay in a Relax module, in the dtype that the module says.

TVM (0.27) computes ``nn.batch_norm`` of float16 in float32, and hands that on as if it were
float16: what the build returns is of another dtype than the module says, and the op behind it does
not build. Here the op is written in float32, and what it gives cast back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax

from bnfx.passes.relax.compat import Expr, call, tensor_types, type_of
from bnfx.passes.relax.shapes import dtype_of

_NORM = tvm.ir.Op.get("relax.nn.batch_norm")


def is_half_norm(expr: Expr) -> bool:
    """Whether a call is a BatchNorm of float16."""
    return expr.op == _NORM and type_of(expr) is not None and _is(expr.args[0], "float16")


def widened(builder: Any, old: Expr, args: Sequence[Expr]) -> Expr:
    """A BatchNorm in float32, and its results cast back.

    Args:
        builder: a ``relax.BlockBuilder``.
        old: the call as it was, with types.
        args: what it is to be called with.
    """

    def cast(value: Expr, dtype: str | None) -> Expr:
        if _is(value, dtype):
            return value
        return builder.emit(relax.op.astype(value, dtype))

    whole = builder.emit(call(_NORM, [cast(x, "float32") for x in args], old))
    parts = (builder.emit(relax.TupleGetItem(whole, part)) for part in range(3))
    kinds = tensor_types(type_of(old))
    return relax.Tuple(
        [cast(part, dtype_of(kind)) for part, kind in zip(parts, kinds, strict=True)]
    )


def _is(x: Expr, dtype: str | None) -> bool:
    return dtype_of(type_of(x)) == dtype
