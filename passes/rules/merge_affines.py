"""affine(affine x) -> affine x: compose two channel affine maps.

Equation: ``s2 * (s1 * x + t1) + t2 = (s2 s1) * x + (s2 t1 + t2)``, both along one axis. Nothing is
divided. Exact in real arithmetic; in floating point one rounding of the intermediate is saved.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnfx.passes.graph import Affine, Graph, Node
from bnfx.passes.numerics import Values
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.rules.base import Change, Rule


def match(node: Node) -> bool:
    return isinstance(node.role, Affine) and not node.role.lowered


def refuse(node: Node, values: Values | None) -> Iterator[Refusal]:
    assert isinstance(node.role, Affine)
    before = node.inputs[0]
    if not isinstance(before.role, Affine):
        yield Refusal(Code.NO_AFFINE_BEFORE, f"its input is {before.name}")
        return
    if len(before.data_users()) != 1:
        others = ", ".join(user.name for user in before.data_users() if user is not node)
        yield Refusal(Code.OTHER_READERS, f"{before.name} is also read by {others}")
    if before.role.axis != node.role.axis:
        yield Refusal(
            Code.AXIS_MISMATCH,
            f"its channels are axis {node.role.axis}, those of {before.name} {before.role.axis}",
        )
    if before.dtype != node.dtype:
        yield Refusal(Code.DTYPE_CHANGE, f"{before.name} gives {before.dtype}, not {node.dtype}")
    if values is not None:
        yield from values.refuse_affine(before.role.map)
        yield from values.refuse_affine(node.role.map)


def rewrite(graph: Graph, node: Node) -> Change:
    before = node.inputs[0]
    assert isinstance(node.role, Affine) and isinstance(before.role, Affine)
    before.role = Affine(node.role.map @ before.role.map, node.role.axis)
    graph.splice_out(node)
    return Change(Outcome.MERGED, before, before.name)


RULE = Rule("merge-affines", match, refuse, rewrite)
