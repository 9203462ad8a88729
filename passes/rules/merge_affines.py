"""affine(affine x) -> affine x: compose two channel affine maps.

Equation: ``s2 * (s1 * x + t1) + t2 = (s2 s1) * x + (s2 t1 + t2)``, both along one axis. Nothing is
divided. Exact in real arithmetic; in floating point one rounding of the intermediate is saved. What
is left is emitted as one multiply-add, so whatever refuses that refuses this.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnfx.passes.graph import Affine, Graph, Node
from bnfx.passes.numerics import Values
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.rules.base import Change, Rule
from bnfx.passes.rules.guards import refuse_multiply_add, refuse_pair


def match(node: Node) -> bool:
    return isinstance(node.role, Affine)


def refuse(node: Node, values: Values | None) -> Iterator[Refusal]:
    assert isinstance(node.role, Affine)
    before = node.inputs[0]
    if not isinstance(before.role, Affine):
        yield Refusal(Code.NO_AFFINE_BEFORE, f"its input is {before.name}")
        return
    yield from refuse_pair(before, node)
    if before.role.axis != node.role.axis:
        yield Refusal(
            Code.AXIS_MISMATCH,
            f"its channels are axis {node.role.axis}, those of {before.name} {before.role.axis}",
        )
    first, second = before.role.map, node.role.map
    if None not in (first.channels, second.channels) and first.channels != second.channels:
        yield Refusal(
            Code.UNSUPPORTED_FORM,
            f"it has {second.channels} channels, {before.name} has {first.channels}",
        )
    else:
        yield from refuse_multiply_add(before, second @ first, values)


def rewrite(graph: Graph, node: Node) -> Change:
    before = node.inputs[0]
    assert isinstance(node.role, Affine) and isinstance(before.role, Affine)
    # From here on a multiply-add: the IR's own BatchNorm would say the first map only.
    before.role = Affine(node.role.map @ before.role.map, node.role.axis, lowered=True)
    graph.splice_out(node)
    return Change(Outcome.MERGED, before, before.name, survivor_outcome=Outcome.LOWERED)


RULE = Rule("merge-affines", match, refuse, rewrite)
