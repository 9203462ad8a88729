"""Padding by an op of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bnfx.passes.crossing import Pad

# They repeat positions of the input, whatever the IR calls it.
_REPEATING = frozenset({"reflect", "symmetric", "edge", "replicate", "circular", "wrap"})


def padded(sides: Iterable[Sequence[int]], mode: str, fill: float | None) -> Pad | None:
    """A pad of every axis by ``(before, after)``.

    Args:
        sides: one pair an axis, from the front.
        mode: ``"constant"``, or how it repeats the input.
        fill: the constant; ``None`` if it is not known.
    """
    changed = tuple((axis, (a, b)) for axis, (a, b) in enumerate(sides) if a or b)
    if mode == "constant":
        return None if fill is None else Pad(changed, fill)
    return Pad(changed, None) if mode in _REPEATING else None
