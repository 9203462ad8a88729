"""affine(affine x) -> affine x: compose two affine maps.

Equation: ``s2 * (s1 * x + t1) + t2 = (s2 s1) * x + (s2 t1 + t2)``, along the same axes, or one
along all those of the other. Nothing is divided. Exact in real arithmetic; in floating point one
rounding of the intermediate is saved. What is left is emitted as one multiply-add, so whatever
refuses that refuses this. A map that is the identity by construction (``0 + x``) merges with
whatever stands before it.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.graph import Affine, Graph, Node, Opaque
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.rules.guards import merging_pays, refuse_multiply_add, refuse_pair, take_out
from bnfx.passes.rules.rule import Change, Rule
from bnfx.passes.values import Values


def match(node: Node) -> bool:
    return isinstance(node.role, Affine)


def refuse(node: Node, values: Values | None) -> Iterator[Refusal]:
    assert isinstance(node.role, Affine)
    before = node.inputs[0]
    if _is_identity(node):
        yield from _refuse_identity(before, node)
        return
    if not isinstance(before.role, Affine):
        yield Refusal(Code.NO_AFFINE_BEFORE, f"its input is {before.name}")
        return
    yield from refuse_pair(before, node)
    first, second = before.role.map, node.role.map
    if not (set(first.axes) <= set(second.axes) or set(second.axes) <= set(first.axes)):
        yield Refusal(
            Code.AXIS_MISMATCH,
            f"it varies along axes {second.axes}, {before.name} along {first.axes}",
        )
    try:
        merged = second @ first
    except ValueError as error:
        yield Refusal(Code.UNSUPPORTED_FORM, f"{before.name} has other sizes: {error}")
        return
    if not merging_pays(before, node, merged):
        yield Refusal(Code.COSTS_MORE, f"merging it with {before.name} would save nothing")
    yield from refuse_multiply_add(before, merged, values)


def _is_identity(node: Node) -> bool:
    assert isinstance(node.role, Affine)
    return node.role.map == BroadcastAffine.identity()


def _refuse_identity(before: Node, node: Node) -> Iterator[Refusal]:
    """Without it, readers get the very tensor before it: they must not keep or change it."""
    if before.pinned or node.pinned:
        yield Refusal(
            Code.MUTATED_IN_GRAPH, f"the graph may write to {before.name} or a copy of it"
        )
    for reader in node.data_users():
        if isinstance(reader.role, Opaque):
            yield Refusal(Code.OTHER_READERS, f"{reader.name} may keep or change what it gets")
    if before.dtype != node.dtype:
        yield Refusal(Code.DTYPE_CHANGE, f"{before.name} gives {before.dtype}, not {node.dtype}")


def rewrite(graph: Graph, node: Node, values: Values | None) -> Change:
    before = node.inputs[0]
    assert isinstance(node.role, Affine)
    if _is_identity(node):
        take_out(graph, node)
        return Change(Outcome.MERGED, before, before.name)
    assert isinstance(before.role, Affine)
    # From here on a multiply-add: the IR's own BatchNorm would say the first map only.
    before.role = Affine(node.role.map @ before.role.map, lowered=True)
    take_out(graph, node)
    return Change(Outcome.MERGED, before, before.name, survivor_outcome=Outcome.LOWERED)


RULE = Rule("merge-affines", match, refuse, rewrite)
