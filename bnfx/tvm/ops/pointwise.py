"""Element by element.

Comparisons choose between two numbers and never meet ``maximum`` or ``minimum``, which lose NaN in
TVM: ``where(x < low, low, x)`` keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from tvm import relax

from bnfx.passes.relax.compat import Expr
from bnfx.tvm.ops.lowering import Lowering, OpCall, Row
from bnfx.tvm.repairs.with_nan import rectified

_NAMES = ("multiply", "add", "subtract", "divide")
_mul, _add, _sub, _div = (getattr(relax.op, name) for name in _NAMES)


def _numbers(*names: str) -> Callable[[OpCall], str | None]:
    """Whether what is no tensor is a plain number."""

    def check(call: OpCall) -> str | None:
        odd = (name for name in names if isinstance(call[name], (bool, complex)))
        return next((f"with {name}={call[name]}" for name in odd), None)

    return check


def _alpha(call: OpCall) -> str | None:
    if call["alpha"] != 1 and call.output.dtype is torch.float16:
        return "with alpha, of float16"  # which PyTorch rounds first
    return _numbers("alpha")(call)


def _two_operands(call: OpCall) -> str | None:
    """``x - x`` and ``x / x`` are known beforehand, TVM takes it, but for NaN and infinity."""
    return "of a tensor and itself" if call["self"] is call["other"] else None


def _binary(op: Callable[[Expr, Expr], Expr]) -> Callable[[Lowering], Expr]:
    def emit(low: Lowering) -> Expr:
        other = low.operand("other")
        alpha = low.call.arguments.get("alpha", 1)
        if alpha != 1:
            other = low.emit(_mul(other, low.number(alpha)))
        return low.emit(op(low.tensor("self"), other))

    return emit


def _unary(op: Callable[[Expr], Expr]) -> Callable[[Lowering], Expr]:
    return lambda low: low.emit(op(low.tensor("self")))


def clamped(low: Lowering, x: Expr, least: float | None, most: float | None) -> Expr:
    """``min(max(x, least), most)``; NaN stays."""
    for bound, outside in ((least, relax.op.less), (most, relax.op.greater)):
        if bound is not None:
            number = low.number(bound)
            x = low.emit(relax.op.where(low.emit(outside(x, number)), number, x))
    return x


def _clamp(least: str | float | None, most: str | float | None) -> Callable[[Lowering], Expr]:
    """Bounds are numbers, or the names of arguments."""

    def emit(low: Lowering) -> Expr:
        bounds = [low[bound] if isinstance(bound, str) else bound for bound in (least, most)]
        return clamped(low, low.tensor("self"), bounds[0], bounds[1])

    return emit


def _bounds_are_numbers(call: OpCall) -> str | None:
    bounds = [call.arguments.get(name) for name in ("min", "max", "min_val", "max_val")]
    return "with NaN as a bound" if any(b is not None and math.isnan(b) for b in bounds) else None


def _exp_of_minus(low: Lowering, x: Expr) -> Expr:
    return low.emit(relax.op.exp(low.emit(relax.op.negative(x))))


def _logistic(low: Lowering, x: Expr) -> Expr:
    """``1 + exp(-x)``."""
    return low.emit(_add(low.number(1.0), _exp_of_minus(low, x)))


def _sigmoid(low: Lowering) -> Expr:
    return low.emit(_div(low.number(1.0), _logistic(low, low.tensor("self"))))


def _silu(low: Lowering) -> Expr:
    x = low.tensor("self")
    return low.emit(_div(x, _logistic(low, x)))


def _sixth(low: Lowering, x: Expr) -> Expr:
    """``clamp(x + 3, 0, 6)``."""
    return clamped(low, low.emit(_add(x, low.number(3.0))), 0.0, 6.0)


def _hardsigmoid(low: Lowering) -> Expr:
    return low.emit(_div(_sixth(low, low.tensor("self")), low.number(6.0)))


def _hardswish(low: Lowering) -> Expr:
    x = low.tensor("self")
    return low.emit(_div(low.emit(_mul(x, _sixth(low, x))), low.number(6.0)))


def _leaky_relu(low: Lowering) -> Expr:
    x = low.tensor("self")
    scaled = low.emit(_mul(x, low.number(low["negative_slope"])))
    positive = low.emit(relax.op.greater(x, low.number(0.0)))
    return low.emit(relax.op.where(positive, x, scaled))


def _elu(low: Lowering) -> Expr:
    """``scale * alpha * expm1(input_scale * x)`` where negative, ``scale * x`` elsewhere."""
    x, scale = low.tensor("self"), low["scale"]
    below = _expm1(low, low.emit(_mul(x, low.number(low["input_scale"]))))
    below = low.emit(_mul(below, low.number(low["alpha"] * scale)))
    above = low.emit(_mul(x, low.number(scale)))
    return low.emit(relax.op.where(low.emit(relax.op.less(x, low.number(0.0))), below, above))


def _expm1(low: Lowering, x: Expr) -> Expr:
    """``exp(x) - 1`` below 0, by Kahan's ``(e - 1) * x / log(e)`` with ``e = exp(x)``."""
    one, e = low.number(1.0), low.emit(relax.op.exp(x))
    less = low.emit(_sub(e, one))
    exact = low.emit(_div(low.emit(_mul(less, x)), low.emit(relax.op.log(e))))
    far = low.emit(relax.op.less(x, low.number(-20.0)))  # the logarithm of 0 is infinite
    exact = low.emit(relax.op.where(far, less, exact))
    return low.emit(relax.op.where(low.emit(relax.op.equal(e, one)), x, exact))


