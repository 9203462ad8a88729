"""A part of a tensor along one axis: slices, the outputs of split and chunk, and indexing."""

from __future__ import annotations

from dataclasses import dataclass

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing.movement import BlockedError, Dims, Movement
from bnfx.passes.refusals import Code


@dataclass(frozen=True)
class Select(Movement):
    """Each ``step``-th position of ``axis`` from ``start`` to ``stop`` (exclusive).

    The axis is dropped unless kept.

    On its way back the map is the identity on the other positions, so nothing else may read the
    selected ones: who moves a map back checks that (:meth:`overlaps`).
    """

    axis: int
    start: int
    stop: int
    keep: bool = True
    step: int = 1

    @property
    def positions(self) -> range:
        """Which of the axis' positions it selects."""
        return range(self.start, self.stop, self.step)

    def back(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        size = before[self.axis]
        if not isinstance(size, int):
            raise BlockedError(
                Code.DYNAMIC_SHAPE, f"axis {self.axis}, which is split, has no fixed size"
            )
        if not self.keep:
            affine = affine.inserted(self.axis)
        return affine.embedded(self.axis, self.start, len(self.positions), size, self.step)

    def back_alone(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        whole = affine if self.keep else affine.inserted(self.axis)
        # A map that varies along the axis says nothing of the other positions.
        return self.back(affine, before, after) if self.axis in whole.axes else whole

    def forward(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        return affine.sliced(self.axis, self.start, self.stop, self.keep, self.step)

    def overlaps(self, other: Movement) -> bool:
        """Whether another reader of the tensor may see the selected positions."""
        if not isinstance(other, Select) or other.axis != self.axis:
            return True
        return not set(self.positions).isdisjoint(other.positions)
