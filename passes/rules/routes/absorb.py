"""A linear operator absorbs the affine map before it: ``L(s x + t) = (L s) x + L t``."""

from __future__ import annotations

from dataclasses import replace

from bnfx.passes.algebra import BroadcastAffine, Conv, Expression, LinearOperator
from bnfx.passes.crossing import BlockedError, Pad
from bnfx.passes.graph import Linear, Node, Role
from bnfx.passes.refusals import Code
from bnfx.passes.rules.routes.route import Route, channel_axis


def absorb(
    route: Route,
    value: Node,
    reader: Node,
    role: Role,
    affine: BroadcastAffine,
    pad: Pad | None = None,
) -> None:
    """``L(s x + t) = (L s) x + L t``, with zeros where ``x`` is padded."""
    assert isinstance(role, Linear)
    operator = role.operator
    if (value.dtype, reader.dtype) not in ((role.dtype, role.dtype), (None, None)):
        raise BlockedError(
            Code.DTYPE_CHANGE,
            f"{reader.name} takes {value.dtype} with weights of {role.dtype} to {reader.dtype}",
        )
    channels = affine.along(channel_axis(reader, role, affine))
    if channels is None or channels.channels not in (None, operator.in_channels):
        raise BlockedError(
            Code.AXIS_MISMATCH, f"its channels are not the input channels of {reader.name}"
        )
    scaled = operator.after(channels.scale)
    source = value
    if pad is not None:
        assert isinstance(operator, Conv)
        source = value.inputs[0]
        operator = _with_padding(operator, pad, value)
    if affine.is_scale:
        pass
    elif operator.is_uniform:
        response = operator.response(channels.shift, None)
        bias = response if scaled.bias is None else scaled.bias + response
        scaled = replace(scaled, bias=bias)
    else:
        _add_border(route, source, reader, operator, channels.shift)
    route.roles[reader] = replace(role, operator=scaled)


def _add_border(
    route: Route, source: Node, reader: Node, operator: LinearOperator, shift: Expression
) -> None:
    """Add ``L t`` to the output, position by position."""
    shape = source.shape
    if shape is None or reader.rank is None:
        raise BlockedError(Code.UNKNOWN_RANK, f"the size of {reader.name}'s input is not known")
    spatial = [shape[axis] for axis in operator.spatial_axes]
    sizes = tuple(size for size in spatial if isinstance(size, int))
    if len(sizes) != len(spatial):
        raise BlockedError(Code.DYNAMIC_SHAPE, f"the size of {reader.name}'s input is not fixed")
    border = operator.placed(operator.response(shift, sizes))
    added = BroadcastAffine.of_border(border, reader.rank)
    before = route.borders.get(reader, BroadcastAffine.identity())
    route.borders[reader] = added @ before


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
