"""What lifting a function gives: the neutral graph, and the way back to Relay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bnfx.passes.graph import Graph, Node, Role
from bnfx.passes.relay.expressions import Dataflow, Expr
from bnfx.passes.tvm.constant_arrays import Arrays
from bnfx.passes.tvm.weight_layouts import WeightLayout


@dataclass(frozen=True)
class Lifted:
    """A neutral graph, and the way back.

    Args:
        graph: for the rules.
        flow: the function's values, in order.
        nodes: each value's neutral node.
        roles: the role that each node had before the rules ran.
        calls: the calls of linear operators.
        stored: how these store their weights.
        arrays: the constants that the graph's sources stand for.
    """

    graph: Graph
    flow: Dataflow
    nodes: Mapping[Expr, Node]
    roles: Mapping[Node, Role]
    calls: Mapping[Node, Expr]
    stored: Mapping[Node, WeightLayout]
    arrays: Arrays

    def is_rewritten(self, node: Node) -> bool:
        """Whether the rules gave the node another role, or put it in."""
        return node.role is not self.roles.get(node)
