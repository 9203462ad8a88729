"""What apache-tvm 0.25, 0.26 and 0.27 call by different names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx

Expr = Any  # relax.Expr; TVM has no type hints
Type = Any

# 0.25 has StructInfo; from 0.26 on these are types.
_TYPE = "struct_info" if hasattr(relax, "StructInfo") else "ty"
TensorType = getattr(relax, "TensorStructInfo", None) or relax.TensorType
Constant = getattr(relax, "Constant", None) or tvm.ir.GenericConst
_PrimValue = getattr(relax, "PrimValue", None)  # until 0.25, around a number


def type_of(expr: Expr) -> Type:
    """The inferred type, or ``None``."""
    try:
        return getattr(expr, _TYPE, None)
    except tvm.error.InternalError:  # of 0.25, which has none yet
        return None


def name_of(variable: Expr) -> str:
    """A variable's name, as the function prints it."""
    name = getattr(variable, "name_hint", None)
    return str(variable.name if name is None else name)


def data_of(constant: Expr) -> Any:
    """A constant's numbers as a NumPy array, or ``None`` if it holds something else."""
    data = constant.data if hasattr(constant, "data") else constant.value
    return data.numpy() if hasattr(data, "numpy") else None


def constant(array: Any) -> Expr:
    """A tensor that is known when compiling, in its own dtype."""
    array = np.ascontiguousarray(array).reshape(np.shape(array))  # it makes vectors of scalars
    return relax.const(array, str(array.dtype))


def number(expr: Expr) -> float | int | None:
    """An operand that is a plain number, or ``None``."""
    if _PrimValue is not None and isinstance(expr, _PrimValue):
        expr = expr.value
    return expr.value if isinstance(expr, (tirx.IntImm, tirx.FloatImm)) else None


def call(op: Expr, args: list[Expr], old: Expr) -> Expr:
    """``old`` with another operator or other operands; attributes and span are kept."""
    types = old.sinfo_args if hasattr(old, "sinfo_args") else old.ty_args
    return relax.Call(op, args, old.attrs, types, old.span)


def simplify() -> Callable[[Expr], Expr]:
    """What brings arithmetic on sizes to one form."""
    arith = tvm.arith if hasattr(tvm, "arith") else tvm.sym
    return arith.Analyzer().simplify  # type: ignore[no-any-return]


def same(one: Any, other: Any) -> bool:
    """Whether two objects of TVM have one structure; variables are equal to themselves alone."""
    return bool(tvm_ffi.structural_equal(one, other))


def tensor_types(kind: Type) -> Iterator[Type]:
    """The tensors of a type: itself, or those in a tuple."""
    if isinstance(kind, TensorType):
        yield kind
    for part in getattr(kind, "fields", ()):
        yield from tensor_types(part)
