"""The way back: through what made the input of an affine map."""

from __future__ import annotations

from dataclasses import replace

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.graph import Affine, Linear, Node
from bnfx.passes.rules.routes.plan import Plan, even_share
from bnfx.passes.rules.routes.route import Route, channel_axis, refuse_merge
from bnfx.passes.rules.routes.walk_back import Survey
from bnfx.passes.values import Values


def backward(node: Node, values: Values | None) -> Route:
    """The way back from an affine node.

    Numbers are looked at only where nothing else blocks the route.
    """
    route = Route.start(node, values)
    if route.reasons:
        return route
    for value, affine in _settled(route):
        _absorb(route, value, affine)
    route.check_numbers()
    return route


def _settled(route: Route) -> list[tuple[Node, BroadcastAffine]]:
    """The map that each value gets, in the order of the way back; none if that is blocked."""
    survey = Survey(route)
    plan = Plan.of(survey)
    if not plan.refusals:
        survey.check_signs()
        plan = Plan.of(survey)
    route.block(plan.refusals)
    if route.reasons:
        return []
    if not plan.choice:
        return survey.settled()
    chosen = Survey(route, plan.choice)
    if not chosen.reasons:
        return chosen.settled()
    share = even_share(survey)
    if share is None:
        route.block(r for value in chosen.order for r in chosen.refusals_of(value))
        return []
    return [(value, affine.with_shift(affine.shift * share)) for value, affine in survey.settled()]


def _absorb(route: Route, value: Node, affine: BroadcastAffine) -> None:
    match value.role:
        case Linear(operator) as role:
            channels = affine.along(channel_axis(value, role))
            assert channels is not None, "the survey has looked"
            route.roles[value] = replace(role, operator=channels @ operator)
        case Affine(first):
            merged = affine @ first
            route.block(refuse_merge(route.node, value, merged))
            route.roles[value] = Affine(merged, lowered=True)
        case _:
            route.hops += 1
