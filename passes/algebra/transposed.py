"""Transposed convolution of any rank."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from array_api_compat import array_namespace

from bnfx.passes.algebra.building import total
from bnfx.passes.algebra.convolution import reach_of
from bnfx.passes.algebra.evaluate import Array
from bnfx.passes.algebra.expression import Expression, Shape
from bnfx.passes.algebra.linear import Tap
from bnfx.passes.algebra.rearrange import Table
from bnfx.passes.algebra.spatial import Padding, SpatialOperator, check_spatial


@dataclass(frozen=True)
class ConvTranspose(SpatialOperator):
    """Transposed convolution: each input element spreads the kernel over the output.

    ``y[o, stride q + dilation k - pad] += weight[i, o - g(i) O, k] x[i, q]``, then ``+ bias[o]``,
    with ``O = C_out / groups`` and ``g(i) = i // (C_in / groups)``.

    The output channel is *not* an axis of the weight once there are groups: it is the pair (group,
    axis 1), and the group is a part of axis 0. Scaling axis 0 or axis 1 by a vector of length
    ``C_out`` is the classic miscompile, and goes unnoticed where ``C_in == C_out``.

    Args:
        weight: shape ``(C_in, C_out / groups, *kernel)``.
        bias: shape ``(C_out,)``, or ``None``.
        stride, dilation, output_padding: one number a spatial dimension.
        padding: ``(before, after)`` for each spatial dimension, cut off the output.
        groups: number of channel groups.
    """

    stride: Shape
    padding: Padding
    output_padding: Shape
    dilation: Shape
    groups: int = 1

    def __post_init__(self) -> None:
        spatial = len(self.weight.shape) - 2
        if spatial < 1:
            raise ValueError(f"the weight is (in, out/groups, *kernel), not {self.weight.shape}")
        check_spatial(spatial, {"stride": self.stride, "dilation": self.dilation}, self.padding)
        if len(self.output_padding) != spatial:
            raise ValueError(
                f"output_padding {self.output_padding} is not for {spatial} dimensions"
            )
        if self.groups < 1 or self.weight.shape[0] % self.groups:
            raise ValueError(f"{self.weight.shape[0]} channels cannot form {self.groups} groups")
        super().__post_init__()

    @property
    def out_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    @property
    def in_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def is_uniform(self) -> bool:
        """An output meets one tap of several, unless there is one tap only."""
        ones = {*self.kernel, *self.stride} == {1}
        return ones and not any(map(any, self.padding)) and not any(self.output_padding)

    def _by_group(self) -> Expression:
        """The weight as ``(groups, C_in / groups, C_out / groups, *kernel)``."""
        in_channels, out_group = self.weight.shape[:2]
        return self.weight.reshape(self.groups, in_channels // self.groups, out_group, *self.kernel)

    def scale_out(self, scale: Expression) -> Expression:
        ones = (1 for _ in self.kernel)
        scaled = self._by_group() * scale.reshape(self.groups, 1, self.weight.shape[1], *ones)
        return scaled.reshape(*self.weight.shape)

    def scale_in(self, scale: Expression) -> Expression:
        ones = (1 for _ in self.weight.shape[1:])
        return self.weight * scale.reshape(self.in_channels, *ones)

    def columns(self, weight: Array) -> Array:
        return array_namespace(weight).reshape(weight, (self.in_channels, -1))

    def tap_sums(self, shift: Expression) -> Expression:
        ones = (1 for _ in self.weight.shape[1:])
        shifts = shift.reshape(self.groups, self.in_channels // self.groups, *ones)
        return total(self._by_group() * shifts, (1,)).reshape(self.out_channels, *self.kernel)

    def reach(self, spatial: Shape) -> tuple[Table, ...]:
        def meets(out: int, offset: int, stride: int, size: int) -> bool:
            place, rest = divmod(out - offset, stride)
            return rest == 0 and 0 <= place < size

        return reach_of(self, spatial, meets)

    def rows(self, weight: Array) -> Array:
        xp = array_namespace(weight)
        in_group, taps = self.in_channels // self.groups, math.prod(self.kernel)
        grouped = xp.reshape(weight, (self.groups, in_group, -1, taps))
        # Without groups, no copy.
        return xp.reshape(
            xp.permute_dims(grouped, (0, 2, 1, 3)), (self.out_channels, in_group, taps)
        )

    def output_shape(self, input_shape: Shape) -> Shape:
        spatial = (
            (size - 1) * s - before - after + d * (k - 1) + extra + 1
            for size, k, s, d, extra, (before, after) in zip(
                input_shape[1:],
                self.kernel,
                self.stride,
                self.dilation,
                self.output_padding,
                self.padding,
                strict=True,
            )
        )
        return (self.out_channels, *spatial)

    def taps(self, input_shape: Shape) -> Iterator[Tap]:
        out_shape = self.output_shape(input_shape)
        out_group, in_group = self.weight.shape[1], self.weight.shape[0] // self.groups
        offsets = tuple(itertools.product(*map(range, self.kernel)))
        for in_index in itertools.product(*map(range, input_shape)):
            channel, position = in_index[0], in_index[1:]
            for offset in offsets:
                target = tuple(
                    s * q + d * k - before
                    for s, q, d, k, (before, _) in zip(
                        self.stride, position, self.dilation, offset, self.padding, strict=True
                    )
                )
                if not all(0 <= at < size for at, size in zip(target, out_shape[1:], strict=True)):
                    continue
                for out in range(out_group):
                    out_channel = (channel // in_group) * out_group + out
                    yield (out_channel, *target), in_index, (channel, out, *offset)
