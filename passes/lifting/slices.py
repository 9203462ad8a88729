"""Parts of a tensor along one axis: slices, and the outputs of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bnfx.passes.crossing import Dims, Identity, Movement, Select


def sliced(before: Dims, after: Dims, starts: Mapping[int, int]) -> Movement | None:
    """A slice along one axis, by steps of one; ``None`` for any other.

    Args:
        before, after: the shapes around it; they say along which axis it slices, and how far.
        starts: where it begins on each axis that it names; negative numbers count from the end.
    """
    changed = [axis for axis in range(len(before)) if before[axis] != after[axis]]
    if not changed:
        return Identity()
    axis, *others = changed
    size, count = before[axis], after[axis]
    if others or axis not in starts or not isinstance(size, int) or not isinstance(count, int):
        return None
    start = starts[axis]
    start = max(0, start + size if start < 0 else start)
    return Select(axis, start, start + count) if start + count <= size else None


def split_part(
    axis: int, index: int, sizes: Sequence[object], whole: object, keep: bool = True
) -> Select | None:
    """Part ``index`` of a split, ``None`` where sizes are not fixed.

    Parts follow one another only where their sizes add up to the whole: a split at indices that do
    not ascend has parts that overlap, and is none.

    Args:
        axis: along which it splits, counted from the front.
        sizes: of all parts.
        whole: the size of what is split.
        keep: whether parts have the axis.
    """
    known = [size for size in sizes if isinstance(size, int)]
    # Of an open size nothing is asked: that would fix it.
    if len(known) != len(sizes) or not isinstance(whole, int) or sum(known) != whole:
        return None
    start = sum(known[:index])
    return Select(axis, start, start + known[index], keep)
