"""What a route would change, and the conditions that every step of one must meet."""

from __future__ import annotations

from dataclasses import dataclass, field

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing import BlockedError, Movement, Select
from bnfx.passes.graph import Affine, Graph, Linear, Move, Node, Role
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
    """

    node: Node
    values: Values | None
    roles: dict[Node, Role] = field(default_factory=dict)
    borders: dict[Node, BroadcastAffine] = field(default_factory=dict)
    hops: int = 0

    @staticmethod
    def start(node: Node, values: Values | None) -> Route:
        """An empty route, for a map whose numbers are sound.

        Raises:
            BlockedError: if they are not.
        """
        assert isinstance(node.role, Affine)
        for refusal in () if values is None else values.refuse_affine(node.role.map):
            raise BlockedError(refusal.code, refusal.reason)
        return Route(node, values)

    def role(self, node: Node) -> Role:
        return self.roles.get(node, node.role)

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

    def absorb_into(self, target: Node, merged: BroadcastAffine) -> None:
        """Let the affine node ``target`` carry out ``merged``."""
        assert isinstance(target.role, Affine)
        if not set(merged.axes) <= set(target.role.map.axes):
            # It would keep the target from what takes channels alone, such as a convolution.
            raise BlockedError(Code.AXIS_MISMATCH, f"it varies along more axes than {target.name}")
        if not merging_pays(target, self.node, merged):
            raise BlockedError(Code.COSTS_MORE, f"merging it with {target.name} would save nothing")
        self.roles[target] = Affine(merged, lowered=True)

    def check(self) -> None:
        """Raise unless the numbers of everything that absorbed can be stored."""
        reasons: list[Refusal] = []
        for node, role in self.roles.items():
            if isinstance(role, Affine):
                reasons += refuse_multiply_add(node, role.map, self.values)
            elif isinstance(role, Linear) and self.values is not None:
                dtypes = (role.dtype, node.dtype or role.dtype)
                reasons += self.values.refuse_operator(role.operator, dtypes)
        for node, border in self.borders.items():
            reasons += refuse_multiply_add(node, border, self.values)
        if reasons:
            raise BlockedError(reasons[0].code, reasons[0].reason)


def cross(route: Route, node: Node, movement: Movement, affine: BroadcastAffine) -> None:
    """Check the conditions under which ``affine`` crosses ``node``."""
    if node.shape is None or node.inputs[0].shape is None:
        raise BlockedError(Code.UNKNOWN_RANK, f"the shape of {node.name} is not known")
    require_same_dtype(node.inputs[0], node)
    if movement.needs_zero_shift and not affine.is_scale:
        raise BlockedError(Code.NONZERO_SHIFT, f"it would have to cross {node.name}")
    if movement.needs_nonnegative_scale and not affine.is_shift:
        values = route.values
        if values is None or not values.is_nonnegative(affine.scale):
            raise BlockedError(Code.NEGATIVE_SCALE, f"it would have to cross {node.name}")


def require_sole_reader(value: Node, reader: Node) -> None:
    """Raise if anything but ``reader`` sees the elements of ``value`` that ``reader`` sees."""
    others = [user for user in value.data_users() if user is not reader]
    role = reader.role
    if isinstance(role, Move) and isinstance(role.movement, Select):
        select = role.movement
        others = [
            user
            for user in others
            if not isinstance(user.role, Move) or select.overlaps(user.role.movement)
        ]
    if others or reader.inputs.count(value) > 1:
        names = ", ".join(user.name for user in others) or f"{reader.name} once more"
        raise BlockedError(Code.OTHER_READERS, f"{value.name} is also read by {names}")


def require_same_dtype(value: Node, reader: Node) -> None:
    """Raise if ``reader`` gives another dtype than it gets."""
    if value.dtype != reader.dtype:
        raise BlockedError(
            Code.DTYPE_CHANGE, f"{value.name} gives {value.dtype}, not {reader.dtype}"
        )


def channel_axis(node: Node, role: Linear, affine: BroadcastAffine) -> int | None:
    """The channel axis of a linear operator, from the front; ``None`` if nobody need know."""
    if node.rank is None:
        if affine.axes:
            raise BlockedError(Code.UNKNOWN_RANK, f"the rank of {node.name}'s output is not known")
        return None
    return node.rank + role.operator.channel_axis
