"""Calls of both IRs -> algebra: the linear operator or the affine map that a call is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bnfx.passes.algebra import BroadcastAffine, ChannelAffine, Dense, LinearOperator, Source
from bnfx.passes.algebra.expressions.rearrange import permute
from bnfx.passes.graph import Linear, Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.tvm.dataflow import Value, numbers
from bnfx.passes.tvm.dialect import Dialect
from bnfx.passes.tvm.weight_layouts import WeightLayout, Written, read_convolution

Refusals = tuple[Refusal, ...]
Lookup = Callable[[Value, str], Source | Refusal]


@dataclass(frozen=True)
class Read:
    """A linear operator, and how its weight is stored."""

    linear: Linear
    stored: WeightLayout


def read_operator(
    value: Value, node: Node, source: Node, lookup: Lookup, dialect: Dialect
) -> tuple[Read | None, Refusals]:
    """A call with a weight as an operator, or every reason why it is not one.

    Args:
        value, node: the call, whose op the dialect has as linear, and what is known of its value.
        source: what it reads.
        lookup: the source that stands for a weight, or why it is none.
    """
    weight = lookup(value.args[1], "weight")
    if isinstance(weight, Refusal):
        return None, (weight,)
    if not source.dtype == weight.dtype == node.dtype:
        why = f"it takes {source.dtype} with weights of {weight.dtype} to {node.dtype}"
        return None, (Refusal(Code.DTYPE_CHANGE, why),)
    try:
        operator, stored = dialect.linear[value.op or ""](value, source, weight)
    except ValueError as error:
        return None, (Refusal(Code.UNSUPPORTED_FORM, str(error)),)
    return Read(Linear(operator, weight.dtype), stored), ()


def convolution(value: Value, source: Node, weight: Source) -> tuple[LinearOperator, WeightLayout]:
    """A convolution or transposed convolution, by its attributes."""
    if source.shape is None:
        raise ValueError("the shape of what it reads is not known")
    attrs = value.attrs
    extra = getattr(attrs, "output_padding", None)
    written = Written(
        str(attrs.data_layout),
        str(attrs.kernel_layout),
        str(attrs.out_layout),
        numbers(attrs.strides),
        numbers(attrs.padding),
        numbers(attrs.dilation),
        int(attrs.groups),
        None if extra is None else numbers(extra),
    )
    return read_convolution(written, weight, source.shape)


def dense(weight: Source, swapped: bool) -> tuple[LinearOperator, WeightLayout]:
    """``x W^T``, or ``x W`` where ``swapped``; one matrix, or one that is written as a batch."""
    front = len(weight.shape) - 2
    if any(size != 1 for size in weight.shape[:front]):
        raise ValueError(f"each of {weight.shape[0]} samples has a matrix of its own")
    order = (*range(front), *((front + 1, front) if swapped else (front, front + 1)))
    arranged = permute(weight, order)
    return Dense(arranged.reshape(*arranged.shape[front:]), None), WeightLayout(
        arranged.shape, order
    )


def with_bias(value: Value, node: Node, bias: Source | Refusal) -> Linear | None:
    """The operator of ``node`` with a constant added behind it, ``None`` if that is no bias.

    A bias has one number for each output channel, and its shape says that it is along that axis.

    Args:
        value: the sum.
    """
    role = node.role
    if not isinstance(role, Linear) or isinstance(bias, Refusal) or node.rank is None:
        return None
    operator, shape = role.operator, bias.shape
    if value.op == "nn.bias_add":  # its attribute says along which axis
        shape = (*shape, *(1,) * (node.rank - 1 - int(value.attrs.axis) % node.rank))
    wanted = [1] * node.rank
    wanted[operator.channel_axis] = operator.out_channels
    count = len(shape)
    if not -operator.channel_axis <= count <= node.rank or bias.dtype != node.dtype:
        return None
    if list(shape) != wanted[node.rank - count :]:
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
    if getattr(attrs, "training", False):  # Relay knows inference alone
        why = "it normalises by the statistics of the batch (training=True, R.nn's default)"
        refusals = (Refusal(Code.TRAINING_MODE, why), *refusals)
    if refusals:
        return None, refusals
    try:
        affine = ChannelAffine.batch_norm(**found, eps=float(attrs.epsilon))  # type: ignore[arg-type]
    except ValueError as error:
        return None, (Refusal(Code.UNSUPPORTED_FORM, str(error)),)
    return affine, ()
