"""Sums, means, softmax and normalisations."""

from __future__ import annotations

from math import prod

import torch
from tvm import relax

from bnfx.passes.relax.compat import Expr
from bnfx.tvm.ops.lowering import Lowering, OpCall, Row
from bnfx.tvm.repairs.long_sums import LONG, total


def _count(call: OpCall) -> int:
    shape = call.shape("self")
    return prod(shape[axis] for axis in call.axes("dim"))


def _sum(low: Lowering) -> Expr:
    x = low.tensor("self")
    if not low.call.value("self").dim():
        return x
    return total(low.emit, x, low.call.axes("dim"), _count(low.call), bool(low["keepdim"]))


def _mean(low: Lowering) -> Expr:
    if not low.call.value("self").dim():
        return low.tensor("self")
    return low.emit(relax.op.divide(_sum(low), low.number(_count(low.call))))


def _softmax(low: Lowering) -> Expr:
    return low.emit(relax.op.nn.softmax(low.tensor("self"), low.call.axis("dim")))


def _has_dimensions(call: OpCall) -> str | None:
    return None if call.value("self").dim() else "of no dimension"


def _is_short(call: OpCall) -> str | None:
    """TVM's softmax adds up in its own dtype, one number after the other."""
    long = call.shape("self")[call.axis("dim")] > 4 * LONG
    return f"over more than {4 * LONG} numbers" if long else None


def _normalised(low: Lowering, x: Expr, axes: list[int], count: int) -> Expr:
    """``(x - mean) / sqrt(var + eps)``, the variance being that of what is centred.

    A mean is rounded to the precision of ``x``, and ``1 / sqrt(eps)`` makes much of that where all
    of ``x`` is nearly one number: so what is centred is centred again.
    """
    centred = _centred(low, _centred(low, x, axes, count), axes, count)
    squares = low.emit(relax.op.multiply(centred, centred))
    variance = low.emit(relax.op.add(_average(low, squares, axes, count), low.number(low["eps"])))
    return low.emit(relax.op.multiply(centred, low.emit(relax.op.rsqrt(variance))))


def _centred(low: Lowering, x: Expr, axes: list[int], count: int) -> Expr:
    return low.emit(relax.op.subtract(x, _average(low, x, axes, count)))


def _average(low: Lowering, x: Expr, axes: list[int], count: int) -> Expr:
    return low.emit(relax.op.divide(total(low.emit, x, axes, count, True), low.number(count)))


def _scaled(low: Lowering, x: Expr, shape: list[int]) -> Expr:
    weight, bias = low.optional("weight"), low.optional("bias")
    if weight is not None:
        x = low.emit(relax.op.multiply(x, low.reshaped(weight, shape)))
    if bias is not None:
        x = low.emit(relax.op.add(x, low.reshaped(bias, shape)))
    return x


def _layer_norm(low: Lowering) -> tuple[Expr, ...]:
    sizes = list(map(int, low["normalized_shape"]))
    rank = low.call.value("input").dim()
    axes = list(range(rank - len(sizes), rank))
    return (_scaled(low, _normalised(low, low.tensor("input"), axes, prod(sizes)), sizes),)


def _group_norm(low: Lowering) -> tuple[Expr, ...]:
    shape = low.call.shape("input")
    groups = [shape[0], low["group"], prod(shape[1:]) // low["group"]]
    x = _normalised(low, low.reshaped(low.tensor("input"), groups), [2], groups[2])
    x = low.reshaped(x, shape)
    return (_scaled(low, x, [1, shape[1], *(1 for _ in shape[2:])]),)


def _batch_norm(low: Lowering) -> tuple[Expr, ...]:
    """With running statistics, as PyTorch computes it: ``x * scale + (bias - mean * scale)``.

    ``scale`` is ``weight / sqrt(var + eps)``.
    """
    rank = low.call.value("input").dim()
    shape = [1, low.call.shape("input")[1], *(1 for _ in range(rank - 2))]
    emit, op = low.emit, relax.op
    variance = emit(op.add(low.tensor("running_var"), low.number(low["eps"])))
    scale = emit(op.divide(low.number(1.0), emit(op.sqrt(variance))))
    weight, bias = low.optional("weight"), low.optional("bias")
    if weight is not None:
        scale = emit(op.multiply(scale, weight))
    shift = emit(op.multiply(low.tensor("running_mean"), scale))
    shift = emit(op.subtract(low.number(0.0) if bias is None else bias, shift))
    scaled = emit(op.multiply(low.tensor("input"), low.reshaped(scale, shape)))
    return (emit(op.add(scaled, low.reshaped(shift, shape))),)


def _one_result(call: OpCall) -> str | None:
    return None if call.only_first() else "with its statistics"


def _one_dtype(call: OpCall) -> str | None:
    """Half the inputs of a normalisation may be of float32: then none of it goes to TVM."""
    same = all(tensor.dtype == call.output.dtype for tensor in call.tensors())
    return None if same and call.output.dtype is not torch.float16 else "of float16"


def _in_order(call: OpCall) -> str | None:
    """Of other layouts, torch's fake tensors tell the strides of the answer wrongly."""
    return None if call.value("input").is_contiguous() else "of another layout"


ROWS = (
    Row("sum.dim_IntList", _sum),
    Row("mean.dim", _mean),
    Row("_softmax.default", _softmax, (_has_dimensions, _is_short)),
    Row("native_layer_norm.default", _layer_norm, (_one_result, _one_dtype)),
    Row("native_group_norm.default", _group_norm, (_one_result, _one_dtype, _in_order)),
    Row("_native_batch_norm_legit_no_training.default", _batch_norm, (_one_result, _one_dtype)),
)
