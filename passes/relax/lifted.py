"""What lifting gives: a neutral graph, and all that lowering must know to find the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bnfx.passes.graph import Graph, Node, Role
from bnfx.passes.relax.constants import Constants
from bnfx.passes.relax.expressions import Dataflow, Value
from bnfx.passes.tvm.weight_layouts import WeightLayout


@dataclass(frozen=True)
class Lifted:
    """A neutral graph, and the way back.

    Args:
        graph: for the rules.
        flow: the function's values, in order.
        constants: what is known of them when compiling.
        nodes: each value's neutral node.
        roles: the role that each node had before the rules ran.
        calls: the calls of linear operators.
        stored: how these store their weights.
    """

    graph: Graph
    flow: Dataflow
    constants: Constants
    nodes: Mapping[Value, Node]
    roles: Mapping[Node, Role]
    calls: Mapping[Node, Value]
    stored: Mapping[Node, WeightLayout]

    def is_rewritten(self, node: Node) -> bool:
        """Whether the rules gave the node another role, or put it in."""
        return node.role is not self.roles.get(node)
