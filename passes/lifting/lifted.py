"""What lifting gives in every IR: a neutral graph, its roles before the rules ran, the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from bnfx.passes.graph import Graph, Linear, Node, Role

Origin = TypeVar("Origin")


@dataclass(frozen=True)
class LiftedGraph(Generic[Origin]):
    """A neutral graph, and the way back.

    Args:
        graph: for the rules.
        nodes: the neutral node of each of the IR's own.
        roles: the role that each node had before the rules ran.
    """

    graph: Graph
    nodes: Mapping[Origin, Node]
    roles: Mapping[Node, Role]

    def is_rewritten(self, node: Node) -> bool:
        """Whether the rules gave the node another role, or put it in."""
        return node.role is not self.roles.get(node)

    def is_border(self, node: Node) -> bool:
        """Whether it is what a map left behind a linear operator that pads."""
        origin = self.nodes.get(node.origin)
        return origin is not None and isinstance(self.roles.get(origin), Linear)

    def keeps_call(self, node: Node) -> bool:
        """Whether a linear node is still the very call of its origin, but for weight and bias."""
        before = self.roles.get(self.nodes[node.origin]) if node.origin in self.nodes else None
        if not isinstance(before, Linear) or not isinstance(node.role, Linear):
            return False
        old, new = before.operator, node.role.operator
        return (
            type(old) is type(new)
            and old.weight.shape == new.weight.shape
            and replace(old, weight=new.weight, bias=new.bias) == new
        )
