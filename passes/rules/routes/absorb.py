"""A linear operator absorbs the affine map before it: ``L(s x + t) = (L s) x + L t``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bnfx.passes.algebra import BroadcastAffine, ChannelAffine, Conv, Expression, LinearOperator
from bnfx.passes.crossing import BlockedError, Pad
from bnfx.passes.graph import Linear, Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.rules.routes.route import Route, channel_axis, refuse_unknown_rank


def absorb(
    route: Route, value: Node, reader: Node, affine: BroadcastAffine, pad: Pad | None = None
) -> None:
    """Let the linear ``reader`` of ``value`` do what ``affine`` did to it, or block the route.

    Args:
        pad: what ``value`` itself pads with zeros, after the map.
    """
    role = reader.role
    assert isinstance(role, Linear)
    route.block(_refuse_dtypes(value, reader, role))
    unknown = list(refuse_unknown_rank(reader, affine))
    route.block(unknown)
    channels = affine.along(channel_axis(reader, role))
    fits = channels is not None and channels.channels in (None, role.operator.in_channels)
    if not fits and not unknown:
        what = f"its channels are not the input channels of {reader.name}"
        route.block([Refusal(Code.AXIS_MISMATCH, what)])
    try:
        operator = role.operator
        source = value
        if pad is not None:
            assert isinstance(operator, Conv)
            operator, source = _with_padding(operator, pad, value), value.inputs[0]
        if fits:
            assert channels is not None
            _absorb(route, source, reader, operator, channels)
    except BlockedError as blocked:
        route.block([blocked.refusal])


def _refuse_dtypes(value: Node, reader: Node, role: Linear) -> Iterator[Refusal]:
    if (value.dtype, reader.dtype) not in ((role.dtype, role.dtype), (None, None)):
        yield Refusal(
            Code.DTYPE_CHANGE,
            f"{reader.name} takes {value.dtype} with weights of {role.dtype} to {reader.dtype}",
        )


def _absorb(
    route: Route, source: Node, reader: Node, operator: LinearOperator, channels: ChannelAffine
) -> None:
    """
    Args:
        operator: what ``reader`` does to ``source``, whoever pads it.
    """
    role = reader.role
    assert isinstance(role, Linear)
    scaled = role.operator.after(channels.scale)
    if not channels.is_scale and operator.is_uniform:
        response = operator.response(channels.shift, None)
        bias = response if scaled.bias is None else scaled.bias + response
        scaled = replace(scaled, bias=bias)
    elif not channels.is_scale:
        route.borders[reader] = _border(source, reader, operator, channels.shift)
    route.roles[reader] = replace(role, operator=scaled)


def _border(
    source: Node, reader: Node, operator: LinearOperator, shift: Expression
) -> BroadcastAffine:
    """Adds ``L t`` to the output, position by position."""
    shape = source.shape
    if shape is None or reader.rank is None:
        raise BlockedError(Code.UNKNOWN_RANK, f"the size of {reader.name}'s input is not known")
    spatial = [shape[axis] for axis in operator.spatial_axes]
    sizes = tuple(size for size in spatial if isinstance(size, int))
    if len(sizes) != len(spatial):
        raise BlockedError(Code.DYNAMIC_SHAPE, f"the size of {reader.name}'s input is not fixed")
    border = operator.placed(operator.response(shift, sizes))
    return BroadcastAffine.of_border(border, reader.rank)


def _with_padding(conv: Conv, pad: Pad, node: Node) -> Conv:
    """The convolution as if it padded by itself what ``pad`` pads."""
    assert node.rank is not None
    sides = dict(pad.sides)
    spatial = [node.rank + axis for axis in conv.spatial_axes]
    if not set(sides) <= set(spatial):
        raise BlockedError(Code.AXIS_MISMATCH, f"{node.name} pads channels")
    added = [sides.get(axis, (0, 0)) for axis in spatial]
    if any(min(pair) < 0 for pair in added):
        raise BlockedError(Code.PADDING_VALUE, f"{node.name} pads and crops")
    both = zip(conv.padding, added, strict=True)
    return replace(conv, padding=tuple((a + c, b + d) for (a, b), (c, d) in both))
