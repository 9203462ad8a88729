"""Ops that give several parts of a tensor, and the parts."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from bnfx.passes.crossing import Select

# target -> position of the axis among its arguments
_FUNCTIONS: dict[Any, int] = {
    torch.chunk: 2,
    torch.split: 2,
    torch.functional.split: 2,
    torch.tensor_split: 2,
    torch.unbind: 1,
    torch.ops.aten.chunk.default: 2,
    torch.ops.aten.split.Tensor: 2,
    torch.ops.aten.split_with_sizes.default: 2,
    torch.ops.aten.unbind.int: 1,
}
_METHODS = {"chunk": 2, "split": 2, "tensor_split": 2, "unbind": 1, "split_with_sizes": 2}


@dataclass(frozen=True)
class SplitPart:
    """One part: of what, and which positions."""

    source: fx.Node
    select: Select


def is_split(node: fx.Node) -> bool:
    """Whether the node gives a tuple of parts of its input."""
    return _axis_position(node) is not None


def split_part(node: fx.Node) -> SplitPart | None:
    """What ``split(x, ...)[i]`` selects, where sizes are known and fixed."""
    if node.op != "call_function" or node.target is not operator.getitem:
        return None
    parts, index = node.args
    if not isinstance(parts, fx.Node) or not isinstance(index, int):
        return None
    position = _axis_position(parts)
    if position is None:
        return None
    source = parts.args[0] if parts.args else None
    axis = parts.args[position] if position < len(parts.args) else parts.kwargs.get("dim", 0)
    values = parts.meta.get("example_value", parts.meta.get("val"))
    if not isinstance(source, fx.Node) or not isinstance(values, (tuple, list)):
        return None
    if not isinstance(axis, int) or not all(isinstance(v, torch.Tensor) for v in values):
        return None
    keep = parts.target not in (torch.unbind, torch.ops.aten.unbind.int, "unbind")
    axis %= values[0].dim() + (not keep)
    sizes = [value.shape[axis] if keep else 1 for value in values]
    if not all(isinstance(size, int) for size in sizes):
        return None
    index %= len(sizes)
    start = sum(sizes[:index])
    return SplitPart(source, Select(axis, start, start + sizes[index], keep))


def _axis_position(node: fx.Node) -> int | None:
    if node.op == "call_method":
        return _METHODS.get(str(node.target))
    if node.op == "call_function":
        return _FUNCTIONS.get(node.target)
    return None
