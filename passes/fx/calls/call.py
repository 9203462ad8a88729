"""The calls that bnfx knows, in one normal form, whatever way they were written.

A call is known only if every one of its arguments is: one that is not in the signature makes it
opaque. Modules (``call_module``) are read into the same form by
:mod:`bnfx.passes.fx.calls.modules`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from bnfx.passes.refusals import Code, Refusal

REQUIRED = object()
Signature = Mapping[str, Any]  # name -> default, in positional order
_CONV = {"input": REQUIRED, "weight": REQUIRED, "bias": None, "stride": 1, "padding": 0}
_CONV |= {"dilation": 1, "groups": 1}
_TRANSPOSED = {"input": REQUIRED, "weight": REQUIRED, "bias": None, "stride": 1, "padding": 0}
_TRANSPOSED |= {"output_padding": 0, "groups": 1, "dilation": 1}
_LINEAR = {"input": REQUIRED, "weight": REQUIRED, "bias": None}
_BATCH_NORM_F = {"input": REQUIRED, "running_mean": REQUIRED, "running_var": REQUIRED}
_BATCH_NORM_F |= {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}
# torch.batch_norm and ATen put the affine parameters first.
_BATCH_NORM_T = {"input": REQUIRED, "weight": REQUIRED, "bias": REQUIRED}
_BATCH_NORM_T |= {"running_mean": REQUIRED, "running_var": REQUIRED, "training": REQUIRED}
_BATCH_NORM_T |= {"momentum": REQUIRED, "eps": REQUIRED}
_INSTANCE_NORM = {"input": REQUIRED, "running_mean": None, "running_var": None, "weight": None}
_INSTANCE_NORM |= {"bias": None, "use_input_stats": True, "momentum": 0.1, "eps": 1e-5}
_INSTANCE_NORM_C = dict.fromkeys(
    ("input", "weight", "bias", "running_mean", "running_var", "use_input_stats"), REQUIRED
)
_INSTANCE_NORM_C |= dict.fromkeys(("momentum", "eps", "cudnn_enabled"), REQUIRED)
_BATCH_NORM_C = {**_BATCH_NORM_T, "cudnn_enabled": REQUIRED}

aten = torch.ops.aten

# target -> (kind, spatial dimensions, signature)
SIGNATURES: dict[Callable[..., Any], tuple[str, int, Signature]] = {
    torch.conv1d: ("conv", 1, _CONV),
    torch.conv2d: ("conv", 2, _CONV),
    torch.conv3d: ("conv", 3, _CONV),
    torch.conv_transpose1d: ("conv_transpose", 1, _TRANSPOSED),
    torch.conv_transpose2d: ("conv_transpose", 2, _TRANSPOSED),
    torch.conv_transpose3d: ("conv_transpose", 3, _TRANSPOSED),
    F.linear: ("linear", 0, _LINEAR),
    F.batch_norm: ("batch_norm", 0, _BATCH_NORM_F),
    F.instance_norm: ("instance_norm", 0, _INSTANCE_NORM),
    torch.batch_norm: ("batch_norm", 0, _BATCH_NORM_C),
    torch.native_batch_norm: ("native_batch_norm", 0, _BATCH_NORM_T),
    aten.conv1d.default: ("conv", 1, _CONV),
    aten.conv2d.default: ("conv", 2, _CONV),
    aten.conv3d.default: ("conv", 3, _CONV),
    aten.conv1d.padding: ("conv", 1, _CONV),
    aten.conv2d.padding: ("conv", 2, _CONV),
    aten.conv3d.padding: ("conv", 3, _CONV),
    aten.conv_transpose1d.default: ("conv_transpose", 1, _TRANSPOSED),
    aten.conv_transpose2d.input: ("conv_transpose", 2, _TRANSPOSED),
    aten.conv_transpose3d.input: ("conv_transpose", 3, _TRANSPOSED),
    aten.linear.default: ("linear", 0, _LINEAR),
    aten.batch_norm.default: ("batch_norm", 0, _BATCH_NORM_C),
    aten.native_batch_norm.default: ("native_batch_norm", 0, _BATCH_NORM_T),
    aten.instance_norm.default: ("instance_norm", 0, _INSTANCE_NORM_C),
}


@dataclass(frozen=True)
class Call:
    """A known call.

    Args:
        kind: ``conv``, ``conv_transpose``, ``linear``, ``batch_norm``, ``instance_norm`` or
            ``native_batch_norm``; or one of :mod:`bnfx.passes.fx.calls.structure`.
        spatial: number of spatial dimensions of a convolution.
        arguments: every argument by name, defaults filled in.
        order: the names in positional order, to write the call again.
    """

    kind: str
    spatial: int
    arguments: Mapping[str, Any]
    order: tuple[str, ...] = field(default=())


def read_call(node: fx.Node) -> Call | Refusal | None:
    """The normal form of a ``call_function`` node.

    Returns:
        ``None`` for a call that bnfx has no interest in, and a refusal for one that it knows but
        that has an argument it does not know.
    """
    if node.op != "call_function" or node.target not in SIGNATURES:
        return None
    kind, spatial, signature = SIGNATURES[node.target]
    arguments = bind_arguments(node, signature)
    if isinstance(arguments, Refusal):
        return arguments
    return Call(kind, spatial, arguments, tuple(signature))


def bind_arguments(node: fx.Node, signature: Signature) -> dict[str, Any] | Refusal:
    """The node's arguments by name, defaults filled in; a refusal if they do not fit."""
    names = tuple(signature)
    if len(node.args) > len(names):
        return Refusal(Code.UNKNOWN_ARGUMENT, f"{node.name} has {len(node.args)} arguments")
    given = dict(zip(names, node.args, strict=False))
    for name, value in node.kwargs.items():
        if name not in signature or name in given:
            return Refusal(Code.UNKNOWN_ARGUMENT, f"{node.name} has an argument {name!r}")
        given[name] = value
    arguments = {name: given.get(name, default) for name, default in signature.items()}
    for name, value in arguments.items():
        if value is REQUIRED:
            return Refusal(Code.UNKNOWN_ARGUMENT, f"{node.name} has no argument {name!r}")
    return arguments
