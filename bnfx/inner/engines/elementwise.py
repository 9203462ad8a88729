"""Rows: arithmetic, activations, reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from bnfx.inner.engines.rows import Arguments, Row, Writer, aten, need, shape


def _unary(name: str) -> Row:
    def row(to: Writer, node: fx.Node, a: Arguments) -> Any:
        return getattr(to.ops, name)(to.read(a["self"]))

    return row


def _binary(name: str) -> Row:
    def row(to: Writer, node: fx.Node, a: Arguments) -> Any:
        need(a.get("rounding_mode") is None, node, "rounding")
        other = to.read(a["other"])
        if a.get("alpha", 1) != 1:
            other = to.ops.multiply(other, to.number(a["alpha"]))
        return getattr(to.ops, name)(to.read(a["self"]), other)

    return row


def _add(to: Writer, node: fx.Node, a: Arguments) -> Any:
    scaled, shift = a["self"], a["other"]
    if a["alpha"] == 1 and _is_per_channel(shift, node) and _is_scaled_once(scaled):
        x, scale = scaled.args
        if _is_per_channel(x, node):
            x, scale = scale, x
        if _is_per_channel(scale, node) and shape(x) == shape(node):
            return _affine(to, x, scale, shift)
    return _binary("add")(to, node, a)


def _is_scaled_once(value: Any) -> bool:
    """Whether it is a product that nothing else reads."""
    return isinstance(value, fx.Node) and value.target is aten.mul.Tensor and len(value.users) == 1


def _is_per_channel(value: Any, of: fx.Node) -> bool:
    """Whether it is a weight with a number for each channel of a batch of images."""
    if not isinstance(value, fx.Node) or value.op != "get_attr" or len(shape(of)) != 4:
        return False
    return shape(value)[-3:] == (shape(of)[1], 1, 1) and shape(value)[:-3] in ((), (1,))


def _affine(to: Writer, x: fx.Node, scale: fx.Node, shift: fx.Node) -> Any:
    """``scale * x + shift`` as one operator, a BatchNorm of mean 0 and variance 1: ONNX Runtime
    leaves its layout of blocks for an addition by itself.
    """
    gamma, beta = (each.meta["val"].detach().reshape(-1) for each in (scale, shift))
    mean, variance = torch.zeros_like(gamma), torch.ones_like(gamma)
    weights = map(to.tensor, (gamma, beta, mean, variance))
    return to.ops.batch_norm_inference(to.read(x), *weights, 0.0)


def _reverse_subtract(to: Writer, node: fx.Node, a: Arguments) -> Any:
    need(a["alpha"] == 1, node, "a factor")
    return to.ops.subtract(to.read(a["other"]), to.read(a["self"]))


def _clamp(to: Writer, node: fx.Node, a: Arguments) -> Any:
    low, high = (
        a.get(key) for key in (("min_val", "max_val") if "min_val" in a else ("min", "max"))
    )
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    need(low <= high, node, "limits that cross")
    y = to.read(a["self"])
    if low > -math.inf and high < math.inf:
        return to.ops.clamp(y, float(low), float(high))
    if low > -math.inf:
        return to.ops.maximum(y, to.number(low))
    return to.ops.minimum(y, to.number(high)) if high < math.inf else y


def _gelu(to: Writer, node: fx.Node, a: Arguments) -> Any:
    return to.ops.gelu(to.read(a["self"]), "tanh" if a["approximate"] == "tanh" else "erf")


def _leaky_relu(to: Writer, node: fx.Node, a: Arguments) -> Any:
    return to.ops.prelu(to.read(a["self"]), to.number(a["negative_slope"]))


def _elu(to: Writer, node: fx.Node, a: Arguments) -> Any:
    need(a["scale"] == 1 and a["input_scale"] == 1 and a["alpha"] > 0, node, "factors")
    return to.ops.elu(to.read(a["self"]), float(a["alpha"]))


def _softmax(to: Writer, node: fx.Node, a: Arguments) -> Any:
    return to.ops.softmax(to.read(a["self"]), a["dim"] % len(shape(node)))


def _reduce(name: str) -> Callable[[Writer, fx.Node, Arguments], Any]:
    def row(to: Writer, node: fx.Node, a: Arguments) -> Any:
        need(a.get("dtype") is None, node, "a dtype")
        rank = len(shape(a["self"]))
        axes = a["dim"] if a["dim"] else list(range(rank))
        write = getattr(to.ops, name)
        return write(to.read(a["self"]), to.integers([axis % rank for axis in axes]), a["keepdim"])

    return row


ROWS: dict[Any, Row] = {
    aten.relu.default: _unary("relu"),
    aten.sigmoid.default: _unary("sigmoid"),
    aten.tanh.default: _unary("tanh"),
    aten.abs.default: _unary("abs"),
    aten.neg.default: _unary("negative"),
    aten.exp.default: _unary("exp"),
    aten.sqrt.default: _unary("sqrt"),
    aten.silu.default: _unary("swish"),
    aten.hardswish.default: _unary("hswish"),
    aten.hardsigmoid.default: _unary("hsigmoid"),
    aten.mish.default: _unary("mish"),
    aten.gelu.default: _gelu,
    aten.elu.default: _elu,
    aten.leaky_relu.default: _leaky_relu,
    aten.hardtanh.default: _clamp,
    aten.clamp.default: _clamp,
    aten.add.Tensor: _add,
    aten.sub.Tensor: _binary("subtract"),
    aten.rsub.Scalar: _reverse_subtract,
    aten.mul.Tensor: _binary("multiply"),
    aten.div.Tensor: _binary("divide"),
    aten._softmax.default: _softmax,
    aten.mean.dim: _reduce("reduce_mean"),
    aten.sum.dim_IntList: _reduce("reduce_sum"),
    aten.amax.default: _reduce("reduce_max"),
}
