"""What an affine map wants of everything before it: a walk back, in topological order.

Each value wants one map, that its new value be this map of its old one; readers that want another
one of the same elements block it. A join that may give a map to either side is told to which
(:data:`Choice`); where it is not told, the walk looks at both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing import BlockedError, Movement, Select
from bnfx.passes.graph import Add, Affine, Concat, Linear, Move, Node, Product
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.rules.routes.agenda import Agenda
from bnfx.passes.rules.routes.readers import Wanted, agreed
from bnfx.passes.rules.routes.route import (
    Route,
    refuse_dtype,
    refuse_merge,
    refuse_scale,
    refuse_shift,
    refuse_unknown_shape,
)
from bnfx.passes.rules.routes.steps import (
    Reasons,
    before,
    parts,
    refuse_channels,
    refuse_product,
    refuse_value,
)

# An Add -> the summand that gets the shift; a Product -> the factor that gets the scale.
Choice = Mapping[Node, Node]


class Survey:
    """One walk back from ``route.node``; neither the route nor the graph is changed.

    Attributes:
        order: the values that were met, the last one of the graph first.
        wants: the map that each wants.
        sources: the inputs to which each passes its map on; none for what absorbs it.
        reasons: why some of them cannot take it.
    """

    def __init__(self, route: Route, choice: Choice | None = None) -> None:
        assert isinstance(route.node.role, Affine)
        self.route = route
        self.affine = route.node.role.map
        self.choice = choice
        self.order: list[Node] = []
        self.wants: dict[Node, BroadcastAffine] = {}
        self.sources: dict[Node, list[Node]] = {}
        self.reasons: dict[Node, Reasons] = {}
        self._signs: list[tuple[Node, Movement]] = []
        self._arrived: dict[Node, list[Wanted]] = {}
        self._agenda = Agenda(backward=True)
        self._want(route.node.inputs[0], route.node, self.affine)
        for value in self._agenda:
            self.order.append(value)
            self._meet(value)

    def depth_first(self) -> Iterator[Node]:
        """The values that were met, each before its inputs and one branch before the next."""
        stack, seen = self.order[:1], set(self.order[:1])
        while stack:
            value = stack.pop()
            yield value
            fresh = [v for v in dict.fromkeys(self.sources[value]) if v not in seen]
            seen.update(fresh)
            stack.extend(reversed(fresh))

    def settled(self) -> list[tuple[Node, BroadcastAffine]]:
        """The values and what they want, in depth-first order."""
        return [(value, self.wants[value]) for value in self.depth_first()]

    def refusals_of(self, value: Node) -> list[Refusal]:
        """All reasons why it cannot take what it should."""
        reasons = self.reasons.get(value, Reasons())
        return [*reasons.stuck, *reasons.still]

    def check_signs(self) -> None:
        """Look at the numbers of the scales that must not be negative."""
        for value, movement in self._signs:
            refusals = list(refuse_scale(movement, self.wants[value], value, self.route.values))
            if refusals:
                self.reasons.setdefault(value, Reasons()).stuck += refusals

    def _want(self, value: Node, reader: Node, affine: BroadcastAffine) -> None:
        self._arrived.setdefault(value, []).append((reader, affine))
        self._agenda.add([value])

    def _meet(self, value: Node) -> None:
        arrived = self._arrived.pop(value)
        reasons = Reasons([*refuse_value(value, [reader for reader, _ in arrived])])
        passed: list[tuple[Node, BroadcastAffine]] = []
        try:
            affine, stuck, still = agreed(value, arrived)
            reasons.stuck += stuck
            reasons.still += still
            self.wants[value] = affine = affine.without_shift() if still else affine
            passed = list(self._pass_on(value, affine, reasons))
        except BlockedError as blocked:
            reasons.stuck.append(blocked.refusal)
        if reasons.stuck or reasons.still:
            self.reasons[value] = reasons
        self.sources[value] = [] if reasons.stuck else [source for source, _ in passed]
        for source, part in passed if not reasons.stuck else ():
            self._want(source, value, part)

    def _pass_on(
        self, value: Node, affine: BroadcastAffine, reasons: Reasons
    ) -> Iterator[tuple[Node, BroadcastAffine]]:
        """What the inputs of ``value`` want, in their order; nothing if it absorbs the map."""
        match value.role:
            case Linear():
                reasons.judge(affine, lambda part: refuse_channels(value, part))
            case Affine(first):
                node = self.route.node
                reasons.judge(affine, lambda part: refuse_merge(node, value, part @ first))
            case Move(movement):
                reasons.stuck += refuse_unknown_shape(value)
                reasons.stuck += refuse_dtype(value.inputs[0], value)
                self._signs.append((value, movement))
                affine = reasons.judge(affine, lambda part: refuse_shift(movement, part, value))
                if not isinstance(movement, Select):
                    affine = before(value, movement, affine, reasons)
                yield value.inputs[0], affine
            case Concat(axis):
                yield from parts(value, axis, affine)
            case Add(factors):
                yield from self._summands(value, factors, affine)
            case Product():
                affine = reasons.judge(affine, lambda part: refuse_product(value, part))
                for source in self._factors(value):
                    yield source, affine
            case _:
                raise BlockedError(Code.NO_LINEAR_BEFORE, f"the way back ends at {value.name}")

    def _summands(
        self, value: Node, factors: tuple[float, float], affine: BroadcastAffine
    ) -> Iterator[tuple[Node, BroadcastAffine]]:
        """``s (f1 x1 + f2 x2) + t = f1 (s x1 + t / f1) + f2 (s x2)``, or the other way round.

        In ``x + x`` one summand gets the shift and the other does not, so that ``x`` is found to be
        wanted in two ways.
        """
        scale, given = affine.without_shift(), False
        for source, factor in zip(value.inputs, factors, strict=True):
            if self.choice is None or affine.is_scale:
                yield source, affine
                continue
            is_chosen = self.choice.get(value) is source
            if is_chosen and factor and not given:
                given = True
                yield source, affine.with_shift(affine.shift * (1.0 / factor))
            elif is_chosen or not affine.is_shift:
                yield source, scale

    def _factors(self, value: Node) -> list[Node]:
        """The factors that may take a scale, ``s (x g) = (s x) g``.

        One that is broadcast has no place for what varies along its axis.
        """
        whole = [source for source in value.inputs if source.shape == value.shape]
        if not whole:
            raise BlockedError(Code.AXIS_MISMATCH, f"both factors of {value.name} are broadcast")
        if self.choice is None:
            return whole
        if value not in self.choice:  # what is left of a mere shift, where readers did not agree
            why = f"it would have to cross the product {value.name}"
            raise BlockedError(Code.NONZERO_SHIFT, why)
        return [self.choice[value]]
