"""Depth to space and back: pixel_shuffle, pixel_unshuffle, and what other IRs call them."""

from __future__ import annotations

from bnfx.passes.crossing import Chain, Dims, Permute, Reshape


def depth_to_space(
    before: Dims, after: Dims, block: int, columns_first: bool, last: bool
) -> Chain | None:
    """``(N, C, H, W)`` to ``(N, C / block^2, H block, W block)``.

    Args:
        columns_first: whether the depth of one place is ``(C, block, block)``, as in PyTorch's
            pixel_shuffle, rather than ``(block, block, C)``.
        last: whether channels are last.
    """
    deep, wide = _axes(columns_first, last)
    return _rearranged(before, after, deep, wide, _sizes(before, after, block, last))


def space_to_depth(
    before: Dims, after: Dims, block: int, columns_first: bool, last: bool
) -> Chain | None:
    """The inverse of :func:`depth_to_space`."""
    deep, wide = _axes(columns_first, last)
    return _rearranged(before, after, wide, deep, _sizes(after, before, block, last))


def _axes(columns_first: bool, last: bool) -> tuple[str, str]:
    """The axes of the deep and of the wide tensor; i and j are rows and columns in a block."""
    depth = "cij" if columns_first else "ijc"
    return (f"nhw{depth}", "nhiwjc") if last else (f"n{depth}hw", "nchiwj")


def _sizes(deep: Dims, wide: Dims, block: int, last: bool) -> dict[str, int | str] | None:
    if len(deep) != 4 or len(wide) != 4:
        return None
    n, h, w = (deep[axis] for axis in ((0, 1, 2) if last else (0, 2, 3)))
    return {"n": n, "h": h, "w": w, "i": block, "j": block, "c": wide[3 if last else 1]}


def _rearranged(
    before: Dims, after: Dims, source: str, target: str, sizes: dict[str, int | str] | None
) -> Chain | None:
    if sizes is None:
        return None
    order = tuple(map(source.index, target))
    split, middle = (tuple(sizes[axis] for axis in axes) for axes in (source, target))
    return Chain(((Reshape(), split), (Permute(order), middle), (Reshape(), after)))
