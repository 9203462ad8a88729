"""What computes nothing: views, slices, pieces, joins, copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tvm import relax

from bnfx.passes.relax.compat import Expr
from bnfx.tvm.ops.lowering import FLOATS, MOVABLE, Lowering, OpCall, Row


def _reshape(low: Lowering) -> Expr:
    """In order of the logical elements, so strides do not matter."""
    return low.reshaped(low.tensor("self"), low.result_shape())


def _permute(axes: Callable[[OpCall], Sequence[int]]) -> Callable[[Lowering], Expr]:
    def emit(low: Lowering) -> Expr:
        order = list(axes(low.call))
        if order == sorted(order):
            return low.tensor("self")
        return low.emit(relax.op.permute_dims(low.tensor("self"), order))

    return emit


def _swapped(call: OpCall) -> list[int]:
    order = list(range(call.value("self").dim()))
    if len(order) < 2:  # torch.t of a vector
        return order
    one, other = (call.axis("dim0"), call.axis("dim1")) if "dim0" in call.arguments else (0, 1)
    order[one], order[other] = order[other], order[one]
    return order


def _rank_is_positive(call: OpCall) -> str | None:
    return None if call.value("self").dim() else "of no dimension"


def _expand(low: Lowering) -> Expr:
    return low.emit(relax.op.broadcast_to(low.tensor("self"), low.result_shape()))


def _sliced(low: Lowering, x: Expr, axis: int, start: int, end: int, step: int = 1) -> Expr:
    return low.emit(relax.op.strided_slice(x, [axis], [start], [end], [step]))


def _slice(low: Lowering) -> Expr:
    axis = low.call.axis("dim")
    size = low.call.shape("self")[axis]
    start, end, step = slice(low["start"], low["end"], low["step"]).indices(size)
    return _sliced(low, low.tensor("self"), axis, start, end, step)


def _select(low: Lowering) -> Expr:
    axis = low.call.axis("dim")
    at = low["index"] % low.call.shape("self")[axis]
    return low.reshaped(_sliced(low, low.tensor("self"), axis, at, at + 1), low.result_shape())


def _pieces(low: Lowering) -> tuple[Expr, ...]:
    """Of ``split``, ``split_with_sizes`` and ``unbind``: the results say how large."""
    axis, x, start = low.call.axis("dim"), low.tensor("self"), 0
    pieces = []
    for piece in low.call.result:
        unbound = piece.dim() < low.call.value("self").dim()
        size = 1 if unbound else int(piece.shape[axis])
        part = _sliced(low, x, axis, start, start + size)
        pieces.append(low.reshaped(part, list(map(int, piece.shape))) if unbound else part)
        start += size
    return tuple(pieces)


def _no_piece_is_empty(call: OpCall) -> str | None:
    return None if all(piece.numel() for piece in call.result) else "of no elements"


def _cat(low: Lowering) -> Expr:
    axis = int(low["dim"]) % low.call.output.dim()
    return low.emit(relax.op.concat([low.read(node) for node in low["tensors"]], axis))


def _stack(low: Lowering) -> Expr:
    shape = low.result_shape()
    axis = int(low["dim"]) % len(shape)
    shape[axis] = 1
    parts = [low.reshaped(low.read(node), shape) for node in low["tensors"]]
    return low.emit(relax.op.concat(parts, axis))


def _pad(low: Lowering) -> Expr:
    pad, rank = low["pad"], low.call.value("self").dim()
    widths = [0] * (2 * rank)
    for at in range(len(pad) // 2):  # from the last dimension on
        axis = rank - 1 - at
        widths[2 * axis : 2 * axis + 2] = pad[2 * at : 2 * at + 2]
    return low.emit(relax.op.nn.pad(low.tensor("self"), widths, "constant", float(low["value"])))


def _grows(call: OpCall) -> str | None:
    return "with a negative pad" if any(width < 0 for width in call["pad"]) else None


def _same(low: Lowering) -> Any:
    return low.tensor("self")


def _plain_copy(call: OpCall) -> str | None:
    given = (call.arguments.get("device"), call.arguments.get("layout"))
    if given[0] is not None and torch.device(given[0]) != call.value("self").device:
        return "to another device"
    return "to another layout" if given[1] not in (None, torch.strided) else None


_VIEWS: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("view.default", _reshape, ()),
    ("_unsafe_view.default", _reshape, ()),
    ("squeeze.dim", _reshape, ()),
    ("squeeze.dims", _reshape, ()),
    ("squeeze.default", _reshape, ()),
    ("unsqueeze.default", _reshape, ()),
    ("permute.default", _permute(lambda call: call.axes("dims")), (_rank_is_positive,)),
    ("transpose.int", _permute(_swapped), (_rank_is_positive,)),
    ("t.default", _permute(_swapped), (_rank_is_positive,)),
    ("expand.default", _expand, (_rank_is_positive,)),
    ("slice.Tensor", _slice, ()),
    ("select.int", _select, ()),
    ("split.Tensor", _pieces, (_no_piece_is_empty,)),
    ("split_with_sizes.default", _pieces, (_no_piece_is_empty,)),
    ("unbind.int", _pieces, ()),
    ("alias.default", _same, ()),
    ("cat.default", _cat, ()),
    ("stack.default", _stack, ()),
    ("clone.default", _same, ()),
    ("_to_copy.default", _same, (_plain_copy,)),
)

ROWS = (
    *(Row(op, emit, checks, MOVABLE, moves=True) for op, emit, checks in _VIEWS),
    Row("constant_pad_nd.default", _pad, (_rank_is_positive, _grows), FLOATS, moves=True),
)
