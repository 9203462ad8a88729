"""The map of what a join gives, by the maps of its inputs, on the way on."""

from __future__ import annotations

from collections.abc import Sequence

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing import BlockedError
from bnfx.passes.graph import Node
from bnfx.passes.refusals import Code, Refusal

_IDENTITY = BroadcastAffine.identity()


def ends(reader: Node, value: Node) -> Refusal:
    """The way on from ``value`` ends at ``reader``."""
    return Refusal(Code.NO_LINEAR_AFTER, f"{reader.name} reads {value.name}")


def concatenated(reader: Node, axis: int, maps: Sequence[BroadcastAffine]) -> BroadcastAffine:
    """The map of a concatenation whose inputs have ``maps``."""
    if axis not in maps[0].axes and all(_same(maps[0], other) for other in maps):
        return maps[0]
    sizes = [None if v.shape is None else v.shape[axis] for v in reader.inputs]
    known = [size for size in sizes if isinstance(size, int)]
    whole = None if reader.shape is None else reader.shape[axis]
    if len(known) < len(sizes) or not isinstance(whole, int):
        raise BlockedError(Code.DYNAMIC_SHAPE, f"the parts of {reader.name} have no fixed sizes")
    return BroadcastAffine.joined(maps, known, axis)


def _same(one: BroadcastAffine, other: BroadcastAffine) -> bool:
    return one.scales_like(other) and one.shifts_like(other)


def added(
    reader: Node, factors: tuple[float, float], maps: Sequence[BroadcastAffine]
) -> BroadcastAffine:
    """``f1 (s x1 + t1) + f2 (s x2 + t2) = s (f1 x1 + f2 x2) + (f1 t1 + f2 t2)``."""
    one, other = maps
    if not one.scales_like(other):
        scaled = next(v for v, a in zip(reader.inputs, maps, strict=True) if not a.is_shift)
        raise BlockedError(Code.NO_LINEAR_AFTER, f"{reader.name} reads {scaled.name}")
    shift = _IDENTITY
    for affine, factor in zip(maps, factors, strict=True):
        if not affine.is_scale:
            shift = BroadcastAffine(_IDENTITY.scale, affine.shift * factor) @ shift
    return BroadcastAffine(one.scale, shift.shift)


def multiplied(reader: Node, maps: Sequence[BroadcastAffine]) -> BroadcastAffine:
    """``(s1 x1) (s2 x2) = (s1 s2) (x1 x2)``."""
    one, other = maps
    for value, affine in zip(reader.inputs, maps, strict=True):
        if not affine.is_scale:
            raise BlockedError(Code.NO_LINEAR_AFTER, f"{reader.name} reads {value.name}")
    return one @ other
