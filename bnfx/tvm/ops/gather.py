"""Indexing by tensors whose numbers are known: how PyTorch writes its resizes."""

from __future__ import annotations

import torch
from torch import fx
from tvm import relax

from bnfx.passes.relax.compat import Expr, constant
from bnfx.tvm.ops.constant_nodes import CONSTANT
from bnfx.tvm.ops.lowering import MOVABLE, Lowering, OpCall, Row


def _positions(call: OpCall) -> list[tuple[int, torch.Tensor]] | str:
    """For each indexed axis the places that are taken along it; or why there are none.

    The axes must be neighbours, and each index vary along a dimension of its own, in their order:
    then one after the other may be taken, and what is taken stands where PyTorch puts it.
    """
    taken: list[tuple[int, torch.Tensor]] = []
    sizes = call.shape("self")
    indices = [(axis, node) for axis, node in enumerate(call["indices"]) if node is not None]
    for axis, node in indices:
        value = node.meta.get(CONSTANT) if isinstance(node, fx.Node) else None
        if value is None:
            return "by numbers that are not known"
        if value.dtype not in (torch.int32, torch.int64):
            return "by a mask"
        if ((value < -sizes[axis]) | (value >= sizes[axis])).any():
            return "beyond its end"
        taken.append((axis, torch.where(value < 0, value + sizes[axis], value)))
    axes = [axis for axis, _ in taken]
    rank = max(value.dim() for _, value in taken)
    if axes != list(range(axes[0], axes[0] + len(axes))) or rank != len(taken):
        return "by several indices at once"
    for at, (_, value) in enumerate(taken):
        place = at - (rank - value.dim())
        others = [size for dim, size in enumerate(value.shape) if dim != place]
        if place < 0 or any(size != 1 for size in others):
            return "by several indices at once"
    return [(axis, value.reshape(-1)) for axis, value in taken]


def _check(call: OpCall) -> str | None:
    positions = _positions(call)
    return positions if isinstance(positions, str) else None


def _index(low: Lowering) -> Expr:
    positions = _positions(low.call)
    assert not isinstance(positions, str)
    x = low.tensor("self")
    for axis, places in positions:
        x = low.emit(relax.op.take(x, constant(places.numpy()), axis, "clip"))
    return x


class _Gather(Row):
    """The indices are of another dtype than what is indexed."""

    def refusal(self, call: OpCall) -> str | None:
        dtype = call.output.dtype
        if dtype not in self.dtypes or call.value("self").dtype != dtype:
            return f"of {str(dtype).removeprefix('torch.')}"
        if not call.value("self").numel() or not call.output.numel():
            return "of no elements"
        return _check(call)


ROWS = tuple(
    _Gather(op, _index, (), MOVABLE, moves=True) for op in ("index.Tensor", "_unsafe_index.Tensor")
)
