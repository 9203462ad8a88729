"""Tensors that are filled with infinity or NaN, as masks of attention are.

TVM (0.27) does not build ``full`` of these numbers: ``topi.full`` reads the name of the dtype, and
is given an object. Here the number is broadcast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from bnfx.passes.relax.compat import Constant, Expr, data_of, type_of
from bnfx.passes.relax.shapes import dtype_of

_FULL = tvm.ir.Op.get("relax.full")
_FULL_LIKE = tvm.ir.Op.get("relax.full_like")


def is_odd_fill(expr: Expr) -> bool:
    """Whether a call fills a tensor with a known number that is not finite."""
    if expr.op not in (_FULL, _FULL_LIKE) or not isinstance(expr.args[1], Constant):
        return False
    number = data_of(expr.args[1])
    return number is not None and number.dtype.kind == "f" and not np.isfinite(number).all()


def broadcast(builder: Any, old: Expr, args: Sequence[Expr]) -> Expr:
    """The same tensor, of the shape and dtype that the call says.

    Args:
        builder: a ``relax.BlockBuilder``.
        old: the call as it was, with types.
        args: what it is to be called with.
    """
    shape = args[0] if old.op == _FULL else type_of(old).shape
    number = relax.const(float(data_of(args[1])), dtype_of(type_of(old)))
    return relax.op.broadcast_to(number, shape)
