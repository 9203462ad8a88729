"""What ``torch.export`` calls: ATen's overloads, which state their arguments and what they write.

The tables are those of :mod:`bnfx.passes.fx.calls.call`, in ATen's words.
"""

from __future__ import annotations

from typing import Any

import torch

from bnfx.passes.fx.calls.signatures import (
    ADAPTIVE_AVG,
    AMAX,
    AVG_POOL,
    AVG_POOL_1D,
    CAT,
    DIMS,
    FACTOR,
    LAYOUT,
    MAX_POOL,
    MEAN,
    NARROW,
    PAD,
    PAIR,
    PLAIN,
    SELECT,
    WEIGHT,
    Table,
    signature,
)

aten = torch.ops.aten


def _resize(mode: str, *corners: str) -> Any:
    return "interpolate", 0, signature(" ".join(("output_size", *corners, "scales")), mode=mode)


STRUCTURE: Table = {
    aten.alias.default: ("identity", 0, PLAIN),
    aten.clone.default: ("identity", 0, LAYOUT),
    aten.contiguous.default: ("identity", 0, LAYOUT),
    aten.detach.default: ("identity", 0, PLAIN),
    aten.dropout.default: ("dropout", 0, signature("p training")),
    aten.feature_dropout.default: ("dropout", 0, signature("p training")),
    aten.alpha_dropout.default: ("dropout", 0, signature("p training")),
    aten.relu.default: ("relu", 0, PLAIN),
    aten.leaky_relu.default: ("relu", 0, signature("", negative_slope=0.01)),
    aten.prelu.default: ("relu", 0, WEIGHT),
    aten.max_pool1d.default: ("max_pool", 1, MAX_POOL),
    aten.max_pool2d.default: ("max_pool", 2, MAX_POOL),
    aten.max_pool3d.default: ("max_pool", 3, MAX_POOL),
    aten.avg_pool1d.default: ("avg_pool", 1, AVG_POOL_1D),
    aten.avg_pool2d.default: ("avg_pool", 2, AVG_POOL),
    aten.avg_pool3d.default: ("avg_pool", 3, AVG_POOL),
    aten.adaptive_avg_pool1d.default: ("adaptive_avg", 1, ADAPTIVE_AVG),
    aten.adaptive_avg_pool2d.default: ("adaptive_avg", 2, ADAPTIVE_AVG),
    aten.adaptive_avg_pool3d.default: ("adaptive_avg", 3, ADAPTIVE_AVG),
    aten._adaptive_avg_pool2d.default: ("adaptive_avg", 2, ADAPTIVE_AVG),
    aten._adaptive_avg_pool3d.default: ("adaptive_avg", 3, ADAPTIVE_AVG),
    aten.mean.dim: ("mean", 0, MEAN),
    aten.amax.default: ("amax", 0, AMAX),
    aten.upsample_nearest1d.vec: _resize("nearest"),
    aten.upsample_nearest2d.vec: _resize("nearest"),
    aten.upsample_nearest3d.vec: _resize("nearest"),
    aten._upsample_nearest_exact1d.vec: _resize("nearest-exact"),
    aten._upsample_nearest_exact2d.vec: _resize("nearest-exact"),
    aten._upsample_nearest_exact3d.vec: _resize("nearest-exact"),
    aten.upsample_linear1d.vec: _resize("linear", "corners"),
    aten.upsample_bilinear2d.vec: _resize("bilinear", "corners"),
    aten.upsample_trilinear3d.vec: _resize("trilinear", "corners"),
    aten.upsample_bicubic2d.vec: _resize("bicubic", "corners"),
    aten.pad.default: ("pad", 0, PAD),
    aten.pixel_shuffle.default: ("pixel_shuffle", 0, FACTOR),
    aten.pixel_unshuffle.default: ("pixel_unshuffle", 0, FACTOR),
    aten.channel_shuffle.default: ("channel_shuffle", 0, FACTOR),
    aten.permute.default: ("permute", 0, DIMS),
    aten.transpose.int: ("transpose", 0, PAIR),
    aten.swapaxes.default: ("transpose", 0, PAIR),
    aten.swapdims.default: ("transpose", 0, PAIR),
    aten.cat.default: ("cat", 0, CAT),
    aten.concat.default: ("cat", 0, CAT),
    aten.narrow.default: ("narrow", 0, NARROW),
    aten.select.int: ("select", 0, SELECT),
    aten.slice.Tensor: ("slice", 0, signature("", dim=0, start=None, end=None, step=1)),
}
RESHAPES = frozenset(
    {aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unsqueeze.default}
    | {aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten._unsafe_view.default}
    | {aten.unflatten.int, aten.view_as.default, aten.reshape_as.default}
)
VIEWS = frozenset({aten.view.default, aten.view_as.default, aten.as_strided.default})
SHAPES_OF = frozenset({aten.view_as.default, aten.reshape_as.default})

# Ops whose result never shares memory with an input. Schemas do not tell: those of dropout,
# pad and type_as promise a new tensor, and the first and last of them may return their input.
_NEW = """
    add sub mul div neg pow matmul mm bmm addmm cat concat stack mean sum amax amin abs exp sqrt
    relu relu6 leaky_relu gelu silu mish hardswish hardtanh hardsigmoid elu sigmoid tanh softmax
    clamp clone max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d
    upsample_nearest2d upsample_bilinear2d upsample_bicubic2d layer_norm group_norm pad
    convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear
    batch_norm
"""
_FRESH = frozenset(_NEW.split())


# Functions whose result has the dtype of their first argument, if all are of one dtype. What is
# written over it always has.
KEEPS_DTYPE = frozenset(
    {"abs", "add", "celu", "clamp", "clamp_max", "clamp_min", "div", "dropout", "elu", "exp"}
    | {"hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "mul", "multiply", "neg"}
    | {"relu", "relu6", "selu", "sigmoid", "silu", "sqrt", "sub", "subtract", "tanh"}
)


def name_of_overload(target: Any) -> str:
    """``"add"`` for ``aten.add.Tensor``; ``""`` for what is no overload of ATen's."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return ""
    return target._schema.name.partition("::")[2]


def is_fresh_overload(target: Any) -> bool:
    """Whether the result of an overload is known to share no memory with its inputs."""
    return name_of_overload(target) in _FRESH


def functional_overload(target: Any) -> Any | None:
    """``aten.add.Tensor`` for ``aten.add_.Tensor``: the same, making a new value."""
    name = name_of_overload(target)
    if not name.endswith("_") or name[:-1] not in KEEPS_DTYPE:
        return None
    other = getattr(getattr(aten, name[:-1], None), target._overloadname, None)
    if other is None or other._schema.is_mutable:
        return None
    return other if _arguments(target) == _arguments(other) else None


def _arguments(target: Any) -> list[tuple[str, str]]:
    """Names and types, whatever is written to."""
    return [(each.name, str(each.type)) for each in target._schema.arguments]
