"""Objects of which code that is read shows all that is done with them.

A function that is written in C may look at its argument, and nothing shows that. So which of them
code can have is listed; functions that are written in Python are read when they run.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections import OrderedDict
from collections.abc import Iterable
from enum import Enum
from typing import Any

import torch
from torch import fx, nn

from bnfx.folding.capturing.traced.runs import is_tracers
from bnfx.folding.modules.plain.data import is_data, is_record
from bnfx.folding.modules.plain.library import is_known as is_librarys
from bnfx.folding.modules.plain.library import is_library, is_op

_CONTAINERS = (tuple, list, set, frozenset, torch.Size)
_TABLES = (dict, OrderedDict)
# No ``str``, which would make text of a symbol.
_BASES = (object, tuple, list, dict, OrderedDict, types.SimpleNamespace, contextlib.nullcontext)
_TORCHS = (fx.Proxy, torch.Tensor, nn.Module)
_OPS = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)
_SLOTS = (types.GetSetDescriptorType, types.MemberDescriptorType)
_IN_C: tuple[type, ...] = (types.WrapperDescriptorType, types.MethodDescriptorType)
_IN_C += (types.ClassMethodDescriptorType, types.BuiltinFunctionType, types.MethodWrapperType)
_TOLD = frozenset(["__module__", "__doc__", "__annotations__", "__orig_bases__", "__parameters__"])
_TOLD |= {"_abc_impl", "__abstractmethods__"}
_MOST = 10_000  # objects; who holds more may hold anything


def is_known(value: Any) -> bool:
    """Whether it is a function, data, a tensor or module, or an object that holds such, and whose
    methods are written in Python.
    """
    left, seen = [value], dict[int, Any]()
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each
        parts = _parts(each)
        if parts is None or len(seen) > _MOST:
            return False
        left += parts
    return True


def _parts(value: Any) -> Iterable[Any] | None:
    """What an object is made of, of which as much is asked; ``None`` if it is not known."""
    kind = type(value)
    if kind is types.FunctionType:
        return () if _is_read(value) or is_op(value) else None
    if kind in _OPS or issubclass(kind, (*_TORCHS, *_SLOTS)) or is_data(value):
        return ()
    if kind is functools.partial:
        return (value.func, value.args, value.keywords)
    if kind is types.MethodType:
        return (value.__func__, value.__self__)
    if kind is property:
        return [each for each in (value.fget, value.fset, value.fdel) if each is not None]
    if kind in (staticmethod, classmethod):
        return [value.__func__]
    if kind in _CONTAINERS:
        return value  # type: ignore[no-any-return]
    if kind in _TABLES:
        return (*value, *value.values())
    if is_op(value) or is_record(value):
        return ()
    if kind in _IN_C:
        return None
    if issubclass(kind, type):
        return _parts_of_class(value)
    parts = _parts_of_class(kind)
    return None if parts is None else (*parts, *getattr(value, "__dict__", {}).values())


def _is_read(function: Any) -> bool:
    """Whether it is read where it runs with symbols; not so Python's, which know what calls them,
    and the tracer's.
    """
    inside = inspect.unwrap(function)
    file, module = inside.__code__.co_filename, str(inside.__module__)
    torchs = module.partition(".")[0] == "torch" and not is_tracers(module)
    return torchs or not is_library(file)


def _parts_of_class(kind: type) -> Iterable[Any] | None:
    """What its objects do: Python's own functions, and what any object does."""
    if kind in fx.Proxy.__mro__ and kind is not object:
        return None  # which a symbol is
    if issubclass(kind, Enum):
        members = [v for name, v in vars(kind).items() if not name.startswith("_")]
        return [[each.value for each in kind], *(m for m in members if not isinstance(m, kind))]
    bases = [base for base in kind.__mro__ if base not in _BASES and not _is_torchs(base)]
    return [v for base in bases for name, v in vars(base).items() if name not in _TOLD]


def _is_torchs(kind: type) -> bool:
    return issubclass(kind, (nn.Module, BaseException)) and is_librarys(kind)
