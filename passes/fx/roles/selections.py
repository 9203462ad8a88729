"""Indexing: the calls that select a part of a tensor, as movements; and how arguments are read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bnfx.passes.crossing import Dims, Movement, Reshape, Select
from bnfx.passes.fx.calls.call import Call


def axis_of(dim: Any, rank: int) -> int:
    """An axis counted from the front."""
    return int(dim) % rank if rank else 0


def numbers(value: Any, count: int) -> tuple[int, ...] | None:
    """``value`` as one number a dimension; ``None`` if it is computed in the graph."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not all(isinstance(number, int) for number in values):
        return None
    return values * count if len(values) == 1 else values


def narrow(call: Call, before: Dims, after: Dims) -> Movement | None:
    place = numbers(tuple(call.arguments[name] for name in ("dim", "start", "length")), 1)
    if place is None:
        return None
    axis = axis_of(place[0], len(before))
    size = before[axis]
    if not isinstance(size, int):
        return None
    start = place[1] + size if place[1] < 0 else place[1]
    return Select(axis, start, start + place[2])


def select(call: Call, before: Dims, after: Dims) -> Movement | None:
    place = numbers((call.arguments["dim"], call.arguments["index"]), 1)
    if place is None:
        return None
    return select_at(before, axis_of(place[0], len(before)), place[1])


def select_at(before: Dims, axis: int, index: int) -> Select | None:
    """Position ``index`` of ``axis``, which disappears."""
    size = before[axis]
    if not isinstance(size, int):
        return None
    start = index + size if index < 0 else index
    return Select(axis, start, start + 1, keep=False)


def slice_of(call: Call, before: Dims, after: Dims) -> Movement | None:
    """``aten.slice``: ``x[:, a:b]`` of one axis."""
    dim, start, end, step = (call.arguments[name] for name in ("dim", "start", "end", "step"))
    if not isinstance(dim, int) or not before:
        return None
    part = slice(start, end, step)
    index = (*(slice(None),) * axis_of(dim, len(before)), part)
    return getitem(replace(call, arguments={"index": index}), before, after)


def getitem(call: Call, before: Dims, after: Dims) -> Movement | None:
    """``x[:, a:b]``, ``x[:, i]``, ``x[:, None]``: one axis at most, and steps of one."""
    index = call.arguments["index"]
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        named = sum(part is not None for part in parts) - 1
        parts[at : at + 1] = [slice(None)] * (len(before) - named)
    if all(part is None or part == slice(None) for part in parts):
        return Reshape()
    if None in parts:
        return None
    chosen = [(axis, part) for axis, part in enumerate(parts) if part != slice(None)]
    if len(chosen) != 1:
        return None
    ((axis, part),) = chosen
    size = before[axis] if axis < len(before) else None
    if not isinstance(size, int):
        return None
    if isinstance(part, int) and not isinstance(part, bool):
        return select_at(before, axis, part)
    if not isinstance(part, slice) or part.step not in (None, 1):
        return None
    if not all(end is None or isinstance(end, int) for end in (part.start, part.stop)):
        return None
    start, stop, _ = part.indices(size)
    return Select(axis, start, max(start, stop))
