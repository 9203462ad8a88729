"""The larger and the smaller of numbers. NaN wins, as in PyTorch; TVM's own operators lose it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx

from bnfx.passes.relax.compat import Expr

Emit = Callable[[Expr], Expr]


def rectified(emit: Emit, x: Expr, zero: Expr) -> Expr:
    """``relu``; NaN and -0 stay."""
    return emit(relax.op.where(emit(relax.op.less(x, zero)), zero, x))


def of_two(emit: Emit, one: Expr, other: Expr, largest: bool) -> Expr:
    """``other`` where ``one`` is behind it, or where it is NaN."""
    is_behind = relax.op.less if largest else relax.op.greater
    chosen = emit(relax.op.where(emit(is_behind(one, other)), other, one))
    return emit(relax.op.where(emit(relax.op.isnan(other)), other, chosen))


def differ(emit: Emit, one: Expr, other: Expr) -> Expr:
    """Whether two numbers differ, as NaN does from every number; for TVM it equals each."""
    ordered = (emit(compare(one, other)) for compare in (relax.op.less, relax.op.greater))
    holes = (emit(relax.op.isnan(one)), emit(relax.op.isnan(other)))
    either = relax.op.logical_or
    return emit(either(emit(either(*ordered)), emit(either(*holes))))


def _reducer(largest: bool) -> Any:
    """Reduces to the largest or smallest number, or to NaN if there is one."""
    end = float("-inf") if largest else float("inf")

    def chosen(one: Any, other: Any) -> Any:
        ahead = one > other if largest else one < other
        return tirx.Select(tirx.any(ahead, tirx.isnan(one)), one, other)

    name = "largest" if largest else "smallest"
    return te.comm_reducer(chosen, lambda kind: tirx.const(end, kind), name=name)


def over_axes(data: Any, axes: Sequence[int], largest: bool) -> Any:
    """Over some axes of a tensor of ``te``; the others remain, in order, or one place of none."""
    shape, of_all = data.shape, _reducer(largest)
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    across = [te.reduce_axis((0, shape[axis]), f"k{axis}") for axis in axes]

    def at(*place: Any) -> Any:
        index: dict[int, Any] = dict(zip(axes, across, strict=True))
        index.update(zip(kept, place, strict=False))
        return of_all(data(*(index[axis] for axis in range(len(shape)))), axis=across)

    return te.compute([shape[axis] for axis in kept] or [1], at, name="reduce")


def largest_in_windows(
    data: Any,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out: Sequence[int],
) -> Any:
    """A maximum pool over the last dimensions of a tensor of ``te``.

    Windows may reach beyond them, as ``ceil_mode`` lets them: only what is inside counts.

    Args:
        padding: in front of each dimension.
        out: how many windows each dimension has.
    """
    front, sizes = list(data.shape[: -len(out)]), data.shape[-len(out) :]
    least, of_all = tirx.const(float("-inf"), data.dtype), _reducer(largest=True)
    across = [te.reduce_axis((0, size), f"k{at}") for at, size in enumerate(kernel)]

    def at(*place: Any) -> Any:
        steps = zip(place[len(front) :], stride, across, dilation, padding, strict=True)
        inner = [w * step + k * rate - before for w, step, k, rate, before in steps]
        bounds = zip(inner, sizes, strict=True)
        inside = tirx.all(*(bound for where, n in bounds for bound in (where >= 0, where < n)))
        value = tirx.if_then_else(inside, data(*place[: len(front)], *inner), least)
        return of_all(value, axis=across)

    return te.compute([*front, *out], at, name="max_pool")
