"""What an attribute of a class may run, and what it holds."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import CellType, FunctionType
from typing import Any

EMPTY_CELL = CellType()
_WRAPPED = ("fget", "fset", "func", "__func__", "__wrapped__")


def unwrapped(value: Any) -> Iterator[FunctionType]:
    """The functions in a method, a property, a decorated function, and other descriptors."""
    stack, seen = [value], set()
    while stack:
        current = stack.pop()
        if current is None or id(current) in seen or isinstance(current, type):
            continue
        seen.add(id(current))
        stack += [getattr(current, name, None) for name in _WRAPPED]
        if isinstance(current, functools.partial):
            stack.append(current.func)
        if isinstance(current, FunctionType):
            yield current
            for cell in current.__closure__ or ():
                if cell != EMPTY_CELL and isinstance(cell.cell_contents, FunctionType):
                    stack.append(cell.cell_contents)


def held_in(value: Any) -> list[Any]:
    """What an attribute of a class holds, besides functions that are read as its methods."""
    inside = [value]  # a descriptor may do anything
    if type(value) in (staticmethod, classmethod):
        inside = [value.__func__]
    elif type(value) is property:
        inside = [value.fget, value.fset, value.fdel]
    return [each for each in inside if not isinstance(each, (FunctionType, type))]
