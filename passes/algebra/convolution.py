"""Convolution of any rank, with groups, stride, dilation and padding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from array_api_compat import array_namespace

from bnfx.passes.algebra.building import total
from bnfx.passes.algebra.evaluate import Array
from bnfx.passes.algebra.expression import Expression, Shape
from bnfx.passes.algebra.linear import Tap
from bnfx.passes.algebra.rearrange import Table
from bnfx.passes.algebra.spatial import Padding, SpatialOperator, check_spatial

if TYPE_CHECKING:
    from bnfx.passes.algebra.transposed import ConvTranspose


def reach_of(
    operator: Conv | ConvTranspose, spatial: Shape, meets: Callable[[int, int, int, int], bool]
) -> tuple[Table, ...]:
    """For each spatial dimension, which taps (rows) meet the input at which outputs (columns).

    Args:
        operator: a convolution.
        spatial: the input's sizes.
        meets: ``(output, offset, stride, size)`` -> whether a tap that lies ``offset = dilation k -
            pad`` from the kernel's first does, at this output position.
    """
    _, *sizes = operator.output_shape((operator.in_channels, *spatial))
    tables = []
    for axis, (size, outs) in enumerate(zip(spatial, sizes, strict=True)):
        stride, dilation = operator.stride[axis], operator.dilation[axis]
        offsets = [dilation * k - operator.padding[axis][0] for k in range(operator.kernel[axis])]
        rows = ((float(meets(p, at, stride, size)) for p in range(outs)) for at in offsets)
        tables.append(Table(tuple(map(tuple, rows))))
    return tuple(tables)


@dataclass(frozen=True)
class Conv(SpatialOperator):
    """Cross-correlation, as every framework's ``conv`` computes it, with zero padding.

    ``y[o, p] = sum_{i, k} weight[o, i, k] x[g(o) I + i, stride p + dilation k - pad] + bias[o]``
    with ``I = C_in / groups``, ``g(o) = o // (C_out / groups)``, and ``x`` zero outside.

    Args:
        weight: shape ``(C_out, C_in / groups, *kernel)``.
        bias: shape ``(C_out,)``, or ``None``.
        stride, dilation: one number a spatial dimension.
        padding: ``(before, after)`` for each spatial dimension.
        groups: number of channel groups.
    """

    stride: Shape
    padding: Padding
    dilation: Shape
    groups: int = 1

    def __post_init__(self) -> None:
        spatial = len(self.weight.shape) - 2
        if spatial < 1:
            raise ValueError(f"a conv weight is (out, in/groups, *kernel), not {self.weight.shape}")
        check_spatial(spatial, {"stride": self.stride, "dilation": self.dilation}, self.padding)
        if self.groups < 1 or self.out_channels % self.groups:
            raise ValueError(f"{self.out_channels} channels cannot form {self.groups} groups")
        super().__post_init__()

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    def scale_out(self, scale: Expression) -> Expression:
        return self.weight * scale.reshape(self.out_channels, *(1 for _ in self.weight.shape[1:]))

    def rows(self, weight: Array) -> Array:
        return array_namespace(weight).reshape(weight, (self.out_channels, -1))

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    @property
    def is_uniform(self) -> bool:
        return not any(map(any, self.padding))

    def _by_group(self) -> Expression:
        """The weight as ``(groups, C_out / groups, C_in / groups, *kernel)``."""
        out_group = self.out_channels // self.groups
        return self.weight.reshape(self.groups, out_group, *self.weight.shape[1:])

    def _for_input(self, values: Expression) -> Expression:
        """A number for each input channel, in the shape that multiplies :meth:`_by_group`."""
        ones = (1 for _ in self.kernel)
        return values.reshape(self.groups, 1, self.weight.shape[1], *ones)

    def scale_in(self, scale: Expression) -> Expression:
        return (self._by_group() * self._for_input(scale)).reshape(*self.weight.shape)

    def columns(self, weight: Array) -> Array:
        xp = array_namespace(weight)
        out_group, taps = self.out_channels // self.groups, math.prod(self.kernel)
        grouped = xp.reshape(weight, (self.groups, out_group, -1, taps))
        # Without groups, no copy.
        return xp.reshape(
            xp.permute_dims(grouped, (0, 2, 1, 3)), (self.in_channels, out_group, taps)
        )

    def tap_sums(self, shift: Expression) -> Expression:
        sums = total(self._by_group() * self._for_input(shift), (2,))
        return sums.reshape(self.out_channels, *self.kernel)

    def reach(self, spatial: Shape) -> tuple[Table, ...]:
        def meets(out: int, offset: int, stride: int, size: int) -> bool:
            return 0 <= stride * out + offset < size

        return reach_of(self, spatial, meets)

    def output_shape(self, input_shape: Shape) -> Shape:
        spatial = (
            (size + before + after - d * (k - 1) - 1) // s + 1
            for size, k, s, d, (before, after) in zip(
                input_shape[1:], self.kernel, self.stride, self.dilation, self.padding, strict=True
            )
        )
        return (self.out_channels, *spatial)

    def taps(self, input_shape: Shape) -> Iterator[Tap]:
        out_shape = self.output_shape(input_shape)
        in_group, out_group = self.weight.shape[1], self.out_channels // self.groups
        offsets = tuple(itertools.product(*map(range, self.kernel)))
        for out_index in itertools.product(*map(range, out_shape)):
            out, position = out_index[0], out_index[1:]
            for offset in offsets:
                source = tuple(
                    s * p + d * k - before
                    for s, p, d, k, (before, _) in zip(
                        self.stride, position, self.dilation, offset, self.padding, strict=True
                    )
                )
                if not all(
                    0 <= at < size for at, size in zip(source, input_shape[1:], strict=True)
                ):
                    continue
                for channel in range(in_group):
                    in_channel = (out // out_group) * in_group + channel
                    yield out_index, (in_channel, *source), (out, channel, *offset)
