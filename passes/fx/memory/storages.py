"""In which memory the values of a captured graph lie, as its fake tensors tell."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from bnfx.passes.fx.metadata import dims_of, strides_of, value_of
from bnfx.passes.fx.private import memory


def known_value(node: fx.Node) -> torch.Tensor:
    """The value of a node whose memory is known."""
    value = value_of(node)
    assert value is not None, "only values that are known lie in a known memory"
    return value


def memory_of(node: fx.Node) -> object:
    """What tells the memory in which the node's value lies; ``None`` if that is not known."""
    value = value_of(node)
    try:
        return None if value is None else memory(value)
    except NotImplementedError:  # what torch.vmap shows has no memory that could be asked for
        return None


def form_of(node: fx.Node) -> object:
    """Dtype, sizes, strides and offset of its value."""
    value = known_value(node)
    return value.dtype, dims_of(value), strides_of(value), str(value.storage_offset())


def is_whole(value: torch.Tensor) -> bool:
    """Whether, at the sizes of the example, the value is all of its memory."""
    memory_size = value.untyped_storage().nbytes()
    numbers = _hints(*value.shape, *value.stride(), value.storage_offset(), memory_size)
    if numbers is None or numbers[-2] != 0:
        return False
    sizes, strides = numbers[: value.dim()], numbers[value.dim() : -2]
    expected = 1
    for stride, size in sorted(zip(strides, sizes, strict=True)):
        if size != 1 and stride != expected:
            return 0 in sizes
        expected *= size
    return numbers[-1] == expected * value.element_size()


def bytes_of(node: fx.Node) -> float:
    """Those of the value's memory; for an open size, infinitely many."""
    if memory_of(node) is None:
        return 0
    size = known_value(node).untyped_storage().nbytes()
    return size if isinstance(size, int) else math.inf


def _hints(*sizes: int | torch.SymInt) -> list[int] | None:
    """What open sizes were in the example; ``None`` if one was not known."""
    found: list[Any] = [each if isinstance(each, int) else each.node.hint for each in sizes]
    return None if any(each is None for each in found) else found
