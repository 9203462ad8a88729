"""A graph for sizes that are known, in which what is known beforehand is a constant."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from bnfx.passes.fx.lowering.bind import attribute
from bnfx.torch_private import FakeTensorMode
from bnfx.tvm.ops.constant_nodes import mark


def specialised(
    graph: fx.GraphModule, args: Sequence[Any], fixed: Collection[int]
) -> fx.GraphModule:
    """The graph traced for the sizes and numbers of ``args``.

    Every node has ``meta["val"]``; those that give the same tensor at every call have it as
    ``meta[CONSTANT]`` (:mod:`bnfx.tvm.ops.constant_nodes`).

    Args:
        graph: of ATen operators, without effects.
        args: tensors and numbers.
        fixed: ``id`` of tensors among ``args`` that never change.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        fakes = [fake(value) if isinstance(value, torch.Tensor) else value for value in args]
        # A torch.fx.Interpreter keeps to the operators that the graph has.
        traced = make_fx(graph, _allow_non_fake_inputs=True)(*fakes)
    traced.graph.eliminate_dead_code()  # results of an operator that nobody reads; not random ones
    known = {}
    places = traced.graph.find_nodes(op="placeholder")
    for place, value in zip(places, args, strict=True):
        if id(value) in fixed:
            known[place] = value
    for node in traced.graph.find_nodes(op="get_attr"):
        value = attribute(traced, str(node.target))
        if isinstance(value, torch.Tensor):
            known[node] = node.meta["val"] = value
    mark(traced.graph, known)
    return traced


def fake(value: torch.Tensor) -> torch.Tensor:
    """One like ``value`` of the active fake mode, with memory of its own."""
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
