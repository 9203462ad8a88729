"""TVM deployment builds, folded: ``bnfx.tvm.relay`` for TVM before 0.20. No torch.

Neither TVM nor torch is imported before a name that needs it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["build", "relay"]


def build(mod: Any, target: Any = None, params: Any = None, **options: Any) -> Any:
    """Fold ``mod`` and build it, within the caller's ``PassContext``.

    Args:
        mod: a Relay module (or function, as long as TVM takes one).
        target: what TVM's own build takes: ``"llvm"``, ``"cuda"``, a ``tvm.target.Target``.
        params: name -> tensor, bound as constants: only these can be folded.
        options: handed to TVM's own build; see :func:`bnfx.tvm.relay.build`.

    Returns:
        What TVM's own build returns.

    Raises:
        TypeError: if ``mod`` is no module.
        BuildError: if this TVM cannot build Relay, or not for this target.
    """
    relay = importlib.import_module("bnfx.tvm.relay")
    return relay.build(mod, target, params, **options)


def __getattr__(name: str) -> Any:
    if name == "relay":
        return importlib.import_module("bnfx.tvm.relay")
    raise AttributeError(f"module 'bnfx.tvm' has no attribute {name!r}")
