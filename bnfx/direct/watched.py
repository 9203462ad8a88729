"""What a model is made of, as far as a compiled graph knows it: to be watched for assignments.

Once it is watched: as long as nothing is assigned, a path of attributes and items from the model
leads to the very objects that it led to. That holds for objects whose attributes lie in a dict of
their own, and for dicts; of tensors, what can be changed in place is compared too. What is written
*into* tensors is not seen here, but by :mod:`bnfx.weights.changes`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import BuiltinFunctionType, CellType, CodeType, EllipsisType, FunctionType, NoneType
from typing import Any

import torch
from torch import nn

from bnfx.native import loader

_UNCHANGING: frozenset[type] = frozenset(
    {
        *(int, float, complex, bool, str, bytes, NoneType, EllipsisType, BuiltinFunctionType),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format),
    }
)
_TUPLES = frozenset({tuple, torch.Size, frozenset})


class NotDirectError(Exception):
    """Why calls of a compiled model go through torch.compile."""


class Watched:
    """Collects what is to be watched. Anything may be added, more than once."""

    def __init__(self) -> None:
        self._objects = dict[int, Any]()
        self._dicts = dict[int, dict[Any, Any]]()
        self._tensors = dict[int, torch.Tensor]()
        self._types = dict[int, type]()
        self._functions = dict[int, FunctionType]()
        self._cells = dict[int, CellType]()

    def add(self, value: Any) -> bool:
        """Whether nothing but what is watched from now on can change what guards see of it."""
        if isinstance(value, torch.Tensor):
            if type(value) not in (torch.Tensor, nn.Parameter, nn.Buffer):
                return False
            if value.layout is not torch.strided:
                return False
            self._tensors[id(value)] = value
            return True
        if isinstance(value, nn.Module):
            self._objects[id(value)] = value
            self._dicts[id(vars_of(value))] = vars_of(value)
            self.add(type(value))
            return True
        if type(value) is dict:
            self._dicts[id(value)] = value
            return True
        if isinstance(value, type):
            self._types.update((id(base), base) for base in value.__mro__)
        elif isinstance(value, FunctionType):
            self._functions[id(value)] = value
        elif isinstance(value, CellType):
            self._cells[id(value)] = value
        return is_unchanging(value)

    def add_empty(self, value: dict[Any, Any]) -> None:
        """Watch a dict without items, of whatever class. (The order of an OrderedDict isn't seen.)

        Raises:
            NotDirectError: if it has any.
        """
        if value:
            raise NotDirectError("the model has hooks")
        self._dicts[id(value)] = value

    def includes(self, other: Watched) -> bool:
        """Whether all is watched here that is watched there; both must be alive."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return all(ours.keys() >= theirs.keys() for ours, theirs in pairs)

    def holds(self) -> Callable[[], bool]:
        """What tells whether it all is as it is now.

        Raises:
            NotDirectError: as long as there is no native code.
        """
        if loader.check_type() is None:
            raise NotDirectError(f"no native check yet: {loader.state().sentence}")
        for each in self._types.values():
            getattr(each, "forward", None)  # Python numbers a type when it is first looked at
        kinds = self._objects, self._types, self._dicts, self._tensors, self._functions, self._cells
        watch = loader.state().module.Watch(*(list(each.values()) for each in kinds))
        found: Callable[[], bool] = watch.holds
        return found


def is_unchanging(value: Any) -> bool:
    """Whether nothing of it can change that a guard could see."""
    if type(value) in _TUPLES:
        return all(map(is_unchanging, value))
    return type(value) in _UNCHANGING


def is_one(value: Any) -> bool:
    """Whether its type cannot change, nor which one it is; anything else of it may."""
    return type(value) in (FunctionType, CodeType, CellType, type)


_DICT: Any = vars(nn.Module)["__dict__"]


def vars_of(value: nn.Module) -> dict[str, Any]:
    """The attributes of its own, whatever its class says of ``__dict__``."""
    found: dict[str, Any] = _DICT.__get__(value)
    return found


def looked_up(kind: type[nn.Module]) -> None:
    """See that attributes are looked up as Python does it.

    Raises:
        NotDirectError: if the class does it itself.
    """
    if kind.__getattribute__ not in (object.__getattribute__, nn.Module.__getattribute__):
        raise NotDirectError(f"{kind.__name__} has a __getattribute__")


def own_attribute(value: nn.Module, name: str) -> Any:
    """What ``value.name`` is, where it stands among its own attributes.

    Raises:
        NotDirectError: if it does not, or its class has a say in it.
    """
    kind = type(value)
    looked_up(kind)
    said = inspect.getattr_static(kind, name, None)
    if inspect.isdatadescriptor(said) or name not in vars_of(value):
        raise NotDirectError(f"{kind.__name__}.{name} is no attribute of its own")
    return vars_of(value)[name]
