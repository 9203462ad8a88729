"""Relax calls -> algebra: the linear operator or the affine map that a call is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bnfx.passes.algebra import BroadcastAffine, ChannelAffine, Dense, LinearOperator, Source
from bnfx.passes.algebra.rearrange import permute
from bnfx.passes.graph import Linear, Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.relax.expressions import Value, numbers
from bnfx.passes.tvm.weight_layouts import WeightLayout, Written, read_convolution

Refusals = tuple[Refusal, ...]
Lookup = Callable[[Value, str], Source | Refusal]

_CONVS = {"nn.conv1d": 1, "nn.conv2d": 2, "nn.conv3d": 3}
_TRANSPOSED = {f"{name}_transpose": spatial for name, spatial in _CONVS.items()}
LINEAR = frozenset({*_CONVS, *_TRANSPOSED, "matmul"})


@dataclass(frozen=True)
class Read:
    """A linear operator, and how its weight is stored."""

    linear: Linear
    stored: WeightLayout


def read_operator(
    value: Value, source: Node, dtype: str | None, lookup: Lookup
) -> tuple[Read | None, Refusals]:
    """A convolution or matrix product as an operator, or every reason why it is not one.

    Args:
        value: the call, one of :data:`LINEAR`.
        source: what it reads.
        dtype: of its output.
        lookup: the source that stands for a weight, or why it is none.
    """
    weight = lookup(value.args[1], "weight")
    if isinstance(weight, Refusal):
        return None, (weight,)
    if not source.dtype == weight.dtype == dtype:
        why = f"it takes {source.dtype} with weights of {weight.dtype} to {dtype}"
        return None, (Refusal(Code.DTYPE_CHANGE, why),)
    try:
        operator, stored = _operator(value, source, weight)
    except ValueError as error:
        return None, (Refusal(Code.UNSUPPORTED_FORM, str(error)),)
    return Read(Linear(operator, weight.dtype), stored), ()


def _operator(value: Value, source: Node, weight: Source) -> tuple[LinearOperator, WeightLayout]:
    if value.op == "matmul":
        return _dense(source, weight)
    spatial = _CONVS.get(value.op or "") or _TRANSPOSED[value.op or ""]
    if source.shape is None or len(source.shape) != spatial + 2:
        raise ValueError("the shape of what it reads is not known")
    return read_convolution(_written(value.attrs), weight, source.shape)


def _written(attrs: Any) -> Written:
    extra = getattr(attrs, "output_padding", None)
    return Written(
        str(attrs.data_layout),
        str(attrs.kernel_layout),
        str(attrs.out_layout),
        numbers(attrs.strides),
        numbers(attrs.padding),
        numbers(attrs.dilation),
        int(attrs.groups),
        None if extra is None else numbers(extra),
    )


def _dense(source: Node, weight: Source) -> tuple[LinearOperator, WeightLayout]:
    if len(weight.shape) != 2 or source.rank is None or source.rank < 2:
        raise ValueError(f"it multiplies a value of rank {source.rank} by a {weight.shape} weight")
    arranged = permute(weight, (1, 0))
    return Dense(arranged, None), WeightLayout(arranged.shape, (1, 0))


def with_bias(node: Node, bias: Source | Refusal) -> Linear | None:
    """The operator of ``node`` with a constant added behind it, ``None`` if that is no bias.

    A bias has one number for each output channel, and its shape says that it is along that axis.
    """
    role = node.role
    if not isinstance(role, Linear) or isinstance(bias, Refusal) or node.rank is None:
        return None
    operator = role.operator
    wanted = [1] * node.rank
    wanted[operator.channel_axis] = operator.out_channels
    count = len(bias.shape)
    if not -operator.channel_axis <= count <= node.rank or bias.dtype != node.dtype:
        return None
    if list(bias.shape) != wanted[node.rank - count :]:
        return None
    one = BroadcastAffine.identity().scale
    return Linear(operator.then(one, bias.reshape(operator.out_channels)), role.dtype)


def read_batch_norm(value: Value, lookup: Lookup) -> tuple[ChannelAffine | None, Refusals]:
    """``nn.batch_norm`` as an affine map, or every reason why it is not one."""
    _, gamma, beta, mean, var = value.args
    attrs = value.attrs
    found = {
        "gamma": lookup(gamma, "gamma") if attrs.scale else None,
        "beta": lookup(beta, "beta") if attrs.center else None,
        "mean": lookup(mean, "moving_mean"),
        "var": lookup(var, "moving_var"),
    }
    refusals = tuple(value for value in found.values() if isinstance(value, Refusal))
    if attrs.training:
        why = "it normalises by the statistics of the batch (training=True)"
        refusals = (Refusal(Code.TRAINING_MODE, why), *refusals)
    if refusals:
        return None, refusals
    try:
        affine = ChannelAffine.batch_norm(**found, eps=float(attrs.epsilon))  # type: ignore[arg-type]
    except ValueError as error:
        return None, (Refusal(Code.UNSUPPORTED_FORM, str(error)),)
    return affine, ()