def _gelu(low: Lowering) -> Expr:
    x = low.tensor("self")
    half = low.emit(_mul(x, low.number(0.5)))
    if low["approximate"] == "tanh":
        square = low.emit(_mul(x, x))
        factor = low.emit(_add(low.number(1.0), low.emit(_mul(square, low.number(0.044715)))))
        inside = low.emit(_mul(x, low.number(math.sqrt(2 / math.pi))))
        curve = low.emit(relax.op.tanh(low.emit(_mul(inside, factor))))
    else:
        curve = low.emit(relax.op.erf(low.emit(_mul(x, low.number(math.sqrt(0.5))))))
    return low.emit(_mul(half, low.emit(_add(low.number(1.0), curve))))


def _tanh(low: Lowering) -> Expr:
    """-0 stays; TVM's own makes it 0. In float64, that has no digits right for small numbers.

    There it is ``-e / (e + 2)`` of ``|x|``, with ``e = expm1(-2 * |x|)``.
    """
    x, zero = low.tensor("self"), low.number(0.0)
    if low.dtype == "float64":
        size = low.emit(relax.op.abs(x))
        e = _expm1(low, low.emit(_mul(size, low.number(-2.0))))
        size = low.emit(_div(e, low.emit(_add(e, low.number(2.0)))))  # with the sign of -x
        negative = low.emit(relax.op.less(x, zero))
        curve = low.emit(relax.op.where(negative, size, low.emit(relax.op.negative(size))))
    else:
        curve = low.emit(relax.op.tanh(x))
    return low.emit(relax.op.where(low.emit(relax.op.equal(x, zero)), x, curve))


def _square(low: Lowering) -> Expr:
    x = low.tensor("self")
    return low.emit(_mul(x, x))


def _is_square(call: OpCall) -> str | None:
    return None if call["exponent"] == 2 else f"with exponent={call['exponent']}"


_ROWS = (
    Row("add.Tensor", _binary(_add), (_alpha, _numbers("other"))),
    Row("sub.Tensor", _binary(_sub), (_alpha, _numbers("other"), _two_operands)),
    Row("mul.Tensor", _binary(_mul), (_numbers("other"),)),
    Row("div.Tensor", _binary(_div), (_numbers("other"), _two_operands)),
    Row("neg.default", _unary(relax.op.negative)),
    Row("abs.default", _unary(relax.op.abs)),
    Row("exp.default", _unary(relax.op.exp)),
    Row("sqrt.default", _unary(relax.op.sqrt)),
    Row("rsqrt.default", _unary(relax.op.rsqrt)),
    Row("reciprocal.default", lambda low: low.emit(_div(low.number(1.0), low.tensor("self")))),
    Row("tanh.default", _tanh),
    Row("erf.default", _unary(relax.op.erf)),
    Row("pow.Tensor_Scalar", _square, (_is_square,)),
    Row("sigmoid.default", _sigmoid),
    Row("silu.default", _silu),
    Row("gelu.default", _gelu),
    Row("hardsigmoid.default", _hardsigmoid),
    Row("hardswish.default", _hardswish),
    Row("leaky_relu.default", _leaky_relu, (_numbers("negative_slope"),)),
    Row("elu.default", _elu, (_numbers("alpha", "scale", "input_scale"),)),
    Row("relu.default", lambda low: rectified(low.emit, low.tensor("self"), low.number(0.0))),
    Row("hardtanh.default", _clamp("min_val", "max_val"), (_bounds_are_numbers,)),
    Row("clamp.default", _clamp("min", "max"), (_bounds_are_numbers,)),
    Row("clamp_min.default", _clamp("min", None), (_bounds_are_numbers,)),
    Row("clamp_max.default", _clamp(None, "max"), (_bounds_are_numbers,)),
)

ROWS = tuple(replace(row, any_size=True) for row in _ROWS)
