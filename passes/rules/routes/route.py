"""What a route would change, and the conditions that every step of one must meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing import Movement
from bnfx.passes.graph import Affine, Graph, Linear, Node, Role
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.rules.guards import merging_pays, refuse_multiply_add, take_out
from bnfx.passes.values import Values


@dataclass
class Route:
    """What a route would change.

    Args:
        node: the affine node whose map it is about.
        values: the parameters' numbers, or ``None`` where they are not known yet.
        roles: the new role of each node that absorbs.
        borders: what is added to a linear operator's output where its taps meet padding.
        hops: how many ops the map crosses.
        reasons: why the route is blocked, in the order in which it was found, each once.
    """

    node: Node
    values: Values | None
    roles: dict[Node, Role] = field(default_factory=dict)
    borders: dict[Node, BroadcastAffine] = field(default_factory=dict)
    hops: int = 0
    reasons: dict[Refusal, None] = field(default_factory=dict)

    @staticmethod
    def start(node: Node, values: Values | None) -> Route:
        """An empty route, blocked if the map's own numbers are not sound."""
        assert isinstance(node.role, Affine)
        route = Route(node, values)
        if values is not None:
            route.block(values.refuse_affine(node.role.map))
        return route

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Every reason why the route is blocked; none if it is open."""
        return tuple(self.reasons)

    def block(self, refusals: Iterable[Refusal]) -> None:
        self.reasons.update(dict.fromkeys(refusals))

    def apply(self, graph: Graph) -> Node:
        """Carry the route out, and take the node out of the graph.

        Returns:
            The first node that absorbed.
        """
        for target, role in self.roles.items():
            target.role = role
        for target, border in self.borders.items():
            inner = graph.put_before(target, target.name)
            inner.origin = target.origin
            target.role = Affine(border, lowered=True)
        take_out(graph, self.node)
        return next(iter(self.roles))

    def check_numbers(self) -> None:
        """Block the route unless the numbers of everything that absorbed can be stored."""
        for node, role in self.roles.items():
            if isinstance(role, Affine):
                self.block(refuse_multiply_add(node, role.map, self.values))
            elif self.values is not None:
                assert isinstance(role, Linear)
                dtypes = (role.dtype, node.dtype or role.dtype)
                self.block(self.values.refuse_operator(role.operator, dtypes))
        for node, border in self.borders.items():
            self.block(refuse_multiply_add(node, border, self.values))


def refuse_merge(node: Node, target: Node, merged: BroadcastAffine) -> Iterator[Refusal]:
    """Reasons why the affine node ``target`` may not carry out ``merged``, ``node``'s map too."""
    assert isinstance(target.role, Affine)
    if not set(merged.axes) <= set(target.role.map.axes):
        # It would keep the target from what takes channels alone, such as a convolution.
        yield Refusal(Code.AXIS_MISMATCH, f"it varies along more axes than {target.name}")
    if not merging_pays(target, node, merged):
        yield Refusal(Code.COSTS_MORE, f"merging it with {target.name} would save nothing")


def refuse_shift(movement: Movement, affine: BroadcastAffine, node: Node) -> Iterator[Refusal]:
    """Reasons why the shift of ``affine`` does not cross ``node``."""
    if movement.needs_zero_shift and not affine.is_scale:
        yield Refusal(Code.NONZERO_SHIFT, f"it would have to cross {node.name}")


def refuse_scale(
    movement: Movement, affine: BroadcastAffine, node: Node, values: Values | None
) -> Iterator[Refusal]:
    """Reasons why the scale of ``affine`` does not cross ``node``."""
    if not movement.needs_nonnegative_scale or affine.is_shift:
        return
    if values is None or not values.is_nonnegative(affine.scale):
        yield Refusal(Code.NEGATIVE_SCALE, f"it would have to cross {node.name}")


def refuse_unknown_shape(node: Node) -> Iterator[Refusal]:
    """A map crosses an op only where the shapes of its input and output are known."""
    if node.shape is None or node.inputs[0].shape is None:
        yield Refusal(Code.UNKNOWN_RANK, f"the shape of {node.name} is not known")


def refuse_dtype(value: Node, reader: Node) -> Iterator[Refusal]:
    """A map crosses no op that gives another dtype than it gets."""
    if value.dtype != reader.dtype:
        yield Refusal(Code.DTYPE_CHANGE, f"{value.name} gives {value.dtype}, not {reader.dtype}")


def refuse_unknown_rank(node: Node, affine: BroadcastAffine) -> Iterator[Refusal]:
    """A linear operator absorbs a map only where its channels are known to be the map's axis."""
    if node.rank is None and affine.axes:
        yield Refusal(Code.UNKNOWN_RANK, f"the rank of {node.name}'s output is not known")


def channel_axis(node: Node, role: Linear) -> int | None:
    """The channel axis of a linear operator, from the front; ``None`` if its rank is not known."""
    return None if node.rank is None else node.rank + role.operator.channel_axis
