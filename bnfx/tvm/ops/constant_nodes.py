"""What a graph gives at every call alike: its numbers are known when it is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

# In the ``meta`` of a node: the tensor that it gives at every call.
CONSTANT = "bnfx_constant"

# Larger constants than this are not made of smaller ones.
_LARGE = 1 << 26


def mark(graph: fx.Graph, known: Mapping[fx.Node, torch.Tensor]) -> None:
    """Give ``meta[CONSTANT]`` to these nodes, and to the calls that read nothing else."""
    for node in graph.nodes:
        if node in known:
            node.meta[CONSTANT] = known[node].detach()
        elif node.op == "call_function" and _is_constant(node):
            node.meta[CONSTANT] = _evaluated(node)


def _is_constant(node: fx.Node) -> bool:
    if isinstance(node.target, torch._ops.OpOverload):
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            return False
        if node.target._schema.is_mutable or "empty" in str(node.target):
            return False
        value = node.meta.get("val")
        if not isinstance(value, (torch.Tensor, tuple, list)):
            return False
        if isinstance(value, torch.Tensor) and value.numel() > _LARGE:
            return False
    elif getattr(node.target, "__name__", "") != "getitem":
        return False
    return all(CONSTANT in source.meta for source in node.all_input_nodes)


def _evaluated(node: fx.Node) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: source.meta[CONSTANT])
    assert callable(node.target)
    return node.target(*args, **kwargs)
