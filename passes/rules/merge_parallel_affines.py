"""affine x + affine x -> affine x: one affine map for two of one value.

Equation: ``f1 (s1 x + t1) + f2 (s2 x + t2) = (f1 s1 + f2 s2) x + (f1 t1 + f2 t2)``, with the
factors of the sum; one of the two may be ``x`` itself. A residual connection around a BatchNorm is
this, and so are two BatchNorms of one value.

Axes: the same, or those of one among those of the other. Exact in real arithmetic; in floating
point the roundings of both arms are saved. What is left is emitted as one multiply-add, unless
another rule takes it, so whatever refuses that refuses this.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnfx.passes.algebra import BroadcastAffine, Scalar
from bnfx.passes.graph import Add, Affine, Graph, Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.rules import cost
from bnfx.passes.rules.arms import Arm, Arms, arms_of, nodes_of, refuse_arms
from bnfx.passes.rules.guards import refuse_multiply_add
from bnfx.passes.rules.rule import Change, Rule
from bnfx.passes.values import Values


def match(node: Node) -> bool:
    return isinstance(node.role, Add) and _arms(node) is not None


def _arms(node: Node) -> Arms | None:
    return arms_of(node, _is_affine, _is_affine)


def _is_affine(node: Node) -> bool:
    return isinstance(node.role, Affine)


def refuse(node: Node, values: Values | None) -> Iterator[Refusal]:
    arms = _arms(node)
    assert arms is not None
    nodes = nodes_of(arms)
    yield from refuse_arms(arms, node)
    dtypes = {each.dtype for each in (arms[0].source, *nodes, node)}
    if len(dtypes) > 1:
        yield Refusal(Code.DTYPE_CHANGE, f"the arms compute in {sorted(map(str, dtypes))}")
    if any(each.lays_out for each in (*nodes, node)):
        yield Refusal(Code.UNSUPPORTED_FORM, "an arm or the sum lays its output out anew")
    one, other = (set(_map(arm).axes) for arm in arms)
    if not (one <= other or other <= one):
        yield Refusal(
            Code.AXIS_MISMATCH, f"the arms vary along axes {sorted(one)} and {sorted(other)}"
        )
    try:
        merged = _merged(node, arms)
    except ValueError as error:
        yield Refusal(Code.UNSUPPORTED_FORM, f"the arms have other sizes: {error}")
        return
    if cost.steps(merged) > sum(cost.steps(_map(arm)) for arm in arms):  # the sum is one more
        yield Refusal(Code.COSTS_MORE, "one map for the arms would save nothing")
    yield from refuse_multiply_add(nodes[0], merged, values)


def _map(arm: Arm) -> BroadcastAffine:
    if arm.node is None:
        return BroadcastAffine.identity()
    assert isinstance(arm.node.role, Affine)
    return arm.node.role.map


def _merged(node: Node, arms: Arms) -> BroadcastAffine:
    assert isinstance(node.role, Add)
    one, other = (
        BroadcastAffine(Scalar(factor), Scalar(0.0)) @ _map(arm)
        for arm, factor in zip(arms, node.role.factors, strict=True)
    )
    return one + other


def rewrite(graph: Graph, node: Node, values: Values | None) -> Change:
    """The first arm carries out the sum."""
    arms = _arms(node)
    assert arms is not None
    survivor, *others = nodes_of(arms)
    before = survivor.inputs[0]
    survivor.role = Affine(_merged(node, arms), lowered=True)
    graph.rewire(survivor, [arms[0].source])
    graph.rewire(node, [survivor])
    graph.splice_out(node)
    for value in (before, *(arm.last for arm in arms)):  # copies
        if value is not survivor:
            graph.drop_unread(value)
    return Change(
        Outcome.MERGED,
        survivor,
        survivor.name,
        survivor_outcome=Outcome.LOWERED,
        absorbed=tuple(others),
    )


RULE = Rule("merge-parallel-affines", match, refuse, rewrite)
