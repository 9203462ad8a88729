"""TVM deployment builds, folded: ``bnfx.tvm.relax`` for TVM today, ``bnfx.tvm.relay`` before 0.20.

Neither TVM nor torch is imported before a name that needs it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["build", "from_torch", "relax", "relay"]


def build(mod: Any, target: Any = None, params: Any = None, **options: Any) -> Any:
    """Fold ``mod`` and build it, within the caller's ``PassContext``.

    Args:
        mod: a Relax module, or a Relay module (or function, as long as TVM takes one).
        target: what TVM's own build takes: ``"llvm"``, ``"cuda"``, a ``tvm.target.Target``.
        params: name -> tensor, bound as constants: only these can be folded.
        options: handed to TVM's own build; see :func:`bnfx.tvm.relax.build` (``arch`` for CUDA)
            and :func:`bnfx.tvm.relay.build`.

    Returns:
        What TVM's own build returns.

    Raises:
        TypeError: if ``mod`` is no module.
        BuildError: if this TVM cannot build the module, or not for this target.
    """
    if hasattr(mod, "named_parameters"):
        name = type(mod).__name__
        raise TypeError(
            f"bnfx.tvm.build takes a module of TVM, not the PyTorch model {name}: make one with "
            "bnfx.tvm.from_torch(model, *example_inputs)"
        )
    ir = importlib.import_module(f"bnfx.tvm.{_ir(mod)}")
    return ir.build(mod, target, params, **options)


def _ir(mod: Any) -> str:
    """The IR of a module's functions, which tell it by where their classes come from."""
    functions = mod.functions.values() if hasattr(mod, "functions") else (mod,)
    origins = {type(function).__module__ for function in functions}
    for name in ("relax", "relay"):
        if any(origin.startswith(f"tvm.{name}") for origin in origins):
            return name
    if not type(mod).__module__.startswith("tvm"):
        raise TypeError(
            f"bnfx.tvm.build takes a module of TVM (an IRModule of Relax or Relay), not a "
            f"{type(mod).__name__}: make one with a frontend of TVM, or bnfx.tvm.from_torch"
        )
    raise TypeError("bnfx.tvm.build takes a module with functions of Relax or Relay: this has none")


def __getattr__(name: str) -> Any:
    if name in ("relax", "relay"):
        return importlib.import_module(f"bnfx.tvm.{name}")
    if name == "from_torch":
        return importlib.import_module("bnfx.tvm.importer").from_torch
    raise AttributeError(f"module 'bnfx.tvm' has no attribute {name!r}")
