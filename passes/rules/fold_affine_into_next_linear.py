"""L(affine x) -> L' x: fold an affine map into every linear operator that reads it.

Equation: with ``L x = W x + b``,

    W (scale * x + shift) + b = (W diag(scale)) x + (W shift + b).

Shapes: ``scale`` and ``shift`` are ``(C_in,)``; the operator's input axis must be the map's axis.

Zero padding comes after the map, so a tap that meets padding adds no shift: there ``W shift`` is
a map ``border[o, p] = sum_{i, k} W[o, i, k] shift[i] inside[k, p]`` of the output's size, added to
the output where the sizes are fixed and the cost function agrees. A transposed convolution, whose
taps take turns, has such a map always, unless it has one tap. Nothing is divided by ``scale``,
which may be 0.

Exact in real arithmetic; in floating point the stored weight is rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnfx.passes.graph import Affine, Graph, Linear, Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.rules.routes.forward import forward
from bnfx.passes.rules.rule import Change, Rule
from bnfx.passes.values import Values


def match(node: Node) -> bool:
    return isinstance(node.role, Affine)


def refuse(node: Node, values: Values | None) -> Iterator[Refusal]:
    readers = node.data_users()
    others = [reader.name for reader in readers if not isinstance(reader.role, Linear)]
    if others or not readers:
        who = ", ".join(others) or "nothing"
        yield Refusal(Code.NO_LINEAR_AFTER, f"{who} reads it")
        return
    yield from forward(node, values).reasons


def rewrite(graph: Graph, node: Node, values: Values | None) -> Change:
    route = forward(node, values)
    target = route.apply(graph)
    return Change(Outcome.FOLDED, target, target.name, absorbing=tuple(route.roles))


RULE = Rule("fold-affine-into-next-linear", match, refuse, rewrite)
