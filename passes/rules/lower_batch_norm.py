"""BatchNorm -> one multiply-add, for what no other rule could place.

Equation: ``gamma * (x - mean) / sqrt(var + eps) + beta = scale * x + shift`` with constant
``scale`` and ``shift``, kept in at least float32, so that half-precision inputs are rounded once,
as BatchNorm itself rounds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bnfx.passes.graph import Affine, Graph, Node
from bnfx.passes.refusals import Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.rules.guards import refuse_multiply_add
from bnfx.passes.rules.rule import Change, Rule
from bnfx.passes.values import Values


def match(node: Node) -> bool:
    """Arithmetic is a multiply or an add already."""
    is_norm = any(site.kind == "batch_norm" for site in node.sites)
    return is_norm and isinstance(node.role, Affine) and not node.role.lowered


def refuse(node: Node, values: Values | None) -> Iterator[Refusal]:
    assert isinstance(node.role, Affine)
    yield from refuse_multiply_add(node, node.role.map, values)


def rewrite(graph: Graph, node: Node, values: Values | None) -> Change:
    assert isinstance(node.role, Affine)
    node.role = replace(node.role, lowered=True)
    return Change(Outcome.LOWERED, node)


RULE = Rule("lower-batch-norm", match, refuse, rewrite)
