"""Pools of two dimensions, by loops of our own where TVM's lose NaN or infinity."""

from __future__ import annotations

from typing import Any

from torch import fx
from tvm import relax

from bnfx.passes.relax.compat import Expr
from bnfx.tvm.ops.lowering import Lowering, OpCall, Row
from bnfx.tvm.ops.products import spread
from bnfx.tvm.repairs.with_nan import largest_in_windows


def state_strides(graph: fx.Graph) -> None:
    """A pool's empty stride is its window; TVM's importer fails where a dilation is behind it."""
    for node in graph.nodes:
        name = getattr(node.target, "__name__", "")
        if name.startswith(("max_pool", "avg_pool")) and len(node.args) > 2 and not node.args[2]:
            node.update_arg(2, node.args[1])


def _window(call: OpCall) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, stride, padding and dilation, one number for each of two dimensions."""
    kernel = spread(call["kernel_size"], 2)
    stride = spread(call["stride"], 2) if call["stride"] else kernel
    dilation = spread(call.arguments.get("dilation", [1]), 2)
    return kernel, stride, spread(call["padding"], 2), dilation


def _max_pool(low: Lowering) -> tuple[Expr, ...]:
    """Windows may reach beyond the image, as ``ceil_mode`` lets them: only what is in it counts."""
    kernel, stride, padding, dilation = _window(low.call)
    out = low.result_shape()[-2:]

    def pool(x: Any) -> Any:
        return largest_in_windows(x, kernel, stride, padding, dilation, out)

    return (low.builder.emit_te(pool, low.tensor("self")),)


def _indices_are_unread(call: OpCall) -> str | None:
    return None if call.only_first() else "with its indices"


def _avg_pool(low: Lowering) -> Expr:
    kernel, stride, padding, _ = _window(low.call)
    return _averaged(low, kernel, stride, padding, bool(low["count_include_pad"]))


def _averaged(
    low: Lowering, kernel: list[int], stride: list[int], padding: list[int], counts: bool
) -> Expr:
    shape = low.call.shape("self")
    x = low.tensor("self")
    if len(shape) == 3:
        x = low.reshaped(x, [1, *shape])
    pooled = low.emit(relax.op.nn.avg_pool2d(x, kernel, stride, padding, count_include_pad=counts))
    return low.reshaped(pooled, low.result_shape()) if len(shape) == 3 else pooled


def _plain_average(call: OpCall) -> str | None:
    if call["divisor_override"] is not None:
        return "with divisor_override"
    kernel, stride, padding, _ = _window(call)
    for size, k, s, p in zip(call.shape("self")[-2:], kernel, stride, padding, strict=True):
        if call["ceil_mode"] and (size + 2 * p - k) % s:
            return "with ceil_mode"
    return None


def _adaptive(low: Lowering) -> Expr:
    sizes = low.call.shape("self")[-2:]
    window = [size // out for size, out in zip(sizes, low.result_shape()[-2:], strict=True)]
    return _averaged(low, window, window, [0, 0], True)


def _even_windows(call: OpCall) -> str | None:
    sizes, out = call.shape("self")[-2:], call.output.shape[-2:]
    if any(size % target for size, target in zip(sizes, out, strict=True)):
        return "with windows of several sizes"
    return None


ROWS = (
    Row("max_pool2d_with_indices.default", _max_pool, (_indices_are_unread,)),
    Row("avg_pool2d.default", _avg_pool, (_plain_average,)),
    Row("_adaptive_avg_pool2d.default", _adaptive, (_even_windows,)),
)
