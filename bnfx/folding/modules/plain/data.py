"""Objects that hold numbers, text and classes, and nothing that holds a layer."""

from __future__ import annotations

import functools
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from bnfx.folding.modules.plain.library import is_bare, is_plain_class

INTERNAL = frozenset(vars(nn.Module())) - {"training"}
_NUMBERS: tuple[type, ...] = (bool, int, float, str, bytes, complex, type(None), range)
_NUMBERS += (torch.dtype, torch.device, torch.layout, torch.memory_format)
_LISTS = (tuple, list, frozenset, set, torch.Size)
_TABLES = (dict, OrderedDict)


def is_constant(value: Any) -> bool:
    """Whether it is data that cannot change: a file's ``None`` may become anything later."""
    if type(value) in (tuple, frozenset, torch.Size):
        return all(map(is_constant, value))
    if type(value) is slice:
        ends = (value.start, value.stop, value.step)
        return all(each is None or is_constant(each) for each in ends)
    return value is not None and type(value) not in (*_LISTS, *_TABLES) and is_data(value)


def is_data(value: Any) -> bool:
    """Whether it holds numbers, text and classes of layers, and nothing else."""
    if type(type(value)) is not type:  # its class may say that it equals any
        return False
    if type(value) in _LISTS:
        return all(map(is_data, value))
    if type(value) is slice:
        return all(map(is_data, (value.start, value.stop, value.step)))
    if type(value) in _TABLES and not getattr(value, "__dict__", None):
        return all(map(is_data, (*value, *value.values())))
    return type(value) in _NUMBERS or is_plain_class(value)


_OF_RECORDS = frozenset(vars(namedtuple("_Empty", ())))
_OF_TYPED = frozenset(  # what Python adds to a class that is written as one
    [
        *("__orig_bases__", "__annotations__", "__firstlineno__", "__static_attributes__"),
        *("__annotate_func__", "__annotations_cache__"),
    ]
)


def is_record(value: Any) -> bool:
    """Whether it is a named tuple, with no methods but what Python makes."""
    if not isinstance(value, type) or not issubclass(value, tuple) or len(value.__mro__) != 3:
        return False
    own, fields = vars(value), vars(value).get("_fields", ())
    if not {*fields} <= own.keys() - _OF_RECORDS:
        return False
    fresh = vars(namedtuple("fresh", fields))
    same = all(_is_as_made(own.get(name), fresh[name]) for name in fresh)
    return same and own.keys() - fresh.keys() <= _OF_TYPED and is_data(value.__new__.__defaults__)


def _is_as_made(value: Any, made: Any) -> bool:
    """Whether what a named tuple has under a name is what Python put there."""
    codes = [getattr(getattr(v, "__func__", v), "__code__", None) for v in (value, made)]
    return type(value) is type(made) and codes[0] == codes[1]


def held_objects(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What it has besides its parameters, buffers and modules."""
    for name, value in vars(module).items():
        if name not in INTERNAL:
            yield name, value


def is_plain_tensor(tensor: torch.Tensor) -> bool:
    """Whether it is of torch's own classes, and has no attributes."""
    return type(tensor) in (torch.Tensor, nn.Parameter, nn.Buffer) and not vars(tensor)


def held_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Those in an object that is data but for them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif type(value) in (*_LISTS, *_TABLES):
        for each in value.values() if type(value) in _TABLES else value:
            yield from held_tensors(each)


def without_tensors(value: Any) -> Any:
    """It, with a number in place of each tensor that has no attributes of its own."""
    if isinstance(value, torch.Tensor):
        return 0 if is_plain_tensor(value) else value
    if type(value) in (list, tuple):
        return [without_tensors(each) for each in value]
    if type(value) is dict:
        return {name: without_tensors(each) for name, each in value.items()}
    return value


def made_of(value: Any) -> Any:
    """What makes a layer or is an op, without the data that it is given beforehand."""
    if type(value) is functools.partial and is_data((value.args, value.keywords)):
        return made_of(value.func) if is_bare(value) else value
    return value
