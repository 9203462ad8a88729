"""What code can write to that outlives a call: whether a trace changed any of it.

A model's own attributes are watched elsewhere (:mod:`bnfx.folding.capturing.state_changes`). These
are the rest: lists and objects that they hold, globals that its functions name, defaults,
attributes of classes, and tensors that are no parameters or buffers.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import fx, nn

from bnfx.errors import CaptureError
from bnfx.folding.capturing.traced.runs import Run
from bnfx.folding.modules.plain.library import is_known as is_librarys
from bnfx.folding.modules.plain.library import is_library

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_MOST = 300_000  # objects


class Reachable:
    """What objects hold at one time. Equal, if none holds anything else."""

    def __init__(self, model: nn.Module, runs: Iterable[Run]) -> None:
        self._held: dict[int, tuple[Any, ...]] = {}
        self._alive: list[Any] = []  # so that each has an id of its own
        left: list[Any] = [model]
        for run in runs:
            left += run.free.values()
            left += _globals(_names(run.code), run.space)
        while left:
            value = left.pop()
            if id(value) in self._held or type(value) in _PLAIN:
                continue
            self._alive.append(value)
            parts = [*_parts(value)]
            self._held[id(value)] = (*map(_mark, parts), _version(value))
            left += parts
            if len(self._held) > _MOST:
                raise CaptureError("it can get at too many objects to see what it writes to")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reachable) and self._held == other._held

    __hash__ = None  # type: ignore[assignment]


def aliases(value: Any, owned: set[int]) -> bool:
    """Whether what an attribute holds is, or is a view of, a parameter or buffer.

    Args:
        value: a tensor, or what may hold some.
        owned: where the memory of parameters and buffers begins.
    """
    left, seen = [value], set[int]()
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, (nn.Module, type, ModuleType, *_PLAIN)):
            continue
        seen.add(id(each))
        if memory_of(each) in owned:
            return True
        left += [] if isinstance(each, torch.Tensor) else _parts(each)
    return False


def memory_of(value: Any) -> int | None:
    """Where the memory of a tensor begins; ``None`` for other values, and if it has none."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return None
    return value.untyped_storage().data_ptr() or None


def _mark(value: Any) -> Any:
    return (type(value), value) if type(value) in _PLAIN else id(value)


def _version(value: Any) -> int:
    written = isinstance(value, torch.Tensor) and not value.is_inference()
    return value._version if written else 0


def _parts(value: Any) -> Iterator[Any]:
    """What an object holds, as far as users' code could write to it."""
    if isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif isinstance(value, dict):
        yield from (*value.keys(), *value.values())
    elif isinstance(value, FunctionType):
        yield from (value.__defaults__, value.__kwdefaults__, value.__closure__)
        yield from vars(value).values()
        if not is_library(value.__code__.co_filename):
            yield from _globals(_names(value.__code__), value.__globals__)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, CellType):
        try:
            yield value.cell_contents
        except ValueError:  # it is empty
            return
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, (staticmethod, classmethod)):
        yield value.__func__
    elif isinstance(value, property):
        yield from (value.fget, value.fset)
    elif isinstance(value, type):
        if not is_librarys(value):
            yield from (*vars(value).values(), *value.__mro__[1:], type(value))
    elif not isinstance(value, (ModuleType, fx.Graph, fx.Node)):
        yield type(value)
        yield from getattr(value, "__dict__", {}).values()
        yield from _slots(value)


def _slots(value: Any) -> Iterator[Any]:
    for kind in type(value).__mro__:
        names = vars(kind).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            yield getattr(value, name, None)


def _names(code: CodeType) -> set[str]:
    """The names that a function uses, and those inside of it (comprehensions)."""
    inside = [_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    return {*code.co_names}.union(*inside)


def _globals(names: Collection[str], space: Mapping[str, Any]) -> Iterator[Any]:
    """What names stand for in a file, and in modules of the user's that it names."""
    left, seen = [space.get(name) for name in names], set[int]()
    while left:
        value = left.pop()
        if not isinstance(value, ModuleType):
            yield value
        elif id(value) not in seen:
            seen.add(id(value))
            if not is_library(getattr(value, "__file__", None) or "<frozen none>"):
                left += [vars(value).get(name) for name in names]
