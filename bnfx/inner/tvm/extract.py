"""Builds the graph that runs: PyTorch's calls as they are, each stage of TVM's a submodule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from bnfx.inner.tvm.part import laid_out
from bnfx.inner.tvm.placement import Placement
from bnfx.inner.tvm.views import is_view, leaving
from bnfx.passes.fx.lowering.bind import attribute
from bnfx.tvm.ops.constant_nodes import CONSTANT


class _Builder:
    """A graph in the making, which holds constants as attributes."""

    def __init__(self, original: fx.GraphModule) -> None:
        self.graph = fx.Graph()
        self.attributes: dict[str, Any] = {}
        self.values: dict[fx.Node, fx.Node] = {}
        self._original = original

    def read(self, node: fx.Node) -> fx.Node:
        """A value; a constant is read where it is first needed."""
        if node not in self.values:
            fixed = CONSTANT in node.meta
            name = f"constant_{len(self.attributes)}"
            self.attributes[name] = (
                node.meta[CONSTANT] if fixed else attribute(self._original, str(node.target))
            )
            self.values[node] = self.graph.get_attr(name)
            self.values[node].meta = dict(node.meta)
        return self.values[node]

    def copy(self, node: fx.Node) -> None:
        self.values[node] = self.graph.node_copy(node, self.read)

    def module(self) -> fx.GraphModule:
        held = nn.Module()
        for name, value in self.attributes.items():
            if isinstance(value, torch.Tensor):
                held.register_buffer(name, value)
            else:
                setattr(held, name, value)
        return fx.GraphModule(held, self.graph)


def extracted(
    original: fx.GraphModule,
    graph: fx.Graph,
    stages: Mapping[fx.Node, int],
    make_part: Any,
    placement: Placement,
) -> fx.GraphModule:
    """The graph with stages of even numbers as submodules, made by ``make_part``."""
    whole = _Builder(original)
    for node in graph.find_nodes(op="placeholder"):
        whole.copy(node)
    by_stage: dict[int, list[fx.Node]] = {}
    for node, stage in stages.items():
        by_stage.setdefault(stage, []).append(node)
    leave = leaving(graph)
    placement.parts = 0
    for stage in sorted(by_stage):
        nodes = by_stage[stage]
        if stage % 2:
            for node in nodes:
                whole.copy(node)
                if _is_viewed(node):
                    # A few operators of PyTorch's give other strides than they tell, group_norm of
                    # channels_last for one; a view chosen by what was told may not exist then.
                    strides = tuple(map(int, node.meta["val"].stride()))
                    whole.values[node] = whole.graph.call_function(
                        laid_out, (whole.values[node], strides, False)
                    )
            continue
        part, inputs, outputs = _part(original, nodes)
        name = f"part_{placement.parts}"
        placement.parts += 1
        whole.attributes[name] = make_part(part, [node in leave for node in outputs], placement)
        call = whole.graph.call_module(name, tuple(whole.read(node) for node in inputs))
        for at, node in enumerate(outputs):
            whole.values[node] = whole.graph.call_function(_getitem, (call, at))
            whole.values[node].meta = dict(node.meta)
    result = fx.map_arg(graph.output_node().args[0], whole.read)
    whole.graph.output(result)
    return whole.module()


def _is_viewed(node: fx.Node) -> bool:
    """Whether there are views of what a call makes."""
    fresh = not is_view(node) and isinstance(node.meta.get("val"), torch.Tensor)
    return fresh and any(map(is_view, node.users))


def _getitem(values: Any, at: int) -> Any:
    return values[at]


def _part(
    original: fx.GraphModule, nodes: list[fx.Node]
) -> tuple[fx.GraphModule, list[fx.Node], list[fx.Node]]:
    """These calls as a graph of their own; what it reads; what others read of it."""
    inside = set(nodes)
    builder = _Builder(original)
    read = dict.fromkeys(source for node in nodes for source in node.all_input_nodes)
    inputs = [
        node
        for node in read
        if node not in inside and CONSTANT not in node.meta and node.op != "get_attr"
    ]
    for node in inputs:
        place = builder.graph.placeholder(node.name)
        place.meta = dict(node.meta)
        builder.values[node] = place
    for node in nodes:
        builder.copy(node)
    outputs = [node for node in nodes if any(user not in inside for user in node.users)]
    builder.graph.output(tuple(builder.values[node] for node in outputs))
    return builder.module(), inputs, outputs
