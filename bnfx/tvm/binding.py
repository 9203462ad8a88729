"""Binds the parameters of a Relax function to constants that remember their names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax

from bnfx.errors import BuildError
from bnfx.passes.relax.compat import Constant, TensorType, name_of, type_of
from bnfx.passes.relax.shapes import dtype_of, sizes_of


def bind(mod: tvm.IRModule, params: Mapping[str, Any]) -> tvm.IRModule:
    """``mod`` with parameters of ``main`` bound to constants.

    Args:
        params: name -> tensor (of TVM, NumPy or torch, in any dtype).

    Raises:
        BuildError: for a name that ``main`` does not have, what is no tensor in memory, a shape or
            dtype that is another than it says, or if there is no ``main``.
    """
    if not isinstance(params, Mapping):
        raise BuildError(
            f"params is a {type(params).__name__}; it must be a mapping, name -> tensor, by the "
            "names of main's parameters"
        )
    if "main" not in {name_of(variable) for variable in mod.get_global_vars()}:
        raise BuildError("params are bound to the function main, and the module has none")
    known = [name_of(parameter) for parameter in mod["main"].params]
    for name in params:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise BuildError(f"params has {name!r}, but main takes {', '.join(known)}{hint}")
    constants = {name: _constant(value, name) for name, value in params.items()}
    for parameter in mod["main"].params:
        if name_of(parameter) in constants:
            _require_type(parameter, constants[name_of(parameter)])
    return relax.transform.BindParams("main", constants)(mod)


def _constant(value: Any, name: str) -> Any:
    try:
        return named(value, name)
    except Exception as error:  # TVM, NumPy and torch each raise their own
        raise BuildError(
            f"params[{name!r}] must be a dense tensor in memory (of TVM, NumPy or torch); this "
            f"{type(value).__name__} cannot be read as one: {error}"
        ) from error


def _require_type(parameter: Any, value: Any) -> None:
    """TVM binds what does not fit, and fails, or reads other memory, later on."""
    wanted, given = type_of(parameter), type_of(value)
    sizes, dtype = sizes_of(wanted), dtype_of(wanted)
    shape = sizes_of(given) or ()
    fits = sizes is None or (
        len(sizes) == len(shape)
        and all(size in (None, own) for size, own in zip(sizes, shape, strict=True))
    )
    if not fits or dtype not in (None, dtype_of(given)):
        raise BuildError(
            f"params[{name_of(parameter)!r}] is {dtype_of(given)} of shape {shape}, but main takes "
            f"{wanted}"
        )


def named(value: Any, name: str) -> Any:
    """A constant that remembers whose it is, by which reports call the BatchNorm that reads it."""
    if isinstance(value, Constant):
        value = value.data if hasattr(value, "data") else value.value
    elif hasattr(value, "detach"):
        # not by way of NumPy, which has no bfloat16; of its own memory, which outlives torch's
        value = tvm.runtime.from_dlpack(value.detach().cpu().clone().contiguous())
    elif isinstance(value, np.ndarray):
        value = tvm.runtime.tensor(np.ascontiguousarray(value).reshape(value.shape))
    span = tvm.ir.Span(tvm.ir.SourceName(name), 0, 0, 0, 0)
    return Constant(value, TensorType(value.shape, str(value.dtype)), span)
