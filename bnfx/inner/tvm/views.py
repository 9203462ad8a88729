"""Views in a graph without effects, for the readers that are not TVM's."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from bnfx.tvm.ops.constant_nodes import CONSTANT

# Why PyTorch runs what was put in for it.
FOR_TORCH = "it is read by PyTorch"
Reasons = dict[fx.Node, "str | None"]


def is_view(node: fx.Node) -> bool:
    """Whether a call gives views of what it reads."""
    if node.op != "call_function":
        return False
    if getattr(node.target, "__name__", "") == "getitem":
        source = node.args[0]
        return isinstance(source, fx.Node) and is_view(source)
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    schema = node.target._schema
    if node.target is torch.ops.aten._unsafe_view.default:  # one that does not say so
        return True
    return not schema.is_mutable and any(value.alias_info for value in schema.returns)


def give_views(graph: fx.Graph, reasons: Reasons) -> None:
    """Let PyTorch make the views that PyTorch reads, and those that leave the graph.

    What leaves the graph and is the same at each run is made anew at each.

    Args:
        graph: changed in place.
        reasons: why PyTorch runs a call, ``None`` where TVM does; kept up to date, in order.
    """
    copies: dict[tuple[fx.Node, bool], fx.Node] = {}

    def made(node: fx.Node, leaves: bool) -> fx.Node:
        """What PyTorch reads in place of ``node``."""
        key = (node, leaves)
        if key in copies:
            return copies[key]
        fixed, fresh = CONSTANT in node.meta, node
        if node.op != "placeholder":
            if is_view(node) and (reasons.get(node, "") is None or (fixed and leaves)):
                sources = {source: made(source, leaves) for source in node.all_input_nodes}
                with graph.inserting_after(node):
                    fresh = graph.node_copy(node, sources.__getitem__)
            elif fixed and leaves:
                with graph.inserting_after(node):
                    fresh = graph.call_function(torch.ops.aten.clone.default, (node,))
                fresh.meta = dict(node.meta)
        if fresh is not node:
            fresh.meta.pop(CONSTANT, None)
            reasons[fresh] = FOR_TORCH
        copies[key] = fresh
        return fresh

    output = graph.output_node()
    output.args = fx.map_arg(output.args, lambda node: made(node, True))
    for node in list(graph.nodes):
        if reasons.get(node) is not None and node not in copies.values():
            leaves = is_view(node) and _leaves(node)
            sources = {source: made(source, leaves) for source in node.all_input_nodes}
            node.args = fx.map_arg(node.args, sources.__getitem__)
            node.kwargs = fx.map_arg(node.kwargs, sources.__getitem__)
    for node in reversed(list(graph.nodes)):
        if not node.users and is_view(node):
            graph.erase_node(node)
            reasons.pop(node, None)
    order = {node: at for at, node in enumerate(graph.nodes)}
    ordered = sorted(reasons.items(), key=lambda item: order[item[0]])
    reasons.clear()
    reasons.update(ordered)


def _leaves(node: fx.Node) -> bool:
    """Whether a view, or a view of it, leaves the graph."""
    return any(user.op == "output" or (is_view(user) and _leaves(user)) for user in node.users)


def leaving(graph: fx.Graph) -> set[fx.Node]:
    """What leaves the graph, and what views that leave it are views of."""
    found: set[fx.Node] = set()
    queue: list[Any] = list(graph.output_node().all_input_nodes)
    while queue:
        node = queue.pop()
        if node not in found:
            found.add(node)
            if is_view(node):
                queue += node.all_input_nodes
    return found
