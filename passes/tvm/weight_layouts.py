"""Convolutions as TVM's IRs write them: layouts as strings, weights in any order of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bnfx.passes.algebra import Conv, ConvTranspose, Expression, LinearOperator, Source
from bnfx.passes.algebra.expressions.rearrange import permute
from bnfx.passes.algebra.spatial import Padding
from bnfx.passes.crossing import Dims
from bnfx.passes.tvm.layouts import SPATIAL, channels_last, inverse, kernel_order


@dataclass(frozen=True)
class WeightLayout:
    """How a call stores its weight: the operator's, under ``shape``, permuted by ``order``."""

    shape: tuple[int, ...]
    order: tuple[int, ...]

    def weight(self, canonical: Expression) -> Expression:
        """The operator's weight as the call takes it."""
        return permute(canonical.reshape(*self.shape), self.order)


@dataclass(frozen=True)
class Written:
    """The attributes of a convolution, as both IRs have them.

    Args:
        padding: all befores, then all afters; or fewer numbers where they are the same.
        output_padding: for a transposed convolution; ``None`` for any other.
    """

    data_layout: str
    kernel_layout: str
    out_layout: str
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    output_padding: tuple[int, ...] | None = None


def read_convolution(
    written: Written, weight: Source, before: Dims
) -> tuple[LinearOperator, WeightLayout]:
    """The operator, and how its weight is stored.

    Args:
        written: its attributes.
        weight: as it is stored.
        before: the shape of what it reads.

    Raises:
        ValueError: saying why it is not one that the algebra has.
    """
    spatial = len(before) - 2
    layout = written.data_layout
    if written.out_layout not in ("", layout):
        raise ValueError(f"it takes {layout} and gives {written.out_layout}")
    last = channels_last(layout, spatial)
    axes = ("OI" if written.output_padding is None else "IO") + SPATIAL[spatial]
    order = kernel_order(written.kernel_layout, axes)
    arranged = permute(weight, order)
    channels = before[-1 if last else 1]
    sides = read_sides(written.padding, spatial)
    operator: LinearOperator
    if written.output_padding is None:
        # A depthwise kernel may be stored as (channels, multiplier) rather than (out, 1).
        own = arranged.shape[0] == channels == written.groups
        whole = math.prod(arranged.shape[:2])
        canonical = arranged.reshape(whole, 1, *arranged.shape[2:]) if own else arranged
        operator = Conv(
            canonical,
            None,
            written.strides,
            sides,
            written.dilation,
            written.groups,
            channels_last=last,
        )
    else:
        operator = ConvTranspose(
            arranged,
            None,
            written.strides,
            sides,
            written.output_padding,
            written.dilation,
            written.groups,
            channels_last=last,
        )
    if operator.in_channels != channels:
        raise ValueError(
            f"a weight of {weight.shape} on {channels} channels in {written.groups} groups"
        )
    return operator, WeightLayout(arranged.shape, inverse(order))


def read_sides(padding: Sequence[int], spatial: int) -> Padding:
    """``(before, after)`` for each axis; TVM lists all befores, then all afters.

    Raises:
        ValueError: if it is for another number of axes.
    """
    values = tuple(padding)
    if len(values) == 1:
        values *= spatial
    if len(values) == spatial:
        values *= 2
    if len(values) != 2 * spatial:
        raise ValueError(f"its padding is {values}")
    return tuple(zip(values[:spatial], values[spatial:], strict=True))
