"""Sums of linear operators on one input: ``L1 x + L2 x = (L1 + L2) x``.

Kernels of different sizes are laid over one another by where their taps read. Tap ``k`` of output
``p`` reads position ``stride p + dilation k - before``, so a kernel with less padding in front is
embedded ``(before - its before) / dilation`` taps further on, and zeros fill the rest.
"""

from __future__ import annotations

import math
from dataclasses import replace

from bnfx.passes.algebra.affine import ChannelAffine
from bnfx.passes.algebra.building import broadcast_to, pad
from bnfx.passes.algebra.convolution import Conv
from bnfx.passes.algebra.dense import Dense
from bnfx.passes.algebra.expression import Expression, Ones, Scalar, Shape
from bnfx.passes.algebra.linear import LinearOperator, added
from bnfx.passes.algebra.rearrange import Eye
from bnfx.passes.algebra.spatial import Padding


def diagonal(affine: ChannelAffine, like: LinearOperator) -> LinearOperator:
    """A channel affine map as an operator of the kind of ``like``: a kernel of one tap.

    Raises:
        ValueError: if there is none, as ``like`` is no dense operator and no convolution, or
        changes
            the number of channels.
    """
    channels = like.in_channels
    if channels != like.out_channels or affine.channels not in (None, channels):
        raise ValueError(f"an affine map beside {channels} -> {like.out_channels} channels")
    scale, shift = (broadcast_to(e, (channels,)) for e in (affine.scale, affine.shift))
    bias = None if affine.shift == Scalar(0.0) else shift
    if isinstance(like, Dense):
        return Dense(Eye(channels) * scale.reshape(channels, 1), bias)
    if not isinstance(like, Conv):
        raise ValueError(f"an affine map beside {type(like).__name__}")
    ones, none = (1 for _ in like.kernel), tuple((0, 0) for _ in like.kernel)
    one = tuple(1 for _ in like.kernel)
    weight = scale.reshape(channels, 1, *ones)
    return Conv(weight, bias, one, none, one, channels, channels_last=like.channels_last)


def average(
    channels: int, kernel: Shape, stride: Shape, padding: Padding, channels_last: bool = False
) -> Conv:
    """Average pooling that counts its zero padding, as a depthwise convolution."""
    weight = Ones((channels, 1, *kernel)) * (1.0 / math.prod(kernel))
    ones = (1,) * len(kernel)
    return Conv(weight, None, stride, padding, ones, channels, channels_last=channels_last)


def regrouped(conv: Conv, groups: int) -> Conv:
    """The same convolution with fewer groups, zeros between what was apart.

    Raises:
        ValueError: unless ``groups`` divides the convolution's own.
    """
    if groups == conv.groups:
        return conv
    if conv.groups % groups:
        raise ValueError(f"{conv.groups} groups cannot form {groups}")
    each = conv.groups // groups
    out_group, in_group = conv.out_channels // conv.groups, conv.weight.shape[1]
    ones = (1 for _ in conv.kernel)
    blocks = conv.weight.reshape(groups, each, out_group, 1, in_group, *conv.kernel)
    weight = blocks * Eye(each).reshape(1, each, 1, each, 1, *ones)
    return replace(
        conv,
        weight=weight.reshape(conv.out_channels, each * in_group, *conv.kernel),
        groups=groups,
    )


@added.register
def _(one: Dense, other: LinearOperator) -> LinearOperator:
    _check_channels(one, other)
    if not isinstance(other, Dense):
        raise ValueError(f"Dense beside {type(other).__name__}")
    return Dense(one.weight + other.weight, _sum(one.bias, other.bias))


@added.register
def _(one: Conv, other: LinearOperator) -> LinearOperator:
    _check_channels(one, other)
    if not isinstance(other, Conv):
        raise ValueError(f"Conv beside {type(other).__name__}")
    if len(one.kernel) != len(other.kernel):
        raise ValueError(f"{len(one.kernel)} spatial dimensions beside {len(other.kernel)}")
    if one.channels_last != other.channels_last:
        raise ValueError("channels first beside channels last")
    if one.stride != other.stride:
        raise ValueError(f"stride {one.stride} beside {other.stride}")
    groups = math.gcd(one.groups, other.groups)
    return _overlaid(regrouped(one, groups), regrouped(other, groups))


def _check_channels(one: LinearOperator, other: LinearOperator) -> None:
    if (one.in_channels, one.out_channels) != (other.in_channels, other.out_channels):
        raise ValueError(
            f"{one.in_channels} -> {one.out_channels} channels beside "
            f"{other.in_channels} -> {other.out_channels}"
        )


def _overlaid(one: Conv, other: Conv) -> Conv:
    dilation, padding = [], []
    places: tuple[list[tuple[int, int]], ...] = ([], [])
    for axis in range(len(one.kernel)):
        kernels = one.kernel[axis], other.kernel[axis]
        steps = {c.dilation[axis] for c in (one, other) if c.kernel[axis] > 1} or {1}
        if len(steps) > 1:
            raise ValueError(f"dilation {one.dilation} beside {other.dilation}")
        step = steps.pop()
        sides = one.padding[axis], other.padding[axis]
        slack = {sum(pads) - step * (k - 1) for pads, k in zip(sides, kernels, strict=True)}
        if len(slack) > 1:
            raise ValueError("their outputs have different sizes")
        before = max(pads[0] for pads in sides)
        if any((before - pads[0]) % step for pads in sides):
            raise ValueError("their taps read different positions")
        starts = [(before - pads[0]) // step for pads in sides]
        size = max(start + k for start, k in zip(starts, kernels, strict=True))
        for place, start, k in zip(places, starts, kernels, strict=True):
            place.append((start, size - start - k))
        after = slack.pop() + step * (size - 1) - before
        if after < 0:
            raise ValueError("the joint kernel would read past the end of the input")
        dilation.append(step)
        padding.append((before, after))
    weights = (
        pad(conv.weight, [(0, 0), (0, 0), *place])
        for conv, place in zip((one, other), places, strict=True)
    )
    return replace(
        one,
        weight=next(weights) + next(weights),
        bias=_sum(one.bias, other.bias),
        dilation=tuple(dilation),
        padding=tuple(padding),
    )


def _sum(one: Expression | None, other: Expression | None) -> Expression | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
