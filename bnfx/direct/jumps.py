"""Decisions in the code that Dynamo wrote: from 2.15 on it asks whether the profiler is on, to tell
it of the loading of inputs. A direct call tells it nothing, and goes on as if it were off.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Mapping
from typing import Any

import torch

from bnfx.direct.symbols import Constant, Given
from bnfx.direct.watched import NotDirectError

_TAKEN: Mapping[str, Callable[[Any], bool]] = {
    "JUMP_FORWARD": lambda _: True,
    "POP_JUMP_IF_TRUE": bool,
    "POP_JUMP_IF_FALSE": lambda value: not value,
    "POP_JUMP_IF_NONE": lambda value: value is None,
    "POP_JUMP_IF_NOT_NONE": lambda value: value is not None,
}


def is_a_jump(each: dis.Instruction) -> bool:
    return "JUMP" in each.opname


def goes_on_at(each: dis.Instruction, stack: list[Any]) -> int:
    """The offset of the instruction behind a jump that is taken; 0 for one that is not.

    Raises:
        NotDirectError: if it leads back, or if what it depends on is not known.
    """
    name = each.opname.replace("POP_JUMP_FORWARD", "POP_JUMP")  # Python 3.11
    if name not in _TAKEN or each.argval <= each.offset:
        raise NotDirectError(f"its code has {each.opname}")
    value = Constant(None) if name == "JUMP_FORWARD" else stack.pop()
    if not isinstance(value, Constant):
        raise NotDirectError("it decides by what is not known")
    return int(each.argval) if _TAKEN[name](value.value) else 0


def compare(each: dis.Instruction, stack: list[Any]) -> None:
    """``is`` and ``is not``."""
    other, one = stack.pop(), stack.pop()
    if not (isinstance(one, Constant) and isinstance(other, Constant)):
        raise NotDirectError("it compares what is not known")
    stack.append(Constant((one.value is other.value) != bool(each.arg)))


def asks_the_profiler(value: Any, name: str) -> bool:
    """Whether the attribute ``name`` of ``value`` says if the profiler is on."""
    if name != "_is_profiler_enabled" or not isinstance(value, Given) or value.names is None:
        return False
    return value.of({}) is torch.autograd.profiler
