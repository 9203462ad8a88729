"""Relay calls -> algebra: the linear operator or the affine map that a call is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bnfx.passes.algebra import (
    ChannelAffine,
    Dense,
    LinearOperator,
    Source,
)
from bnfx.passes.algebra.rearrange import permute
from bnfx.passes.graph import Linear, Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.relay.expressions import Expr, numbers, op_name, type_of
from bnfx.passes.tvm.weight_layouts import WeightLayout, Written, read_convolution

Refusals = tuple[Refusal, ...]
Lookup = Callable[[Expr, str], Source | Refusal]

_CONVS = {"nn.conv1d": 1, "nn.conv2d": 2, "nn.conv3d": 3}
_TRANSPOSED = {f"{name}_transpose": spatial for name, spatial in _CONVS.items()}
_DENSE = frozenset({"nn.dense", "nn.matmul", "nn.batch_matmul"})
LINEAR = frozenset({*_CONVS, *_TRANSPOSED, *_DENSE})


@dataclass(frozen=True)
class Read:
    """A linear operator, and how its weight is stored."""

    linear: Linear
    stored: WeightLayout


def read_operator(expr: Expr, source: Node, lookup: Lookup) -> tuple[Read | None, Refusals]:
    """A convolution or dense layer as an operator, or every reason why it is not one.

    Args:
        expr: the call, one of :data:`LINEAR`.
        source: what it reads.
        lookup: the source that stands for a weight, or why it is none.
    """
    weight = lookup(expr.args[1], "weight")
    if isinstance(weight, Refusal):
        return None, (weight,)
    dtype = type_of(expr).dtype
    if not source.dtype == weight.dtype == dtype:
        why = f"it takes {source.dtype} with weights of {weight.dtype} to {dtype}"
        return None, (Refusal(Code.DTYPE_CHANGE, why),)
    try:
        operator, stored = _operator(op_name(expr) or "", expr, source, weight)
    except ValueError as error:
        return None, (Refusal(Code.UNSUPPORTED_FORM, str(error)),)
    return Read(Linear(operator, weight.dtype), stored), ()


def _operator(
    name: str, expr: Expr, source: Node, weight: Source
) -> tuple[LinearOperator, WeightLayout]:
    attrs = expr.attrs
    if name in _DENSE:
        return _dense(name, attrs, source, weight)
    layout = str(attrs.kernel_layout)
    if name in _TRANSPOSED and layout.startswith("OI"):
        # The default once, and it meant IO.
        raise ValueError(f"its kernel layout {layout} depends on TVM's version")
    written = Written(
        str(attrs.data_layout),
        layout,
        str(attrs.out_layout),
        numbers(attrs.strides),
        numbers(attrs.padding),
        numbers(attrs.dilation),
        int(attrs.groups),
        numbers(attrs.output_padding) if name in _TRANSPOSED else None,
    )
    assert source.shape is not None
    return read_convolution(written, weight, source.shape)


def _dense(
    name: str, attrs: Any, source: Node, weight: Source
) -> tuple[LinearOperator, WeightLayout]:
    swapped = name != "nn.dense" and not attrs.transpose_b
    if name != "nn.dense" and attrs.transpose_a:
        raise ValueError("its data operand is transposed")
    if name == "nn.batch_matmul":
        if weight.shape[0] != 1 or source.rank != 3:
            raise ValueError(f"each of {weight.shape[0]} samples has a matrix of its own")
        order: tuple[int, ...] = (0, 2, 1) if swapped else (0, 1, 2)
        arranged = permute(weight, order)
        return Dense(arranged.reshape(*arranged.shape[1:]), None), WeightLayout(
            arranged.shape, order
        )
    order = (1, 0) if swapped else (0, 1)
    arranged = permute(weight, order)
    return Dense(arranged, None), WeightLayout(arranged.shape, order)


def read_batch_norm(expr: Expr, lookup: Lookup) -> tuple[ChannelAffine | None, Refusals]:
    """``nn.batch_norm`` as an affine map, or every reason why it is not one."""
    _, gamma, beta, mean, var = expr.args
    found = {
        "gamma": lookup(gamma, "gamma") if expr.attrs.scale else None,
        "beta": lookup(beta, "beta") if expr.attrs.center else None,
        "mean": lookup(mean, "moving_mean"),
        "var": lookup(var, "moving_var"),
    }
    refusals = tuple(value for value in found.values() if isinstance(value, Refusal))
    if refusals:
        return None, refusals
    eps = float(expr.attrs.epsilon)
    try:
        return ChannelAffine.batch_norm(**found, eps=eps), ()  # type: ignore[arg-type]
    except ValueError as error:
        return None, (Refusal(Code.UNSUPPORTED_FORM, str(error)),)
