"""Ops that give several parts of a tensor, and the parts."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import fx

from bnfx.passes.crossing import Select
from bnfx.passes.fx.calls.call import named_by_torch
from bnfx.passes.fx.facts.spelling import facts_of
from bnfx.passes.fx.metadata import value_of
from bnfx.passes.lifting import slices

# op -> position of the axis among its arguments
_SPLITS = {"chunk": 2, "split": 2, "split_with_sizes": 2, "tensor_split": 2, "unbind": 1}


@dataclass(frozen=True)
class SplitPart:
    """One part: of what, and which positions."""

    source: fx.Node
    select: Select


def is_split(node: fx.Node) -> bool:
    """Whether the node gives a tuple of parts of its input."""
    return _op(node) in _SPLITS


def split_part(node: fx.Node) -> SplitPart | None:
    """What ``split(x, ...)[i]`` selects, where sizes are known and fixed."""
    if node.target is not operator.getitem:
        return None
    parts, index = node.args
    if not isinstance(parts, fx.Node) or not isinstance(index, int):
        return None
    if (op := _op(parts)) not in _SPLITS:
        return None
    position = _SPLITS[op]
    source = parts.args[0] if parts.args else None
    named = {named_by_torch(name): value for name, value in parts.kwargs.items()}
    axis = parts.args[position] if position < len(parts.args) else named.get("dim", 0)
    values = parts.meta.get("example_value", parts.meta.get("val"))
    if not isinstance(source, fx.Node) or not isinstance(values, (tuple, list)):
        return None
    if not isinstance(axis, int) or not all(isinstance(v, torch.Tensor) for v in values):
        return None
    whole = value_of(source)
    if whole is None:
        return None
    keep = op != "unbind"
    axis %= values[0].dim() + (not keep)
    sizes = [value.shape[axis] if keep else 1 for value in values]
    select = slices.split_part(axis, index % len(sizes), sizes, whole.shape[axis], keep)
    return None if select is None else SplitPart(source, select)


def _op(node: fx.Node) -> str:
    facts = facts_of(node)
    return "" if facts is None else facts.name
