"""Pools as TVM's IRs write them, and what affine maps may cross of them."""

from __future__ import annotations

from dataclasses import dataclass

from bnfx.passes.algebra import average
from bnfx.passes.crossing import Chain as Chain
from bnfx.passes.crossing import Dims, Permute, Reshape, Window
from bnfx.passes.tvm.layouts import channels_last


def spatial_axes(layout: str, out_layout: str, rank: int) -> tuple[tuple[int, ...], bool]:
    """The axes of a pool or resize, and whether channels are last.

    Raises:
        ValueError: if it changes the layout, or the layout is not read.
    """
    if out_layout not in ("", layout):
        raise ValueError("it changes the layout")
    count = rank - 2
    last = channels_last(layout, count)
    return tuple(range(1, 1 + count) if last else range(2, 2 + count)), last


@dataclass(frozen=True)
class Pool:
    """The attributes of a pool.

    Args:
        axes: over which it runs.
        last: whether channels are last.
        size, strides, dilation: one number an axis.
        padding: all befores, then all afters.
        ceil: whether its output's size is rounded up, so that it may reach beyond the padding.
        counts: whether a mean counts zeros in the padding.
    """

    axes: tuple[int, ...]
    last: bool
    size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil: bool
    counts: bool = False

    def meets_input(self, before: Dims) -> bool:
        """Whether no window lies in the padding alone, where it gives no value of the input.

        A dilated window may also step over an input that is smaller than its steps.
        """
        count = len(self.axes)
        steps = self.dilation or (1,) * count
        for at, axis in enumerate(self.axes):
            first, last = self.padding[at], self.padding[count + at]
            beyond = last + self.ceil * (self.strides[at] - 1)
            if first >= self.size[at] or beyond >= self.size[at]:
                return False
            size = before[axis]
            if first and steps[at] > 1 and not (isinstance(size, int) and size >= steps[at]):
                return False
        return True

    def maximum(self, before: Dims) -> Window | None:
        return Window(self.axes, by_order=True) if self.meets_input(before) else None

    def mean(self, before: Dims) -> Window | None:
        """Averaging; the same as a depthwise convolution where it is one.

        Args:
            before: the input's shape.
        """
        count = len(self.axes)
        sides = tuple(zip(self.padding[:count], self.padding[count:], strict=True))
        counts = self.counts and (any(self.padding) or self.ceil)
        if not counts and not self.meets_input(before):
            return None
        channels = before[-1 if self.last else 1]
        plain = not self.ceil and all(step == 1 for step in self.dilation)
        convolution = None
        if isinstance(channels, int) and plain and (counts or not any(self.padding)):
            convolution = average(channels, self.size, self.strides, sides, self.last)
        return Window(self.axes, counts_padding=counts, convolution=convolution)


def depth_to_space(before: Dims, after: Dims, block: int, columns_first: bool) -> Chain | None:
    """``(N, C, H, W)`` to ``(N, C / block^2, H block, W block)``.

    Args:
        columns_first: whether the depth of one place is ``(C, block, block)``, as in PyTorch's
            pixel_shuffle, rather than ``(block, block, C)``.
    """
    if len(before) != 4 or not isinstance(before[1], int):
        return None
    n, c, h, w = before
    depth = int(c) // block**2
    if columns_first:
        dims: Dims = (n, depth, block, block, h, w)
        order: tuple[int, ...] = (0, 1, 4, 2, 5, 3)
    else:
        dims = (n, block, block, depth, h, w)
        order = (0, 3, 4, 1, 5, 2)
    middle = tuple(dims[axis] for axis in order)
    return Chain(((Reshape(), dims), (Permute(order), middle), (Reshape(), after)))
