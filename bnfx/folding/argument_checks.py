"""The assertions of a captured graph on its arguments, taken out while it is rewritten.

They compute with sizes and Python values, and an op that no rule knows may do anything; so a graph
is rewritten without them, and they are written into the result.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import fx


def without_checks(traced: fx.GraphModule) -> tuple[fx.GraphModule, Sequence[fx.Node]]:
    """A copy of the graph without its assertions on arguments; and those, in their order."""
    checks = _checks(traced.graph)
    bare = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in traced.graph.nodes:
        if node.op == "output":
            bare.output(fx.map_arg(node.args[0], copies.__getitem__))
        elif node not in checks:
            copies[node] = bare.node_copy(node, copies.__getitem__)
            copies[node].name = node.name
    return fx.GraphModule(traced, bare, type(traced).__name__).eval(), [
        node for node in traced.graph.nodes if node in checks
    ]


def write_checks(folded: fx.GraphModule, checks: Sequence[fx.Node]) -> None:
    """Write assertions into the rewritten graph, in their order, each behind what it reads."""
    order = {node: at for at, node in enumerate(folded.graph.nodes)}
    copies = {node.name: node for node in order}
    behind = next(node for node in reversed(folded.graph.nodes) if node.op == "placeholder")
    reached = order[behind]
    for check in checks:
        for source in check.all_input_nodes:
            argument = copies[source.name]
            if order.get(argument, -1) > reached:
                behind, reached = argument, order[argument]
        with folded.graph.inserting_after(behind):
            behind = folded.graph.node_copy(check, lambda node: copies[node.name])
        copies[check.name] = behind
    folded.recompile()


def _checks(graph: fx.Graph) -> set[fx.Node]:
    """Assertions on arguments, and what is computed for them alone."""
    arguments: set[fx.Node] = set()
    pure: set[fx.Node] = set()  # computed from arguments alone
    for node in graph.nodes:
        if node.op == "placeholder" or (
            node.target is operator.getitem and arguments.issuperset(node.all_input_nodes)
        ):
            arguments.add(node)
        elif node.op.startswith("call_") and (arguments | pure).issuperset(node.all_input_nodes):
            pure.add(node)
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in pure and (
            node.target is torch._assert or (node.users and found.issuperset(node.users))
        ):
            found.add(node)
    return found
