"""Every small linear operator: all attributes up to a bound, and an input that each accepts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from proofs.exact import Dims, Exact

from bnfx.passes.algebra import Conv, ConvTranspose, Dense, LinearOperator

UP_TO_3 = (1, 2, 3)
SIDES = tuple(itertools.product(range(4), repeat=2))
# groups, input and output channels of a group: up to 4 channels on both sides
CHANNELS = tuple(
    (groups, ins, outs)
    for groups in (1, 2, 3, 4)
    for ins in range(1, 4 // groups + 1)
    for outs in range(1, 4 // groups + 1)
)


@dataclass(frozen=True)
class Axis:
    """The attributes of a convolution along one spatial axis, and the input's size."""

    kernel: int
    stride: int
    dilation: int
    padding: tuple[int, int]
    size: int
    extra: int = 0  # output padding


@dataclass(frozen=True)
class Operator:
    """A convolution to be.

    Args:
        channels: groups, input and output channels of a group.
        bias: whether it has one.
        axes: one a spatial dimension.
    """

    transposed: bool
    channels: tuple[int, int, int]
    bias: bool
    axes: tuple[Axis, ...]
    channels_last: bool = False

    def build(self, model: Exact, size: int = 99) -> LinearOperator:
        groups, ins, outs = self.channels
        kernel, stride, dilation = (
            tuple(getattr(axis, name) for axis in self.axes)
            for name in ("kernel", "stride", "dilation")
        )
        padding = tuple(axis.padding for axis in self.axes)
        bias = model.numbers(groups * outs, largest=size) if self.bias else None
        if not self.transposed:
            weight = model.numbers(groups * outs, ins, *kernel, largest=size)
            return Conv(
                weight, bias, stride, padding, dilation, groups, channels_last=self.channels_last
            )
        weight = model.numbers(groups * ins, outs, *kernel, largest=size)
        extra = tuple(axis.extra for axis in self.axes)
        return ConvTranspose(weight, bias, stride, padding, extra, dilation, groups)

    @property
    def input_dims(self) -> Dims:
        """The shape of an input of two samples, channels first."""
        return (2, self.channels[0] * self.channels[1], *(axis.size for axis in self.axes))


def conv_axes() -> Iterator[Axis]:
    """All kernels, strides, dilations and paddings up to 3; the least input or a larger one."""
    for at, (kernel, stride, dilation, padding) in enumerate(
        itertools.product(UP_TO_3, UP_TO_3, UP_TO_3, SIDES)
    ):
        least = max(1, dilation * (kernel - 1) + 1 - sum(padding))
        yield Axis(kernel, stride, dilation, padding, least + at % 3)


def transposed_axes() -> Iterator[Axis]:
    """The same for a transposed convolution, with all output paddings that PyTorch allows."""
    for at, (kernel, stride, dilation, padding, extra) in enumerate(
        itertools.product(UP_TO_3, UP_TO_3, UP_TO_3, SIDES, range(3))
    ):
        if extra >= max(stride, dilation):
            continue
        axis = Axis(kernel, stride, dilation, padding, 1 + at % 3, extra)
        while _length(axis) < 1 + extra:
            axis = Axis(kernel, stride, dilation, padding, axis.size + 1, extra)
        yield axis


def _length(axis: Axis) -> int:
    """The output's size along the axis."""
    full = (axis.size - 1) * axis.stride + axis.dilation * (axis.kernel - 1) + 1
    return full - sum(axis.padding) + axis.extra


def rank_1(transposed: bool) -> Iterator[Operator]:
    """All attributes, with all channels, with and without bias."""
    axes = list(transposed_axes() if transposed else conv_axes())
    for axis, channels, bias in itertools.product(axes, CHANNELS, (False, True)):
        yield Operator(transposed, channels, bias, (axis,))


def of_rank(rank: int, transposed: bool, step: int = 1) -> Iterator[Operator]:
    """Each ``step``-th pair (or triple) of attributes; channels and bias take turns."""
    axes = list(transposed_axes() if transposed else conv_axes())
    for turn, at in enumerate(range(0, len(axes) ** rank, step)):
        chosen = tuple(axes[at // len(axes) ** place % len(axes)] for place in range(rank))
        channels = CHANNELS[turn % len(CHANNELS)]
        yield Operator(transposed, channels, turn // len(CHANNELS) % 2 == 0, chosen)


@dataclass(frozen=True)
class Layer:
    """A dense layer to be, on a tensor of ``rank`` dimensions."""

    ins: int
    outs: int
    bias: bool
    rank: int

    def build(self, model: Exact, size: int = 99) -> LinearOperator:
        weight = model.numbers(self.outs, self.ins, largest=size)
        return Dense(weight, model.numbers(self.outs, largest=size) if self.bias else None)

    @property
    def input_dims(self) -> Dims:
        return (*(2, 3, 4)[: self.rank - 1], self.ins)


def layers() -> Iterator[Layer]:
    sizes = range(1, 5)
    for ins, outs, bias, rank in itertools.product(sizes, sizes, (False, True), (1, 2, 3, 4)):
        yield Layer(ins, outs, bias, rank)
