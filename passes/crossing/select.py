"""A part of a tensor along one axis: slices, the outputs of split and chunk, and indexing."""

from __future__ import annotations

from dataclasses import dataclass

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing.movement import BlockedError, Dims, Movement
from bnfx.passes.refusals import Code


@dataclass(frozen=True)
class Select(Movement):
    """Positions ``start`` to ``stop`` (exclusive) of ``axis``; the axis is dropped unless kept.

    On its way back the map is the identity on the other positions, so nothing else may read the
    selected ones: who moves a map back checks that (:meth:`overlaps`).
    """

    axis: int
    start: int
    stop: int
    keep: bool = True

    def back(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        size = before[self.axis]
        if not isinstance(size, int):
            raise BlockedError(
                Code.DYNAMIC_SHAPE, f"axis {self.axis}, which is split, has no fixed size"
            )
        if not self.keep:
            affine = affine.inserted(self.axis)
        return affine.embedded(self.axis, self.start, self.stop - self.start, size)

    def back_alone(self, affine: BroadcastAffine) -> BroadcastAffine:
        """:meth:`back`, where nobody sees the other positions, so that they may change as well."""
        if not self.keep:
            affine = affine.inserted(self.axis)
        if self.axis in affine.axes:
            raise BlockedError(
                Code.AXIS_MISMATCH, f"it varies along axis {self.axis}, a part of one"
            )
        return affine

    def forward(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        return affine.sliced(self.axis, self.start, self.stop, self.keep)

    def overlaps(self, other: Movement) -> bool:
        """Whether another reader of the tensor may see the selected positions."""
        if not isinstance(other, Select) or other.axis != self.axis:
            return True
        return self.start < other.stop and other.start < self.stop
