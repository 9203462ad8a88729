"""What is in an executable of the Relax VM: its kernels, how often they run, CUDA source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

_CALL = re.compile(r"^  call +(\S+)", re.MULTILINE)
_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(")


def launches(executable: Any) -> Counter[str]:
    """How often each function of the module is called in one run of everything in it.

    Args:
        executable: of ``bnfx.tvm.build`` or ``tvm.compile``.
    """
    called = Counter(_CALL.findall(executable.as_text()))
    return Counter({name: n for name, n in called.items() if not name.startswith("vm.")})


def cuda_source(executable: Any) -> str:
    """The CUDA source that was generated; ``""`` if there is none."""
    return "\n".join(
        module.inspect_source() for module in _modules(executable.mod) if module.kind == "cuda"
    )


def cuda_kernels(source: str) -> frozenset[str]:
    """The names of the kernels in CUDA source."""
    return frozenset(_KERNEL.findall(source))


def cubin(executable: Any, target: Any) -> bytes:
    """The CUDA source, compiled by nvcc for the target's GPU; no GPU is needed.

    Args:
        executable: for CUDA.
        target: a ``tvm.target.Target`` for CUDA, with its ``arch``.
    """
    from tvm.support import nvcc

    with target:
        found = nvcc.compile_cuda(cuda_source(executable), target_format="cubin", compiler="nvcc")
    return bytes(found)


def _modules(module: Any) -> Iterator[Any]:
    yield module
    for imported in module.imports:
        yield from _modules(imported)
