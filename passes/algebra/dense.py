"""The dense (fully connected) operator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from array_api_compat import array_namespace

from bnfx.passes.algebra.expressions.evaluate import Array
from bnfx.passes.algebra.expressions.expression import Expression, Shape
from bnfx.passes.algebra.expressions.rearrange import MatMul, Table
from bnfx.passes.algebra.linear import LinearOperator, Tap


@dataclass(frozen=True)
class Dense(LinearOperator):
    """``y[..., o] = sum_i weight[o, i] * x[..., i] + bias[o]``.

    Its channels are the *last* axis. BatchNorm's are axis 1, the same axis only in rank 2: on a
    sequence ``(N, L, C)`` they differ even where ``L == C``.

    Args:
        weight: shape ``(out, in)``.
        bias: shape ``(out,)``, or ``None``.
    """

    def __post_init__(self) -> None:
        if len(self.weight.shape) != 2:
            raise ValueError(f"a dense weight is (out, in), not {self.weight.shape}")
        super().__post_init__()

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def channel_axis(self) -> int:
        return -1

    @property
    def spatial_axes(self) -> Shape:
        return ()

    def scale_out(self, scale: Expression) -> Expression:
        return self.weight * scale.reshape(self.out_channels, 1)

    def rows(self, weight: Array) -> Array:
        return weight

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1]

    @property
    def is_uniform(self) -> bool:
        return True

    def scale_in(self, scale: Expression) -> Expression:
        return self.weight * scale.reshape(1, self.in_channels)

    def columns(self, weight: Array) -> Array:
        return array_namespace(weight).permute_dims(weight, (1, 0))

    def tap_sums(self, shift: Expression) -> Expression:
        return MatMul(self.weight, shift.reshape(self.in_channels, 1)).reshape(self.out_channels)

    def reach(self, spatial: Shape) -> tuple[Table, ...]:
        return ()

    def output_shape(self, input_shape: Shape) -> Shape:
        return (self.out_channels,)

    def taps(self, input_shape: Shape) -> Iterator[Tap]:
        for out, channel in itertools.product(range(self.out_channels), range(input_shape[0])):
            yield (out,), (channel,), (out, channel)
