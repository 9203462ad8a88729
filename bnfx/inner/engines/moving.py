"""Rows: what moves numbers and computes none."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from bnfx.inner.engines.rows import Arguments, Row, Writer, aten, need, shape

_TO_THE_END = 2**31 - 1  # of any axis


def _same(to: Writer, node: fx.Node, a: Arguments) -> Any:
    """What copies; sizes, dtypes and memory are seen to elsewhere."""
    return to.read(a["self"])


def _convert(to: Writer, node: fx.Node, a: Arguments) -> Any:
    need(a["dtype"] in (None, torch.float32), node, "another dtype")
    return to.read(a["self"])


def _reshape(to: Writer, node: fx.Node, a: Arguments) -> Any:
    return to.reshape(to.read(a["self"]), shape(a["self"]), shape(node))


def _full(to: Writer, node: fx.Node, a: Arguments) -> Any:
    return to.ops.broadcast(to.number(a["fill_value"]), to.integers(shape(node)))


def _restride(to: Writer, node: fx.Node, a: Arguments) -> Any:
    """What a global average pool does to its result with channels last: nothing but strides."""
    before, after = a["self"].meta["val"], node.meta["val"]
    here = zip(before.shape, before.stride(), a["stride"], strict=False)
    same = tuple(before.shape) == tuple(after.shape) and all(
        one == other for size, one, other in here if size > 1
    )
    offset = a["storage_offset"]
    need(same and offset in (None, before.storage_offset()), node, "other strides")
    return to.read(a["self"])


def _expand(to: Writer, node: fx.Node, a: Arguments) -> Any:
    return to.ops.broadcast(to.read(a["self"]), to.integers(shape(node)))


def _permute(to: Writer, node: fx.Node, a: Arguments) -> Any:
    rank = len(shape(node))
    order = [axis % rank for axis in a["dims"]]
    return to.ops.transpose(to.read(a["self"]), to.integers(order))


def _transpose(to: Writer, node: fx.Node, a: Arguments) -> Any:
    rank = len(shape(node))
    order = list(range(rank))
    if "dim0" in a:
        one, other = a["dim0"] % rank, a["dim1"] % rank
        order[one], order[other] = order[other], order[one]
    else:
        order.reverse()  # aten.t
    return to.ops.transpose(to.read(a["self"]), to.integers(order))


def _cat(to: Writer, node: fx.Node, a: Arguments) -> Any:
    rank = len(shape(node))
    need(all(len(shape(each)) == rank for each in a["tensors"]), node, "empty tensors")
    return to.ops.concat([to.read(each) for each in a["tensors"]], a["dim"] % rank)


def _slice(to: Writer, node: fx.Node, a: Arguments) -> Any:
    size = shape(a["self"])
    axis = a["dim"] % len(size)
    start, end = _position(a["start"] or 0, size[axis]), a["end"]
    if end is None or end >= size[axis]:
        end = _TO_THE_END if isinstance(size[axis], torch.SymInt) else size[axis]
    else:
        end = _position(end, size[axis])
    return _cut(to, to.read(a["self"]), axis, start, end, a["step"])


def _select(to: Writer, node: fx.Node, a: Arguments) -> Any:
    size = shape(a["self"])
    axis = a["dim"] % len(size)
    at = a["index"] % size[axis]
    cut = _cut(to, to.read(a["self"]), axis, at, at + 1, 1)
    return to.ops.reshape(cut, to.integers(shape(node)), special_zero=False)


def _split(to: Writer, node: fx.Node, a: Arguments) -> Any:
    axis = a["dim"] % len(shape(a["self"]))
    parts, start = [], 0
    for each in node.meta["val"]:
        end = start + each.shape[axis]
        parts.append(_cut(to, to.read(a["self"]), axis, start, end, 1))
        start = end
    return parts


def _cut(to: Writer, x: Any, axis: int, start: int, end: int, step: int) -> Any:
    numbers = ([start], [end], [step], [axis])
    return to.ops.slice(x, *(to.integers(each) for each in numbers))


def _position(index: int, size: int) -> int:
    return max(0, min(size, index + size if index < 0 else index))


def _pad(to: Writer, node: fx.Node, a: Arguments) -> Any:
    pads, rank = a["pad"], len(shape(node))
    need(min(pads) >= 0, node, "negative padding")
    begin, end = [0] * rank, [0] * rank
    for at in range(len(pads) // 2):
        begin[rank - 1 - at], end[rank - 1 - at] = pads[2 * at], pads[2 * at + 1]
    x, value = to.read(a["self"]), to.number(a["value"])
    return to.ops.pad(x, to.integers(begin), to.integers(end), "constant", value)


ROWS: dict[Any, Row] = {
    aten.clone.default: _same,
    aten._to_copy.default: _convert,
    aten.view.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.squeeze.dim: _reshape,
    aten.unsqueeze.default: _reshape,
    aten.as_strided_.default: _restride,
    aten.expand.default: _expand,
    aten.full.default: _full,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.t.default: _transpose,
    aten.cat.default: _cat,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    aten.constant_pad_nd.default: _pad,
}
