"""Ops that combine positions of the same channel: pooling, global means, resizing.

Average pooling and interpolation are weighted means whose weights add up to 1, so that

    ``sum_q w_q (s x_q + t) = s sum_q w_q x_q + t``;

a maximum commutes with a map that is not decreasing: ``max_q (s x_q + t) = s max_q x_q + t`` where
``s >= 0``. Both hold only if ``s`` and ``t`` are the same at all the positions that are combined.
"""

from __future__ import annotations

from dataclasses import dataclass

from bnfx.passes.algebra import BroadcastAffine, Conv
from bnfx.passes.crossing.movement import Dims, Movement, refuse_varying


@dataclass(frozen=True)
class Window(Movement):
    """Combines positions along ``axes``.

    Args:
        axes: of the input; channels must not be among them.
        keep: whether ``axes`` remain, with sizes of their own; a mean may drop them.
        by_order: a maximum or minimum, not a mean.
        counts_padding: a mean over zeros beside the input too (``count_include_pad``), so that a
            shift is not preserved at the border.
        convolution: the same as a depthwise convolution, where it is one.
    """

    axes: tuple[int, ...]
    keep: bool = True
    by_order: bool = False
    counts_padding: bool = False
    convolution: Conv | None = None

    @property
    def needs_nonnegative_scale(self) -> bool:  # type: ignore[override]
        return self.by_order

    @property
    def needs_zero_shift(self) -> bool:  # type: ignore[override]
        return self.counts_padding

    def back(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        if not self.keep:
            for axis in sorted(self.axes):
                affine = affine.inserted(axis)
        self._check(affine)
        return affine

    def forward(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        self._check(affine)
        if not self.keep:
            for axis in sorted(self.axes, reverse=True):
                affine = affine.sliced(axis, 0, 1, keep=False)
        return affine

    def _check(self, affine: BroadcastAffine) -> None:
        refuse_varying(affine, self.axes, "is combined by a pool, a mean or a resize")
