"""The way on: through everything that reads the output of an affine map."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bnfx.passes.algebra import BroadcastAffine, Conv
from bnfx.passes.crossing import BlockedError, Movement, Pad
from bnfx.passes.graph import Add, Affine, Concat, Linear, Move, Node, Product
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.rules import cost
from bnfx.passes.rules.routes.absorb import absorb
from bnfx.passes.rules.routes.agenda import Agenda
from bnfx.passes.rules.routes.joins import added, concatenated, ends, multiplied
from bnfx.passes.rules.routes.route import (
    Route,
    refuse_dtype,
    refuse_merge,
    refuse_scale,
    refuse_shift,
    refuse_unknown_shape,
)
from bnfx.passes.values import Values

_IDENTITY = BroadcastAffine.identity()


def forward(node: Node, values: Values | None) -> Route:
    """The way on from an affine node, on every branch; blocked if it would cost too much.

    Numbers are looked at only where nothing else blocks the route.
    """
    route = Route.start(node, values)
    if route.reasons:
        return route
    source = node.inputs[0]
    if source.pinned or node.pinned:
        why = f"the graph may write to what {node.name} reads"
        route.block([Refusal(Code.MUTATED_IN_GRAPH, why)])
    route.block(refuse_dtype(source, node))
    walk = _Forward(route)
    walk.walk()
    if not route.reasons:
        for reader, movement, affine in walk.crossed:
            route.block(refuse_scale(movement, affine, reader, values))
    if not route.reasons:
        _check_price(route)
        route.check_numbers()
    return route


def _check_price(route: Route) -> None:
    """Block the route if its borders cost more than the map that they replace."""
    assert isinstance(route.node.role, Affine)
    saved = cost.elementwise(route.node, route.node.role.map)
    price = sum(cost.epilogue(target, border) for target, border in route.borders.items())
    if price > saved:
        name, times = next(iter(route.borders)).name, price / saved
        why = f"the border of {name} would cost {times:.1f} times what is saved"
        route.block([Refusal(Code.COSTS_MORE, why)])


class _Forward:
    """Meets each op behind the map once, when the maps of all that it reads are known.

    Each value that changes has a *pending* map: what it was is that map of what it will be. A join
    passes on what it can say of all its inputs together; those that do not change have the
    identity.
    """

    def __init__(self, route: Route) -> None:
        assert isinstance(route.node.role, Affine)
        self.route = route
        self.pending: dict[Node, BroadcastAffine] = {}
        self.padded: dict[Node, Pad] = {}  # what a pad's readers are to pad by themselves
        self.crossed: list[tuple[Node, Movement, BroadcastAffine]] = []
        self.agenda = Agenda()
        self._set(route.node, route.node.role.map)

    def walk(self) -> None:
        for reader in self.agenda:
            try:
                self._meet(reader)
            except BlockedError as blocked:
                self.route.block([blocked.refusal])

    def _set(self, value: Node, affine: BroadcastAffine) -> None:
        readers = value.data_users()
        if not readers:
            self.route.block([Refusal(Code.NO_LINEAR_AFTER, f"nothing reads {value.name}")])
        self.pending[value] = affine
        self.agenda.add(readers)

    def _pass_on(self, reader: Node, affine: BroadcastAffine) -> None:
        self.route.hops += 1
        self._set(reader, affine)

    def _meet(self, reader: Node) -> None:
        value, *others = dict.fromkeys(v for v in reader.inputs if v in self.pending)
        affine = self.pending[value]
        match reader.role:
            case Linear():
                absorb(self.route, value, reader, affine, self.padded.get(value))
            case Affine(second):
                merged = second @ affine
                self.route.block(refuse_dtype(value, reader))
                self.route.block(refuse_merge(self.route.node, reader, merged))
                self.route.roles[reader] = Affine(merged, lowered=True)
            case Move(Pad() as pad) if _pads_convolutions(pad, reader, affine):
                self.padded[reader] = pad
                self._pass_on(reader, affine)
            case Move(movement):
                self._move(value, reader, movement)
            case Concat(axis):
                self._join(reader, lambda maps: concatenated(reader, axis, maps))
            case Add(factors):
                self._join(reader, lambda maps: added(reader, factors, maps))
            case Product():
                self._join(reader, lambda maps: multiplied(reader, maps))
            case _:
                self.route.block(ends(reader, each) for each in (value, *others))

    def _move(self, value: Node, reader: Node, movement: Movement) -> None:
        affine = self.pending[value]
        reasons = [
            *refuse_unknown_shape(reader),
            *refuse_dtype(value, reader),
            *refuse_shift(movement, affine, reader),
            *_refuse_writes(reader),
        ]
        self.crossed.append((reader, movement, affine))
        self.route.block(reasons)
        before, after = value.shape, reader.shape
        if before is not None and after is not None:
            crossed = movement.forward(affine, before, after)
            if not reasons:
                self._pass_on(reader, crossed)

    def _join(
        self, reader: Node, joined: Callable[[Sequence[BroadcastAffine]], BroadcastAffine]
    ) -> None:
        reasons = [r for v in reader.inputs if v in self.pending for r in refuse_dtype(v, reader)]
        reasons += _refuse_writes(reader)
        self.route.block(reasons)
        affine = joined([self.pending.get(value, _IDENTITY) for value in reader.inputs])
        if not reasons:
            self._pass_on(reader, affine)


def _refuse_writes(node: Node) -> list[Refusal]:
    why = f"the graph may write to the output of {node.name}"
    return [Refusal(Code.MUTATED_IN_GRAPH, why)] if node.pinned else []


def _pads_convolutions(pad: Pad, node: Node, affine: BroadcastAffine) -> bool:
    """Whether a pad with zeros is one that the convolutions behind it may as well do themselves."""
    readers = node.data_users()
    return (
        pad.fills
        and pad.fill == 0.0
        and not affine.is_scale
        and not node.pinned
        and bool(readers)
        and all(
            isinstance(r.role, Linear)
            and isinstance(r.role.operator, Conv)
            and not r.role.hides_padding
            for r in readers
        )
    )
