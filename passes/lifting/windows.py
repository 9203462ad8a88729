"""Ops that combine, or repeat, positions of one channel: pools, reductions, resizing, repeats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bnfx.passes.algebra import average
from bnfx.passes.crossing import Dims, Window


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


def reduced(
    rank: int, axes: Iterable[int] | None, keep: bool, by_order: bool, exclude: bool = False
) -> Window:
    """A mean or maximum over ``axes``, over all if ``None``.

    Args:
        exclude: whether it runs over all but these.
    """
    every = set(range(rank))
    named = every if axes is None else {axis % rank for axis in axes}
    if exclude and axes is not None:
        named = every - named
    return Window(tuple(sorted(named)), keep=keep, by_order=by_order)


def repeated(before: Dims, after: Dims, axes: Iterable[int]) -> Window | None:
    """Positions of ``axes`` again and again: repeat and tile. It is like resizing to the nearest.

    ``None`` if it also changes the rank.
    """
    rank = len(before)
    return Window(tuple(sorted({axis % rank for axis in axes}))) if rank == len(after) else None
