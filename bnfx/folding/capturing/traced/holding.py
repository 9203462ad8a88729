"""Whether a value leads to a symbol."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from types import CodeType, FrameType, FunctionType, ModuleType, TracebackType
from typing import Any

import torch
from torch import fx, nn

_MOST = 10_000  # objects; who holds more is taken to hold a symbol
# What a model is made of is not asked: what a call leaves there is seen when it ends.
_PYTHONS = (type, ModuleType, CodeType, FrameType, TracebackType, logging.Logger)
_ELSEWHERE = (nn.Module, torch.Tensor, fx.Node, fx.Graph, fx.Tracer, *_PYTHONS)


def leads_to_symbol(value: Any) -> bool:
    """Whether a value is a symbol, or leads to one: a container, an iterator, a closure."""
    stack, seen = [value] if gc.is_tracked(value) else [], set[int]()
    while stack:
        each = stack.pop()
        kind = type(each)
        if issubclass(kind, fx.Proxy):
            return True
        if issubclass(kind, _ELSEWHERE) or id(each) in seen:
            continue
        seen.add(id(each))
        if len(seen) > _MOST:
            return True
        stack += (part for part in _parts(each) if gc.is_tracked(part))
    return False


def _parts(value: Any) -> Iterator[Any]:
    if not isinstance(value, FunctionType):
        yield from gc.get_referents(value)
        return
    yield from (value.__defaults__, value.__kwdefaults__, value.__closure__, value.__dict__)
