"""Which nodes of a lifted graph must go on giving their outputs a layout of their own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from torch import fx

from bnfx.passes.crossing import Identity
from bnfx.passes.fx.memory.strides import is_dense, must_lay_out
from bnfx.passes.fx.metadata import value_of
from bnfx.passes.graph import Add, Affine, Graph, Move, Node


def note_layouts(
    graph: Graph, nodes: Mapping[fx.Node, Node], module: fx.GraphModule, norms: Collection[Node]
) -> None:
    """Set each node's ``lays_out``; all roles are known by now.

    Args:
        nodes: those of ``graph``, by what they stand for.
        module: owns the fx nodes.
        norms: the BatchNorms among the affine nodes; the others are arithmetic.
    """

    def may_vanish(user: fx.Node) -> bool:
        return isinstance(nodes[user].role, (Affine, Add))

    def is_missed(node: Node, source: Node) -> bool:
        keeps = node not in norms
        return must_lay_out(node.origin, source.origin, module, may_vanish, keeps)

    for node in graph:
        if isinstance(node.role, Affine):
            node.lays_out = is_missed(node, node.inputs[0])
        elif isinstance(node.role, Add):
            value = value_of(node.origin)
            assert value is not None, "a sum is of the shape of its summands"
            # One map of what both summands are made of may stand for the sum; one of them is a map.
            sources = (source for summand in node.inputs for source in _made_of(summand))
            node.lays_out = not is_dense(value) or any(
                is_missed(node, source) for source in sources
            )


def _made_of(value: Node) -> Iterator[Node]:
    """What the value is a copy or a map of."""
    while isinstance(value.role, Affine) or value.role == Move(Identity()):
        value = value.inputs[0]
        yield value
