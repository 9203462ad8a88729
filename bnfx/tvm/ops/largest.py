"""The larger and the smaller of numbers. NaN wins, as in PyTorch; TVM's own operators lose it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx

from bnfx.passes.relax.compat import Expr
from bnfx.tvm.ops.lowering import Lowering, OpCall, Row

Emit = Callable[[Lowering], Any]


def reducer(largest: bool) -> Any:
    """Reduces to the largest or smallest number, or to NaN if there is one."""
    end = float("-inf") if largest else float("inf")

    def chosen(one: Any, other: Any) -> Any:
        ahead = one > other if largest else one < other
        return tirx.Select(tirx.any(ahead, tirx.isnan(one)), one, other)

    name = "largest" if largest else "smallest"
    return te.comm_reducer(chosen, lambda kind: tirx.const(end, kind), name=name)


def _of_two(is_behind: Callable[[Expr, Expr], Expr]) -> Emit:
    """``other`` where ``self`` is behind it, or where it is NaN."""

    def emit(low: Lowering) -> Expr:
        one, other = low.tensor("self"), low.tensor("other")
        chosen = low.emit(relax.op.where(low.emit(is_behind(one, other)), other, one))
        return low.emit(relax.op.where(low.emit(relax.op.isnan(other)), other, chosen))

    return emit


def _over(low: Lowering, largest: bool, axes: Sequence[int]) -> Expr:
    """Over some axes, by a loop of our own."""
    x = low.tensor("self")
    if not low.call.value("self").dim():
        return x
    shape = low.call.shape("self")
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    of_largest = reducer(largest)

    def reduce(data: Any) -> Any:
        across = [te.reduce_axis((0, shape[axis]), f"k{axis}") for axis in axes]

        def at(*place: Any) -> Any:
            index: dict[int, Any] = dict(zip(axes, across, strict=True))
            index.update(zip(kept, place, strict=False))  # one place more where none are kept
            return of_largest(data(*(index[axis] for axis in range(len(shape)))), axis=across)

        return te.compute([shape[axis] for axis in kept] or [1], at, name="reduce")

    return low.reshaped(low.builder.emit_te(reduce, x), low.result_shape())


def _over_axes(largest: bool) -> Emit:
    return lambda low: _over(low, largest, sorted(low.call.axes("dim")))


def _over_axis(largest: bool) -> Emit:
    """With indices, which nobody reads."""

    def emit(low: Lowering) -> tuple[Expr, ...]:
        rank = low.call.value("self").dim()
        return (_over(low, largest, [low.call.axis("dim")] if rank else []),)

    return emit


def _over_all(largest: bool) -> Emit:
    return lambda low: _over(low, largest, range(low.call.value("self").dim()))


def _indices_are_unread(call: OpCall) -> str | None:
    return None if call.only_first() else "with its indices"


ROWS = (
    Row("maximum.default", _of_two(relax.op.less), any_size=True),
    Row("minimum.default", _of_two(relax.op.greater), any_size=True),
    Row("amax.default", _over_axes(True)),
    Row("amin.default", _over_axes(False)),
    Row("max.dim", _over_axis(True), (_indices_are_unread,)),
    Row("min.dim", _over_axis(False), (_indices_are_unread,)),
    Row("max.default", _over_all(True)),
    Row("min.default", _over_all(False)),
)
