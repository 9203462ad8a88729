"""The way on: through everything that reads the output of an affine map."""

from __future__ import annotations

from collections.abc import Iterator

from bnfx.passes.algebra import BroadcastAffine, Conv, Scalar
from bnfx.passes.crossing import BlockedError, Pad
from bnfx.passes.graph import Add, Affine, Concat, Linear, Move, Node, Product
from bnfx.passes.refusals import Code
from bnfx.passes.rules import cost
from bnfx.passes.rules.routes.absorb import absorb
from bnfx.passes.rules.routes.route import Route, cross, require_same_dtype
from bnfx.passes.values import Values


def forward(node: Node, values: Values | None) -> Route:
    """The way on from an affine node, on every branch.

    Raises:
        BlockedError: at the first op that does not let it through, or if it costs too much.
    """
    assert isinstance(node.role, Affine)
    source = node.inputs[0]
    if source.pinned or node.pinned:
        why = f"the graph may write to what {node.name} reads"
        raise BlockedError(Code.MUTATED_IN_GRAPH, why)
    require_same_dtype(source, node)
    route = Route.start(node, values)
    _on(route, node, node.role.map)
    route.check()
    if route.borders:
        saved = cost.elementwise(node, node.role.map)
        price = sum(cost.epilogue(target, border) for target, border in route.borders.items())
        if price > saved:
            raise BlockedError(
                Code.COSTS_MORE,
                f"the border of {next(iter(route.borders)).name} would cost {price / saved:.1f} "
                "times what is saved",
            )
    return route


def _on(route: Route, value: Node, affine: BroadcastAffine) -> None:
    """Make the readers of ``value`` do what ``affine`` did to it."""
    readers = value.data_users()
    if not readers:
        raise BlockedError(Code.NO_LINEAR_AFTER, f"nothing reads {value.name}")
    for reader in readers:
        role = route.role(reader)
        if reader.inputs.count(value) > 1 and not isinstance(role, (Add, Product)):
            raise BlockedError(Code.OTHER_READERS, f"{reader.name} reads {value.name} twice")
        match role:
            case Linear():
                absorb(route, value, reader, role, affine)
            case Affine(second):
                require_same_dtype(value, reader)
                route.absorb_into(reader, second @ affine)
            case Move(Pad() as pad) if _pads_convolutions(pad, reader, affine):
                pad.forward(BroadcastAffine(affine.scale, Scalar(0.0)), (), ())
                route.hops += 1
                for convolution in reader.data_users():
                    absorb(route, reader, convolution, route.role(convolution), affine, pad)
            case Move(movement):
                cross(route, reader, movement, affine)
                assert value.shape is not None and reader.shape is not None
                _pass_on(route, reader, movement.forward(affine, value.shape, reader.shape))
            case Concat(axis):
                require_same_dtype(value, reader)
                for part in _extended(reader, value, axis, affine):
                    _pass_on(route, reader, part)
            case Add(factors) if affine.is_shift:
                require_same_dtype(value, reader)
                for source, factor in zip(reader.inputs, factors, strict=True):
                    if source is value:
                        shift = affine.shift * factor
                        _pass_on(route, reader, BroadcastAffine(affine.scale, shift))
            case Product() if affine.is_scale:
                require_same_dtype(value, reader)
                for _ in range(reader.inputs.count(value)):
                    _pass_on(route, reader, affine)
            case _:
                raise BlockedError(Code.NO_LINEAR_AFTER, f"{reader.name} reads {value.name}")


def _pass_on(route: Route, reader: Node, affine: BroadcastAffine) -> None:
    route.hops += 1
    if reader.pinned:
        raise BlockedError(
            Code.MUTATED_IN_GRAPH, f"the graph may write to the output of {reader.name}"
        )
    _on(route, reader, affine)


def _extended(
    reader: Node, value: Node, axis: int, affine: BroadcastAffine
) -> Iterator[BroadcastAffine]:
    """The map on one input of a concatenation, as a map on the whole: the identity elsewhere."""
    start = 0
    size = None if reader.shape is None else reader.shape[axis]
    for source in reader.inputs:
        count = None if source.shape is None else source.shape[axis]
        if not isinstance(count, int) or not isinstance(size, int):
            raise BlockedError(
                Code.DYNAMIC_SHAPE, f"the parts of {reader.name} have no fixed sizes"
            )
        if source is value:
            yield affine.embedded(axis, start, count, size)
        start += count


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
