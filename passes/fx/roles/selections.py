"""Indexing: the calls that select a part of a tensor, as movements; and how arguments are read."""

from __future__ import annotations

from typing import Any

from bnfx.passes.crossing import Chain, Dims, Identity, Movement, Reshape, Select
from bnfx.passes.fx.calls.call import Call


def axis_of(dim: Any, rank: int) -> int:
    """An axis counted from the front."""
    return int(dim) % rank


def numbers(value: Any, count: int) -> tuple[int, ...] | None:
    """``value`` as one number a dimension; ``None`` if it is computed in the graph."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not all(isinstance(number, int) for number in values):
        return None
    return values * count if len(values) == 1 else values


def narrow(call: Call, before: Dims, after: Dims) -> Movement | None:
    place = numbers(tuple(call.arguments[name] for name in ("dim", "start", "length")), 1)
    if place is None or not before:
        return None
    axis = axis_of(place[0], len(before))
    size = before[axis]
    if not isinstance(size, int):
        return None
    start = place[1] + size if place[1] < 0 else place[1]
    return Select(axis, start, start + place[2])


def select(call: Call, before: Dims, after: Dims) -> Movement | None:
    place = numbers((call.arguments["dim"], call.arguments["index"]), 1)
    if place is None or not before:
        return None
    return _indexed([(axis_of(place[0], len(before)), place[1])], before, after)


def slice_of(call: Call, before: Dims, after: Dims) -> Movement | None:
    """``aten.slice``: ``x[:, a:b]`` of one axis."""
    dim, *ends = (call.arguments[name] for name in ("dim", "start", "end", "step"))
    if not isinstance(dim, int) or not before:
        return None
    return _indexed([(axis_of(dim, len(before)), slice(*ends))], before, after)


def getitem(call: Call, before: Dims, after: Dims) -> Movement | None:
    """``x[a:b, i, ..., c:d:e, None]``: any number of slices, numbers and new axes."""
    index = call.arguments["index"]
    parts = list(index) if isinstance(index, tuple) else [index]
    if not all(part is None or part is Ellipsis or type(part) in (int, slice) for part in parts):
        return None
    if parts.count(Ellipsis) > 1:  # torch gives the others axes that there are not
        return None
    named = sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    at = parts.index(Ellipsis)
    parts[at : at + 1] = [slice(None)] * (len(before) - named)
    return _indexed(list(enumerate(part for part in parts if part is not None)), before, after)


def _indexed(parts: list[tuple[int, int | slice]], before: Dims, after: Dims) -> Movement | None:
    """One step for each axis of which a part is selected, then the new axes, if there are any."""
    steps: list[tuple[Movement, Dims]] = []
    dims = before
    for axis, part in reversed(parts):  # so that an axis that is dropped leaves the rest in place
        if part in (slice(None), slice(0, None), slice(None, None, 1), slice(0, None, 1)):
            continue
        selected = None if axis >= len(before) else _selected(axis, part, before[axis])
        if selected is None:
            return None
        count = len(selected.positions)
        if selected.keep and count == before[axis]:
            continue
        dims = (*dims[:axis], *((count,) if selected.keep else ()), *dims[axis + 1 :])
        steps.append((selected, dims))
    if dims != after:
        if [size for size in dims if size != 1] != [size for size in after if size != 1]:
            return None
        steps.append((Reshape(), after))
    if not steps:
        return Identity()
    return steps[0][0] if len(steps) == 1 else Chain(tuple(steps))


def _selected(axis: int, part: int | slice, size: int | str) -> Select | None:
    """A part of one axis, where its size and its ends are known and fixed."""
    if not isinstance(size, int):
        return None
    if isinstance(part, int):
        start = part + size if part < 0 else part
        return Select(axis, start, start + 1, keep=False)
    ends = (part.start, part.stop, part.step)
    if not all(end is None or type(end) is int for end in ends):
        return None
    start, stop, step = part.indices(size)
    return Select(axis, start, max(start, stop), step=step) if step > 0 else None
