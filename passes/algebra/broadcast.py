"""Affine maps on whole tensors: what a channel affine map becomes on its way through a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bnfx.passes.algebra.affine import ChannelAffine
from bnfx.passes.algebra.expressions.building import apart, broadcast_to, concat, embed, every, take
from bnfx.passes.algebra.expressions.expression import Expression, Scalar, Shape, Source
from bnfx.passes.algebra.expressions.rearrange import permute

_ONE, _ZERO = Scalar(1.0), Scalar(0.0)


@dataclass(frozen=True)
class BroadcastAffine:
    """``y = scale * x + shift``, each broadcast along the axes where its size is 1.

    Axes are counted from the *front*, and missing ones at the end count as 1: the map of a
    BatchNorm has shape ``(1, C)`` on a tensor of any rank. An axis is a position, so a size that
    agrees by accident means nothing. A monoid under ``@``, like :class:`ChannelAffine`.

    Args:
        scale, shift: any shapes that broadcast together, aligned at the front.
    """

    scale: Expression
    shift: Expression

    @staticmethod
    def identity() -> BroadcastAffine:
        """``y = x``."""
        return BroadcastAffine(_ONE, _ZERO)

    @staticmethod
    def of_channels(affine: ChannelAffine, axis: int) -> BroadcastAffine:
        """A channel affine map along ``axis``."""
        front = (1,) * axis
        sides = (affine.scale, affine.shift)
        return BroadcastAffine(*(e.reshape(*front, *e.shape) if e.shape else e for e in sides))

    @staticmethod
    def of_border(border: Expression, rank: int) -> BroadcastAffine:
        """Adds ``border``, which lies along the last axes of a value of ``rank`` dimensions."""
        front = (1,) * (rank - len(border.shape))
        return BroadcastAffine(_ONE, border.reshape(*front, *border.shape))

    @staticmethod
    def joined(
        parts: Sequence[BroadcastAffine], sizes: Sequence[int], axis: int
    ) -> BroadcastAffine:
        """The map of a concatenation along ``axis`` whose parts, of ``sizes``, have these maps."""
        scales, shifts = ([getattr(part, side) for part in parts] for side in ("scale", "shift"))
        scale, shift = _joined(scales, sizes, axis, _ONE), _joined(shifts, sizes, axis, _ZERO)
        return BroadcastAffine(scale, shift)

    @property
    def shape(self) -> Shape:
        """What scale and shift broadcast to."""
        rank = max(len(self.scale.shape), len(self.shift.shape))
        return np.broadcast_shapes(*(_aligned(e, rank).shape for e in (self.scale, self.shift)))

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which the map varies."""
        return tuple(axis for axis, size in enumerate(self.shape) if size != 1)

    @property
    def is_scale(self) -> bool:
        """Whether it has no shift, by construction (not by the values of parameters)."""
        return self.shift == _ZERO

    @property
    def is_shift(self) -> bool:
        """Whether it scales nothing, by construction."""
        return self.scale == _ONE

    def without_shift(self) -> BroadcastAffine:
        """Its scale alone."""
        return BroadcastAffine(self.scale, _ZERO)

    def with_shift(self, shift: Expression) -> BroadcastAffine:
        """Its scale with another shift."""
        return BroadcastAffine(self.scale, shift)

    def scales_like(self, other: BroadcastAffine) -> bool:
        """Whether both have one scale by construction, and so at each position."""
        return _same(self.scale, other.scale)

    def shifts_like(self, other: BroadcastAffine) -> bool:
        """Whether both have one shift by construction."""
        return _same(self.shift, other.shift)

    @property
    def is_computed(self) -> bool:
        """Whether the IR computes part of it from parameters at each call."""
        return self.scale.reads[1] or self.shift.reads[1]

    def sources(self) -> Iterator[Source]:
        """The parameters that the map reads."""
        yield from dict.fromkeys((*self.scale.sources(), *self.shift.sources()))

    def along(self, axis: int | None) -> ChannelAffine | None:
        """The map as one along ``axis`` alone, or ``None`` if it varies along another.

        ``axis`` may be ``None`` (not known): then only a map that varies along none will do.
        """
        if any(other != axis for other in self.axes):
            return None

        def channels(e: Expression) -> Expression:
            varies = axis is not None and axis < len(e.shape) and e.shape[axis] != 1
            return e.reshape(e.shape[axis]) if varies else e.reshape()  # type: ignore[index]

        return ChannelAffine(channels(self.scale), channels(self.shift))

    def __matmul__(self, other: BroadcastAffine) -> BroadcastAffine:
        """``self`` after ``other``: ``s2 * (s1 x + t1) + t2 = (s2 s1) x + (s2 t1 + t2)``.

        Raises:
            ValueError: if sizes on an axis disagree.
        """
        sides = (self.scale, self.shift, other.scale, other.shift)
        rank = max(len(side.shape) for side in sides)
        scale, shift, first_scale, first_shift = (_aligned(side, rank) for side in sides)
        moved = first_shift if other.is_scale else scale * first_shift
        return BroadcastAffine(scale * first_scale, moved + shift)

    def __add__(self, other: BroadcastAffine) -> BroadcastAffine:
        """``x -> self(x) + other(x)``.

        Raises:
            ValueError: if sizes on an axis disagree.
        """
        sides = (self.scale, self.shift, other.scale, other.shift)
        rank = max(len(side.shape) for side in sides)
        scale, shift, other_scale, other_shift = (_aligned(side, rank) for side in sides)
        return BroadcastAffine(scale + other_scale, shift + other_shift)

    def permuted(self, order: Sequence[int]) -> BroadcastAffine:
        """The map on ``x.permute(order)``: axis ``i`` of the result was axis ``order[i]``."""
        return self._each(lambda e: permute(_aligned(e, len(order)), order))

    def regrouped(self, expanded: Sequence[int], dims: Sequence[int]) -> BroadcastAffine:
        """Written out to ``expanded`` where that is not 1, then under the shape ``dims``."""

        def change(e: Expression) -> Expression:
            full = _aligned(e, len(expanded))
            return broadcast_to(full, expanded).reshape(*dims)

        return self._each(change)

    def sliced(
        self, axis: int, start: int, stop: int, keep: bool = True, step: int = 1
    ) -> BroadcastAffine:
        """The map on each ``step``-th position from ``start`` to ``stop`` of ``axis``, which is
        dropped unless kept.
        """

        def change(e: Expression) -> Expression:
            full = _aligned(e, max(axis + 1, len(e.shape)))
            part = full
            if full.shape[axis] != 1:
                part = every(take(full, axis, start, stop), axis, step)
            return part if keep else part.reshape(*part.shape[:axis], *part.shape[axis + 1 :])

        return self._each(change)

    def embedded(
        self, axis: int, start: int, count: int, size: int, step: int = 1
    ) -> BroadcastAffine:
        """The map on ``count`` positions from ``start``, ``step`` apart, of an axis of ``size``;
        others as is.
        """

        def change(e: Expression, rest: float) -> Expression:
            if e == Scalar(rest):
                return e
            full = (
                _aligned(e, max(axis + 1, len(e.shape)))
                if e.shape
                else e.reshape(*(1,) * (axis + 1))
            )
            dims = [*full.shape[:axis], count, *full.shape[axis + 1 :]]
            return embed(apart(broadcast_to(full, dims), axis, step, rest), axis, start, size, rest)

        return BroadcastAffine(change(self.scale, 1.0), change(self.shift, 0.0))

    def inserted(self, axis: int) -> BroadcastAffine:
        """The map on a tensor that got a new ``axis`` of one position."""

        def change(e: Expression) -> Expression:
            full = _aligned(e, max(axis, len(e.shape)))
            return full.reshape(*full.shape[:axis], 1, *full.shape[axis:])

        return self._each(change)

    def _each(self, change: Callable[[Expression], Expression]) -> BroadcastAffine:
        """One number for all positions stays one, wherever they go."""
        sides = (self.scale, self.shift)
        return BroadcastAffine(*(change(e) if e.shape else e for e in sides))


