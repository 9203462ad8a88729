"""What a TVM build can generate code for."""

from __future__ import annotations

import re
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


def with_arch(target: Any, arch: str | None) -> Any:
    """``target`` as a ``tvm.target.Target``, for CUDA with the GPU's architecture.

    Without one TVM generates code for a GPU of 2014 (sm_50).

    Args:
        target: a kind such as ``"cuda"``, or whatever else TVM makes a target of; ``None`` for the
            current one.
        arch: such as ``"sm_90"``; for a target that is only a kind, this machine's if ``None``.

    Raises:
        BuildError: if there is no target, or ``"cuda"`` has no ``arch`` and this machine no GPU.
    """
    import tvm

    if target is None:
        target = tvm.target.Target.current(allow_none=True)
        if target is None:
            raise BuildError('no target: pass one ("llvm", "cuda"), or build within `with target:`')
    if target == "cuda":
        arch = arch or _host_arch(tvm)
        if arch is None:
            raise BuildError(
                "this machine has no CUDA device to take an architecture from; name the GPU to "
                'build for: arch="sm_90"'
            )
        target = {"kind": "cuda"}
    if arch is not None:
        if not isinstance(target, dict) or target.get("kind") != "cuda":
            raise BuildError(f'arch={arch!r} is for the target "cuda", not for {target}')
        if not re.fullmatch(r"sm_\d{2,3}[a-z]?", str(arch)):
            raise BuildError(
                f'arch={arch!r} is no architecture of CUDA; name it as in arch="sm_90"'
            )
        target = {**target, "arch": arch}
    try:
        return tvm.target.Target(target)
    except Exception as error:  # TVM raises what it likes for what is no target
        raise BuildError(f"{target!r} is no target that this TVM knows: {error}") from error


def _host_arch(tvm: Any) -> str | None:
    device = tvm.cuda(0)
    if not device.exist:
        return None
    return "sm_" + str(device.compute_version).replace(".", "")
