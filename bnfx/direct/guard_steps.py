"""Where the steps of Dynamo's guards lead from what is watched."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Mapping
from types import CellType, FunctionType
from typing import Any

from torch import nn

from bnfx.direct.watched import vars_of

UNKNOWN = object()


class OfClass(dict[str, Any]):
    """The attributes of a class."""


def step(accessor: Any, value: Any) -> Any:
    """Where an accessor leads from a value that is watched; :data:`UNKNOWN` for all others."""
    if isinstance(accessor, tuple):
        at, is_value = accessor
        items = list(value.items()) if type(value) is dict else []
        return items[at][is_value] if at < len(items) else UNKNOWN
    kind = type(accessor).__name__
    known = _STEPS.get(kind)
    if known is None or not isinstance(value, known[0]):
        return UNKNOWN
    try:
        return known[1](value, accessor)
    except (LookupError, TypeError):
        return UNKNOWN


# Accessor -> the values that it is known to leave as they are while they are watched, and where it
# leads. The closure of a function cannot be assigned to; the mro and dict of a class change only
# with its version.
_STEPS: Mapping[str, tuple[type | tuple[type, ...], Callable[[Any, Any], Any]]] = {
    "GetGenericDictGuardAccessor": (nn.Module, lambda value, _: vars_of(value)),
    "DictGetItemGuardAccessor": (
        dict,
        lambda value, accessor: (
            value[key_of(accessor, "DictGetItemGuardAccessor")]
            if type(value) in (dict, OfClass)
            else UNKNOWN  # those of other classes are not watched
        ),
    ),
    "TupleGetItemGuardAccessor": (
        tuple,
        lambda value, accessor: value[key_of(accessor, "TupleGetItemGuardAccessor")],
    ),
    "TypeGuardAccessor": (nn.Module, lambda value, _: type(value)),
    "TypeMROGuardAccessor": (type, lambda value, _: value.__mro__),
    "TypeDictGuardAccessor": (type, lambda value, _: OfClass(value.__dict__)),
    "CodeGuardAccessor": (FunctionType, lambda value, _: value.__code__),
    "ClosureGuardAccessor": (FunctionType, lambda value, _: value.__closure__),
    "FuncDefaultsGuardAccessor": (FunctionType, lambda value, _: value.__defaults__),
    "FuncKwDefaultsGuardAccessor": (FunctionType, lambda value, _: value.__kwdefaults__),
    "GetAttrGuardAccessor": (
        (CellType, FunctionType),
        lambda value, accessor: _known_attribute(value, accessor.repr()),
    ),
}
_ATTRIBUTES = ("cell_contents", "__code__", "__defaults__", "__kwdefaults__", "__closure__")


def _known_attribute(value: Any, words: str) -> Any:
    name = words.removeprefix("GetAttrGuardAccessor(").removesuffix(")")
    return getattr(value, name) if name in _ATTRIBUTES else UNKNOWN


def key_of(accessor: Any, kind: str) -> Any:
    """The key of an accessor of this kind; accessors say theirs in words alone."""
    return UNKNOWN if isinstance(accessor, tuple) else _read(accessor.repr(), kind)


@functools.lru_cache(maxsize=4096)
def _read(words: str, kind: str) -> Any:
    found = re.fullmatch(rf"{kind}\((?:key=)?(.*?)(?:, framelocals_idx=\d+)?\)", words, re.DOTALL)
    try:
        return ast.literal_eval(found[1]) if found else UNKNOWN
    except (ValueError, SyntaxError):
        return UNKNOWN