def _same(one: Expression, other: Expression) -> bool:
    rank = max(len(one.shape), len(other.shape))
    return _aligned(one, rank) == _aligned(other, rank)


def _joined(
    parts: Sequence[Expression], sizes: Sequence[int], axis: int, neutral: Expression
) -> Expression:
    if all(part == neutral for part in parts):
        return neutral
    rank = max(axis + 1, *(len(part.shape) for part in parts))
    full = [_aligned(e, rank) if e.shape else e.reshape(*(1,) * rank) for e in parts]
    across = [(*e.shape[:axis], 1, *e.shape[axis + 1 :]) for e in full]
    dims = np.broadcast_shapes(*across)
    whole = [
        broadcast_to(e, (*dims[:axis], size, *dims[axis + 1 :]))
        for e, size in zip(full, sizes, strict=True)
    ]
    return concat(whole, axis)


def _aligned(expression: Expression, rank: int) -> Expression:
    """The expression with 1s appended to its shape; one number for all stays so."""
    shape = expression.shape
    if not shape or len(shape) == rank:
        return expression
    if len(shape) > rank:
        if any(size != 1 for size in shape[rank:]):
            raise ValueError(f"a map of shape {shape} on a tensor of {rank} dimensions")
        return expression.reshape(*shape[:rank])
    return expression.reshape(*shape, *(1,) * (rank - len(shape)))
