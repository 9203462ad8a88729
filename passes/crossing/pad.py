"""Padding by an op of its own."""

from __future__ import annotations

from dataclasses import dataclass

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing.movement import BlockedError, Dims, Movement, refuse_varying
from bnfx.passes.refusals import Code


@dataclass(frozen=True)
class Pad(Movement):
    """``(before, after)`` positions more on some axes; negative numbers crop.

    Args:
        sides: axis -> (before, after), for each axis that changes.
        fill: the constant that fills them; ``None`` where they repeat positions of the input
            (reflect, replicate, circular), so that any map commutes.
    """

    sides: tuple[tuple[int, tuple[int, int]], ...]
    fill: float | None

    @property
    def axes(self) -> tuple[int, ...]:
        return tuple(axis for axis, _ in self.sides)

    @property
    def fills(self) -> bool:
        """Whether constants come in."""
        return self.fill is not None and any(max(sides) > 0 for _, sides in self.sides)

    @property
    def needs_zero_shift(self) -> bool:  # type: ignore[override]
        """A constant 0 is preserved by a scale alone; another one by no map but the identity."""
        return self.fills

    def back(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        return self.forward(affine, before, after)

    def forward(self, affine: BroadcastAffine, before: Dims, after: Dims) -> BroadcastAffine:
        refuse_varying(affine, self.axes, "is padded")
        if self.fills and self.fill != 0.0:
            raise BlockedError(Code.PADDING_VALUE, f"it crosses padding with {self.fill}")
        return affine
