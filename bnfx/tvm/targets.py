"""What a TVM build can generate code for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnfx.errors import BuildError

_REMEDIES = {
    "cuda": "build TVM with USE_CUDA=ON, or lower for cuda where such a TVM is",
    "llvm": "build TVM with USE_LLVM=ON",
}


def require_codegen(target: Any) -> None:
    """Raise :class:`BuildError` for a target that this TVM has no code generator for.

    TVM itself finds out at the end of a build, in C++.

    Args:
        target: what TVM's build takes: one target, or a list or dict of them; ``None`` for the
            current one.
    """
    import tvm

    for kind in dict.fromkeys(_kinds(target, tvm)):
        names = (f"target.build.{kind}", f"target.build.{kind}_device")
        if all(tvm.get_global_func(name, allow_missing=True) is None for name in names):
            remedy = _REMEDIES.get(kind, f"use a TVM that was built for {kind}")
            raise BuildError(
                f"this TVM ({tvm.__version__}) has no code generator for the target {kind!r} "
                f"(target.build.{kind} is not registered); {remedy}"
            )


def _kinds(target: Any, tvm: Any) -> Iterator[str]:
    if target is None:
        target = tvm.target.Target.current(allow_none=True)
        if target is None:
            raise BuildError('no target: pass one ("llvm", "cuda"), or build within `with target:`')
    values = target.values() if hasattr(target, "values") and not hasattr(target, "kind") else None
    if values is None:
        values = target if isinstance(target, (list, tuple)) else [target]
    for value in values:
        try:
            yield str(tvm.target.Target(value).kind.name)
        except Exception as error:  # TVM raises what it likes for what is no target
            raise BuildError(f"{value!r} is no target that this TVM knows: {error}") from error
