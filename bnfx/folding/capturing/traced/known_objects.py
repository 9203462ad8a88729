"""Objects of which code that is read shows all that is done with them.

A function that is written in C may look at its argument, and nothing shows that. So which of them
code can have is listed; functions that are written in Python are read when they run.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import types
from abc import ABCMeta
from collections import OrderedDict
from collections.abc import Collection, Iterable
from enum import Enum, EnumMeta
from typing import Any

import torch
from torch import fx, nn

from bnfx.folding.capturing.asking.modes import ASKING
from bnfx.folding.capturing.traced.runs import is_within
from bnfx.folding.modules.plain.data import INTERNAL, is_data, is_record
from bnfx.folding.modules.plain.library import is_known as is_librarys
from bnfx.folding.modules.plain.library import is_library, is_op

_CONTAINERS = (tuple, list, set, frozenset, torch.Size)
_TABLES = (dict, OrderedDict)
# No ``str``, which would make text of a symbol.
_BASES = (
    object,
    type,
    tuple,
    list,
    dict,
    OrderedDict,
    types.SimpleNamespace,
    contextlib.nullcontext,
)
_OPS = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)
_SLOTS = (types.GetSetDescriptorType, types.MemberDescriptorType)
_IN_C: tuple[type, ...] = (types.WrapperDescriptorType, types.MethodDescriptorType)
_IN_C += (types.ClassMethodDescriptorType, types.BuiltinFunctionType, types.MethodWrapperType)
# What Python notes of a class.
TOLD = frozenset(["__module__", "__doc__", "__annotations__", "__orig_bases__", "__parameters__"])
TOLD |= {"_abc_impl", "__abstractmethods__", "__dataclass_fields__", "__dataclass_params__"}
TOLD |= {"__annotate_func__", "__annotations_cache__", "__constants__", "__qualname__"}
_ARITHMETIC = frozenset(
    ["add", "sub", "mul", "truediv", "floordiv", "pow", "neg", "matmul", "getitem"]
)
_KNOWN = {id(getattr(operator, name)) for name in _ARITHMETIC} | {id(functools.reduce)}
_READ = ("torch.nn", "torch.functional", "torch._tensor", "torch.utils._pytree")
_MOST = 10_000  # objects; who holds more may hold anything


def is_known(value: Any, apart: Collection[int] = ()) -> bool:
    """Whether it is a function, data, a tensor or module, or an object that holds such, and whose
    methods are written in Python.

    Args:
        value: what is asked about.
        apart: ids of modules that are not asked about.
    """
    left, seen = [value], dict[int, Any]()
    while left:
        each = left.pop()
        if id(each) in seen or id(each) in apart:
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
    if any(value is each for each in (*_CONTAINERS, *_TABLES)):
        return None  # they iterate, and a symbol has to see who does
    if kind is types.FunctionType:
        attributes = [v for name, v in vars(value).items() if name != "__wrapped__"]
        return attributes if _is_read(value) or is_op(value) else None
    if kind in _OPS or issubclass(kind, (fx.Proxy, *_SLOTS)) or is_data(value):
        return ()
    if issubclass(kind, torch.Tensor):
        return [*vars(value).values()]
    if issubclass(kind, nn.Module):
        if is_librarys(kind):
            return ()
        own = [v for name, v in vars(value).items() if name not in INTERNAL]
        return (*own, *(_parts_of_class(kind) or ()))
    if isinstance(value, BaseException):
        return (*value.args, *vars(value).values(), *(_parts_of_class(kind) or ()))
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
    if id(value) in _KNOWN or is_record(value) or (is_op(value) and not _asks(value)):
        return ()
    if kind in _IN_C:
        return None
    if issubclass(kind, type):
        plain = kind in (type, ABCMeta, EnumMeta)
        both = [_parts_of_class(each) for each in ((value,) if plain else (value, kind))]
        if value is type or None in both:
            return None
        return [part for some in both for part in some or ()]
    parts = _parts_of_class(kind)
    if parts is None:
        return None
    items = [*value] if issubclass(kind, _CONTAINERS) else []
    items += [*value.keys(), *value.values()] if issubclass(kind, dict) else []
    slots = [each for each in parts if isinstance(each, types.MemberDescriptorType)]
    filled = [each.__get__(value) for each in slots if hasattr(value, each.__name__)]
    return (*parts, *items, *filled, *getattr(value, "__dict__", {}).values())


def _asks(function: Any) -> bool:
    """Whether a function in C tells of modes, or of classes."""
    name = str(getattr(function, "__name__", ""))
    return name in ASKING or name.startswith(("has_torch_function", "_has_torch_function"))


def _is_read(function: Any) -> bool:
    """Whether it is read where it runs with symbols; not so Python's, which know what calls them,
    and torch's that may tell of modes and generators.
    """
    inside = inspect.unwrap(function)
    file, module = inside.__code__.co_filename, str(inside.__module__)
    return is_within(module, _READ) or not is_library(file)


def _parts_of_class(kind: type) -> Iterable[Any] | None:
    """What its objects do: Python's own functions, and what any object does."""
    if kind in fx.Proxy.__mro__ and kind is not object:
        return None  # which a symbol is
    if issubclass(kind, Enum):
        members = [v for name, v in vars(kind).items() if not name.startswith("_")]
        held = [part for each in kind for part in (each.value, {**vars(each), "_sort_order_": 0})]
        return [*held, *(m for m in members if not isinstance(m, kind))]
    bases = [base for base in kind.__mro__ if base not in _BASES and not _is_torchs(base)]
    return [v for base in bases for name, v in vars(base).items() if name not in TOLD]


def _is_torchs(kind: type) -> bool:
    return issubclass(kind, (nn.Module, BaseException)) and is_librarys(kind)
