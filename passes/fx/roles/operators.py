"""Normalised calls -> algebra: the linear operator or affine map that a call is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnfx.passes.algebra import (
    ChannelAffine,
    Conv,
    ConvTranspose,
    Dense,
    LinearOperator,
    Source,
    same_padding,
)
from bnfx.passes.algebra.spatial import Padding
from bnfx.passes.fx.calls.call import Call
from bnfx.passes.fx.parameters.sources import Sources
from bnfx.passes.graph import Linear
from bnfx.passes.refusals import Code, Refusal

Refusals = tuple[Refusal, ...]


class _UnreadableError(Exception):
    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal(code, reason)


def read_affine_call(call: Call, sources: Sources) -> tuple[ChannelAffine | None, Refusals]:
    """BatchNorm in evaluation as an affine map, or every reason why it is not one."""
    arguments = call.arguments
    # InstanceNorm with running statistics is BatchNorm in evaluation, by another name.
    training = arguments["training" if call.kind == "batch_norm" else "use_input_stats"]
    if not isinstance(training, bool):
        return None, (Refusal(Code.DYNAMIC_ARGUMENT, "its training flag is computed"),)
    if arguments["running_mean"] is None or arguments["running_var"] is None:
        return None, (Refusal(Code.NO_RUNNING_STATISTICS, "it keeps no running statistics"),)
    if training:
        return None, (Refusal(Code.TRAINING_MODE, "it is in training mode"),)
    mean = sources.resolve(arguments["running_mean"], "running mean")
    var = sources.resolve(arguments["running_var"], "running variance")
    gamma = beta = None
    if arguments["weight"] is not None:
        gamma = sources.resolve(arguments["weight"], "weight")
    if arguments["bias"] is not None:
        beta = sources.resolve(arguments["bias"], "bias")
    eps = sources.resolve_scalar(arguments["eps"], "eps")
    refusals = tuple(v for v in (mean, var, gamma, beta, eps) if isinstance(v, Refusal))
    if refusals:
        return None, refusals
    try:
        return ChannelAffine.batch_norm(mean, var, gamma, beta, eps), ()  # type: ignore[arg-type]
    except ValueError as error:
        return None, (Refusal(Code.UNSUPPORTED_FORM, str(error)),)


def read_operator(call: Call, sources: Sources) -> tuple[Linear | None, Refusals]:
    """A convolution or linear layer as an operator, or every reason why it is not one."""
    arguments = call.arguments
    weight = sources.resolve(arguments["weight"], "weight")
    bias = None if arguments["bias"] is None else sources.resolve(arguments["bias"], "bias")
    refusals = tuple(value for value in (weight, bias) if isinstance(value, Refusal))
    if refusals:
        return None, refusals
    assert isinstance(weight, Source)
    try:
        operator = _operator(call, weight, bias)  # type: ignore[arg-type]
        hides = bool(arguments.get("hides_padding", False))
        return Linear(operator, weight.dtype, hides), ()
    except _UnreadableError as error:
        return None, (error.refusal,)
    except ValueError as error:
        return None, (Refusal(Code.UNSUPPORTED_FORM, str(error)),)


def _operator(call: Call, weight: Source, bias: Source | None) -> LinearOperator:
    if call.kind == "linear":
        return Dense(weight, bias)
    if len(weight.shape) != call.spatial + 2:
        raise ValueError(f"a {call.spatial}-d convolution with a weight of {weight.shape}")
    arguments = call.arguments
    stride = _ints(arguments, "stride", call.spatial)
    dilation = _ints(arguments, "dilation", call.spatial)
    groups = _ints(arguments, "groups", 1)[0]
    if call.kind == "conv_transpose":
        sides = tuple((pad, pad) for pad in _ints(arguments, "padding", call.spatial))
        extra = _ints(arguments, "output_padding", call.spatial)
        return ConvTranspose(weight, bias, stride, sides, extra, dilation, groups)
    padding = _padding(arguments, weight.shape[2:], dilation)
    return Conv(weight, bias, stride, padding, dilation, groups)


def _padding(
    arguments: Mapping[str, Any], kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> Padding:
    match arguments["padding"]:
        case "valid":
            return tuple((0, 0) for _ in kernel)
        case "same":
            return same_padding(kernel, dilation)
        case str(other):
            raise _UnreadableError(Code.UNKNOWN_ARGUMENT, f"its padding is {other!r}")
    return tuple((pad, pad) for pad in _ints(arguments, "padding", len(kernel)))


def _ints(arguments: Mapping[str, Any], name: str, count: int) -> tuple[int, ...]:
    """An argument that torch takes as one number or one a dimension."""
    value = arguments[name]
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not all(isinstance(number, int) for number in values):
        raise _UnreadableError(Code.DYNAMIC_ARGUMENT, f"its {name} is computed in the graph")
    if len(values) == 1:
        values *= count
    if len(values) != count:
        raise _UnreadableError(Code.UNKNOWN_ARGUMENT, f"its {name} is {value}")
    return values
