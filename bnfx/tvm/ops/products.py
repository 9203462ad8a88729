"""Convolutions and matrix products. TVM's importer makes each of them float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from bnfx.passes.relax.compat import Expr
from bnfx.tvm.ops.lowering import Check, Lowering, OpCall, Row

CONVS = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}
TRANSPOSED = {
    1: relax.op.nn.conv1d_transpose,
    2: relax.op.nn.conv2d_transpose,
    3: relax.op.nn.conv3d_transpose,
}


def spread(values: Sequence[int], count: int) -> list[int]:
    """One number for each dimension; torch may give one for all."""
    return list(values) * count if len(values) == 1 else list(values)


def _convolution(low: Lowering) -> Expr:
    spatial = low.call.value("weight").dim() - 2
    arguments: dict[str, Any] = {
        "strides": spread(low["stride"], spatial),
        "padding": spread(low["padding"], spatial),
        "dilation": spread(low["dilation"], spatial),
        "groups": low["groups"],
    }
    if low["transposed"]:
        arguments["output_padding"] = spread(low["output_padding"], spatial)
    op = (TRANSPOSED if low["transposed"] else CONVS)[spatial]
    result = low.emit(op(low.tensor("input"), low.tensor("weight"), **arguments))
    bias = low.optional("bias")
    if bias is None:
        return result
    bias = low.reshaped(bias, [1, -1, *(1 for _ in range(spatial))])
    return low.emit(relax.op.add(result, bias))


def _known_rank(call: OpCall) -> str | None:
    spatial = call.value("weight").dim() - 2
    if spatial not in CONVS or call.value("input").dim() != spatial + 2:
        return f"of {spatial} dimensions"
    if any(width < 0 for width in call["padding"]):
        return "with a negative padding"
    return None


def _not_odd(call: OpCall) -> str | None:
    """Transposed: what TVM's kernels have in common for one to three dimensions."""
    if not call["transposed"]:
        return None
    if call["groups"] != 1 and call.value("weight").dim() != 4:
        return "transposed with groups"
    if any(rate != 1 for rate in call["dilation"]):
        return "transposed and dilated"
    spatial = call.value("weight").dim() - 2
    strides, extra = spread(call["stride"], spatial), spread(call["output_padding"], spatial)
    if any(more >= stride for more, stride in zip(extra, strides, strict=True)):
        return "transposed with an output padding as large as the stride"
    return None


def _product(first: str, second: str) -> Any:
    return lambda low: low.emit(relax.op.matmul(low.tensor(first), low.tensor(second)))


def _sum_with_product(low: Lowering) -> Expr:
    """``beta * self + alpha * (mat1 @ mat2)``."""
    product = low.emit(relax.op.matmul(low.tensor("mat1"), low.tensor("mat2")))
    if low["alpha"] != 1:
        product = low.emit(relax.op.multiply(product, low.number(low["alpha"])))
    summand = low.tensor("self")
    if low["beta"] != 1:
        summand = low.emit(relax.op.multiply(summand, low.number(low["beta"])))
    return low.emit(relax.op.add(summand, product))


def _factors_are_not_zero(call: OpCall) -> str | None:
    """By 0, PyTorch multiplies nothing: NaN is not to show then."""
    zero = (name for name in ("beta", "alpha") if call.vanishes(call[name]))
    return next((f"with {name}=0" for name in zero), None)


LONGEST = 2**14


def _is_short(factor: str) -> Check:
    """TVM adds up one product after the other, and what is rounded off grows with their number."""

    def check(call: OpCall) -> str | None:
        long = call.shape(factor)[-1] > LONGEST
        return f"a sum of more than {LONGEST} products" if long else None

    return check


ROWS = (
    Row("convolution.default", _convolution, (_known_rank, _not_odd)),
    Row("mm.default", _product("self", "mat2"), (_is_short("self"),)),
    Row("bmm.default", _product("self", "mat2"), (_is_short("self"),)),
    Row("addmm.default", _sum_with_product, (_factors_are_not_zero, _is_short("mat1"))),
)
