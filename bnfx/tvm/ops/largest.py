"""The larger and the smaller of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bnfx.passes.relax.compat import Expr
from bnfx.tvm.ops.lowering import Lowering, OpCall, Row
from bnfx.tvm.repairs.with_nan import of_two, over_axes

Emit = Callable[[Lowering], Any]


def _of_two(largest: bool) -> Emit:
    return lambda low: of_two(low.emit, low.tensor("self"), low.tensor("other"), largest)


def _over(low: Lowering, largest: bool, axes: Sequence[int]) -> Expr:
    x = low.tensor("self")
    if not low.call.value("self").dim():
        return x
    found = low.builder.emit_te(lambda data: over_axes(data, axes, largest), x)
    return low.reshaped(found, low.result_shape())


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
    Row("maximum.default", _of_two(True), any_size=True),
    Row("minimum.default", _of_two(False), any_size=True),
    Row("amax.default", _over_axes(True)),
    Row("amin.default", _over_axes(False)),
    Row("max.dim", _over_axis(True), (_indices_are_unread,)),
    Row("min.dim", _over_axis(False), (_indices_are_unread,)),
    Row("max.default", _over_all(True)),
    Row("min.default", _over_all(False)),
)
