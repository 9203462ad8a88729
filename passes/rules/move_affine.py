"""affine(T x) -> T(affine' x), or the other way round, as far as something absorbs the map.

Equations, with ``a(x) = s x + t``:

- rearrangements (reshape, permute, slices, pixel and channel shuffle): ``a`` is rearranged alike;
- weighted means (average pools, resizing): ``a(T x) = T(a x)``, since the weights add up to 1;
- maxima: the same where ``s >= 0``; (leaky) ReLU: where ``s >= 0`` and ``t = 0``;
- concatenation: each branch takes its slice of ``a``; a slice becomes a map of the whole that
leaves
  the other positions alone;
- sums: ``a(x1 + x2) = (s x1 + t) + s x2``; products: ``s (x g) = (s x) g``.

The map goes back to what made its input or, failing that, on to all that reads its output; in
either direction only if every branch ends in a linear operator or an affine map, so that one op is
gone (:mod:`bnfx.passes.rules.routes`). Exact in real arithmetic; each absorbed weight is rounded
once.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnfx.passes.graph import Affine, Graph, Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.rules.routes.back import backward
from bnfx.passes.rules.routes.forward import forward
from bnfx.passes.rules.routes.route import Route
from bnfx.passes.rules.rule import Change, Rule
from bnfx.passes.values import Values


def match(node: Node) -> bool:
    return isinstance(node.role, Affine)


def refuse(node: Node, values: Values | None) -> Iterator[Refusal]:
    found = _route(node, values)
    if not isinstance(found, Route):
        yield from found


def _route(node: Node, values: Values | None) -> Route | list[Refusal]:
    """The first way that crosses something and is open, or why there is none."""
    reasons: list[Refusal] = []
    for way in (backward, forward):
        route = way(node, values)
        if not route.reasons and route.hops:
            return route
        crossed_nothing = Refusal(Code.NOTHING_BETWEEN, "nothing stands between")
        reasons += route.reasons or [crossed_nothing]
    return reasons


def rewrite(graph: Graph, node: Node, values: Values | None) -> Change:
    route = _route(node, values)
    assert isinstance(route, Route)
    targets = tuple(route.roles)
    first = route.apply(graph)
    lowered = tuple(
        target
        for target in targets
        if isinstance(target.role, Affine) and target not in route.borders
    )
    outcome = Outcome.MERGED if first in lowered else Outcome.FOLDED
    return Change(outcome, first, first.name, lowered=lowered, absorbing=targets)


RULE = Rule("move-affine", match, refuse, rewrite)
