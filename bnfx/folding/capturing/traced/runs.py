"""What ran in a trace: functions, and what their names stood for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType
from typing import Any

from torch import nn

# How a trace gets from one function of the user's to the next.
_TRACERS = (
    "torch.fx",
    "torch.overrides",
    "torch._jit_internal",
    "torch._ops",
    "torch._VF",
    "torch.nn.parameter",
    "torch.nn.modules.module",
    "torch.nn.modules.container",
    "torch._dynamo",
    "torch.utils._contextlib",
    "torch.autograd.grad_mode",
    "torch._utils",
    "torch.jit._trace",
    "bnfx",
    "torch.compiler",
    "unittest.mock",
    "abc",
)


@dataclass(frozen=True)
class Run:
    """One function that ran, and what its names stood for when it began.

    Args:
        code: what ran.
        symbols: the names of symbols.
        modules: those of modules.
        held: of a name, attributes of an object that leads to no symbol.
        constants: those of numbers, texts and the like.
        objects: those of objects of users' classes.
        free: what names from the function around it stood for, but for symbols.
        unknown: a name of what is not known (:mod:`.known_objects`), if there is one.
        space: names of its file.
        builtins: Python's, as it has them.
    """

    code: CodeType
    symbols: frozenset[str]
    modules: Mapping[str, nn.Module]
    held: Mapping[str, frozenset[str]]
    constants: frozenset[str]
    objects: frozenset[str]
    free: Mapping[str, Any]
    unknown: str | None
    space: Mapping[str, Any]
    builtins: Mapping[str, Any]

    @property
    def is_torchs(self) -> bool:
        return str(self.space.get("__name__", "")).partition(".")[0] == "torch"

    @property
    def name(self) -> str:
        return str(getattr(self.code, "co_qualname", self.code.co_name))


@dataclass
class Facts:
    """What all that ran has done.

    Args:
        gives: functions that gave symbols, or what leads to them.
        stored: names of attributes that were set.
        ran: functions that ran, and are read.
        writes: whether a list or dict was written to, other than one that the function had made.
    """

    gives: set[CodeType] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    ran: set[CodeType] = field(default_factory=set)
    writes: bool = False


def is_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in packages)


@lru_cache(maxsize=1024)
def is_tracers(module: str) -> bool:
    """Whether what stands there runs between functions of the user's, for the tracer."""
    return is_within(module, _TRACERS)
