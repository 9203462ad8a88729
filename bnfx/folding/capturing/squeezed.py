"""Axes that an op drops if their size is 1: whether it does is decided once, by the example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from bnfx.passes.fx.metadata import value_of


def squeezed_sizes(graph: fx.Graph) -> Iterator[torch.SymInt]:
    """The open sizes of axes that ``squeeze`` would drop, were they 1.

    Neither ``torch.export`` nor a fake tensor notes that it took them for others.
    """
    node: Any
    for node in graph.nodes:
        name = getattr(node.target, "__name__", str(node.target)).rpartition("::")[2]
        if not node.op.startswith("call_") or not name.startswith(("squeeze", "atleast")):
            continue
        value = value_of(node.all_input_nodes[0]) if node.all_input_nodes else None
        if isinstance(value, torch.Tensor):
            sizes: Any = value.shape
            for axis in sorted(_axes(node, value.dim())):
                if isinstance(sizes[axis], torch.SymInt):
                    yield sizes[axis]


def _axes(node: fx.Node, rank: int) -> set[int]:
    """Those that may be dropped: all, if none are named."""
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if given is None or rank == 0:
        return set(range(rank))
    axes: Any = given if isinstance(given, (tuple, list)) else node.args[1:] or (given,)
    if not all(isinstance(axis, int) for axis in axes):
        return set(range(rank))
    return {axis % rank for axis in axes}
