"""What convolutions share: where their spatial axes are, and what their attributes must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bnfx.passes.algebra.expressions.expression import Shape
from bnfx.passes.algebra.linear import LinearOperator

Padding = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SpatialOperator(LinearOperator):
    """A linear operator whose kernel, ``weight.shape[2:]``, runs over spatial axes.

    Args:
        channels_last: whether data are ``(N, *spatial, C)`` rather than ``(N, C, *spatial)``. The
            weight's layout, and the shape of one sample in this class's methods, are the same.
    """

    channels_last: bool = field(default=False, kw_only=True)

    @property
    def kernel(self) -> Shape:
        return self.weight.shape[2:]

    @property
    def channel_axis(self) -> int:
        return -1 if self.channels_last else -len(self.kernel) - 1

    @property
    def spatial_axes(self) -> Shape:
        last = self.channels_last
        return tuple(range(-len(self.kernel) - last, -last))


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> Padding:
    """Padding ``'same'``: ``dilation * (kernel - 1)`` zeros a dimension, the odd one at the end."""
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def check_spatial(spatial: int, positive: dict[str, Shape], padding: Padding) -> None:
    """Raise ``ValueError`` for attributes that are not one number (or pair) a dimension."""
    for name, values in (*positive.items(), ("padding", padding)):
        if len(values) != spatial:
            raise ValueError(f"{name} {values} is not for {spatial} dimensions")
    for name, values in positive.items():
        if min(values) < 1:
            raise ValueError(f"{name} {values} is not positive")
    if not all(isinstance(sides, tuple) and len(sides) == 2 for sides in padding):
        raise ValueError(f"padding {padding} is not (before, after) for each dimension")
