"""What an attribute of a class may run, and what it holds."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import CellType, FunctionType
from typing import Any

from bnfx.folding.modules.reading.functions.library import is_known, is_torchs

EMPTY_CELL = CellType()
_WRAPPED = ("fget", "fset", "fdel", "func", "__func__", "__wrapped__")


def unwrapped(value: Any) -> Iterator[tuple[FunctionType, bool]]:
    """The functions in a method, a property, a decorated function, and other descriptors; and of
    each, whether it is given the object that the attribute is asked of.
    """
    stack, seen = [(value, True)], set()
    while stack:
        current, given = stack.pop()
        if current is None or id(current) in seen or isinstance(current, type):
            continue
        seen.add(id(current))
        inside: list[Any] = []
        if isinstance(current, FunctionType):
            yield current, given
            cells = [c for c in current.__closure__ or () if c != EMPTY_CELL]
            inside = [c.cell_contents for c in cells if isinstance(c.cell_contents, FunctionType)]
            # Decorators that name what they are given may hand on something else.
            given = given and (is_torchs(current) or current.__code__.co_argcount == 0)
        elif isinstance(current, functools.partial) or not is_known(type(current)):
            given = False
        inside += [getattr(current, name, None) for name in _WRAPPED]
        stack += [(each, given) for each in inside]


def held_in(value: Any) -> list[Any]:
    """What an attribute of a class holds, besides functions that are read as its methods."""
    inside = [value]  # a descriptor may do anything
    if type(value) in (staticmethod, classmethod):
        inside = [value.__func__]
    elif type(value) is property:
        inside = [value.fget, value.fset, value.fdel]
    elif isinstance(value, functools.cached_property):
        inside = [value.func]
    inside += [each for function, _ in unwrapped(value) for each in held_by(function)]
    return [each for each in inside if not isinstance(each, (FunctionType, type))]


def held_by(function: FunctionType) -> list[Any]:
    """What a function holds, besides what ``super()`` needs."""
    code = function.__code__
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    held = [c.cell_contents for name, c in cells if name != "__class__" and c != EMPTY_CELL]
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return [*held, *vars(function).values()]
