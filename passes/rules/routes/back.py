"""The way back: through what made the input of an affine map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bnfx.passes.algebra import BroadcastAffine, Scalar
from bnfx.passes.crossing import BlockedError, Movement
from bnfx.passes.graph import Add, Affine, Concat, Linear, Move, Node, Product
from bnfx.passes.refusals import Code
from bnfx.passes.rules.routes.route import (
    Route,
    channel_axis,
    cross,
    require_same_dtype,
    require_sole_reader,
)
from bnfx.passes.values import Values


def backward(node: Node, values: Values | None) -> Route:
    """The way back from an affine node.

    Raises:
        BlockedError: at the first op that does not let it through.
    """
    assert isinstance(node.role, Affine)
    route = Route.start(node, values)
    _back(route, node.inputs[0], node, node.role.map)
    route.check()
    return route


def _back(route: Route, value: Node, reader: Node, affine: BroadcastAffine) -> None:
    """Make ``value``, which ``reader`` reads, become ``affine`` of itself."""
    require_sole_reader(value, reader)
    require_same_dtype(value, reader)
    if value.pinned:
        raise BlockedError(
            Code.MUTATED_IN_GRAPH, f"the graph may write to the output of {value.name}"
        )
    role = route.role(value)
    match role:
        case Linear(operator, _):
            channels = affine.along(channel_axis(value, role, affine))
            if channels is None:
                raise BlockedError(
                    Code.AXIS_MISMATCH, f"its channels are not the output channels of {value.name}"
                )
            route.roles[value] = replace(role, operator=channels @ operator)
        case Affine(first):
            route.absorb_into(value, affine @ first)
        case Move(movement):
            cross(route, value, movement, affine)
            _back(route, value.inputs[0], value, _before(value, movement, affine))
        case Concat(axis):
            for source, part in _parts(value, axis, affine):
                _back(route, source, value, part)
        case Add(factors):
            _back_add(route, value, factors, affine)
        case Product():
            _back_gate(route, value, affine)
        case _:
            raise BlockedError(Code.NO_LINEAR_BEFORE, f"the way back ends at {value.name}")
    route.hops += not isinstance(role, (Linear, Affine))


def _before(value: Node, movement: Movement, affine: BroadcastAffine) -> BroadcastAffine:
    """The map on the input of ``value`` that does what ``affine`` does on its output."""
    (source,) = value.inputs
    assert source.shape is not None and value.shape is not None
    way = movement.back_alone if source.data_users() == [value] else movement.back
    return way(affine, source.shape, value.shape)


def _parts(
    value: Node, axis: int, affine: BroadcastAffine
) -> Iterator[tuple[Node, BroadcastAffine]]:
    """Each input of a concatenation, with its share of a map on the whole."""
    start = 0
    for source in value.inputs:
        size = None if source.shape is None else source.shape[axis]
        if axis not in affine.axes:
            yield source, affine
            continue
        if not isinstance(size, int):
            raise BlockedError(Code.DYNAMIC_SHAPE, f"the parts of {value.name} have no fixed sizes")
        yield source, affine.sliced(axis, start, start + size)
        start += size


def _back_add(
    route: Route, value: Node, factors: tuple[float, float], affine: BroadcastAffine
) -> None:
    """``s (f1 x1 + f2 x2) + t = f1 (s x1 + t / f1) + f2 (s x2)``: the shift goes to either arm."""
    if value.inputs[0] is value.inputs[1]:
        raise BlockedError(Code.OTHER_READERS, f"{value.name} adds a value to itself")
    scale = BroadcastAffine(affine.scale, Scalar(0.0))
    both = [list(zip(value.inputs, (scale, scale), strict=True))]
    if affine.is_scale:
        _first_that_works(route, value, both)
        return
    # An arm that takes no scale takes no map: without this, nested sums would be tried 2^n times.
    _first_that_works(Route(route.node, route.values, dict(route.roles)), value, both)
    trials = []
    for takes_shift in (0, 1):
        shift = affine.shift * (1.0 / factors[takes_shift])
        parts = [scale, scale]
        parts[takes_shift] = BroadcastAffine(affine.scale, shift)
        trials.append(list(zip(value.inputs, parts, strict=True)))
    _first_that_works(route, value, trials)


def _back_gate(route: Route, value: Node, affine: BroadcastAffine) -> None:
    """``s (x g) = (s x) g``: one of the two factors takes the scale."""
    if not affine.is_scale:
        raise BlockedError(Code.NONZERO_SHIFT, f"it would have to cross the product {value.name}")
    if value.inputs[0] is value.inputs[1]:
        raise BlockedError(Code.OTHER_READERS, f"{value.name} multiplies a value by itself")
    # A factor that is broadcast has no place for what varies along its axis.
    whole = [source for source in value.inputs if source.shape == value.shape]
    _first_that_works(route, value, [[(source, affine)] for source in whole])


def _first_that_works(
    route: Route, value: Node, trials: list[list[tuple[Node, BroadcastAffine]]]
) -> None:
    """Go back along all branches of the first of ``trials`` that lets the maps through."""
    reasons = []
    for branches in trials:
        trial = Route(route.node, route.values, dict(route.roles))
        try:
            for source, part in branches:
                _back(trial, source, value, part)
            trial.check()
        except BlockedError as blocked:
            reasons.append(blocked)
            continue
        route.roles = trial.roles
        return
    raise reasons[0]
