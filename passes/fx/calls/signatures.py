"""The arguments of torch's calls, by name and in order, with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REQUIRED = object()
Signature = Mapping[str, Any]  # name -> default, in positional order


@dataclass(frozen=True)
class CallForm:
    """What a call is to the rules, and its arguments.

    Args:
        kind: see :class:`~bnfx.passes.fx.calls.call.Call`.
        signature: the arguments; ``None`` where only shapes tell what it does.
        spatial: number of spatial dimensions.
        native: the arguments of ATen's ops and ``torch.NAME``, where ``torch.nn.functional`` has
            others.
    """

    kind: str
    signature: Signature | None
    spatial: int = 0
    native: Signature | None = None


def signature(names: str, **defaults: Any) -> Signature:
    """``input``, the required ``names``, and those with a default, in order."""
    required = dict.fromkeys(names.split(), REQUIRED)
    return {"input": REQUIRED, **required, **defaults}


CONV = signature("weight", bias=None, stride=1, padding=0, dilation=1, groups=1)
CONV_TRANSPOSE = signature(
    "weight", bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
)
LINEAR = signature("weight", bias=None)
BATCH_NORM = signature(
    "running_mean running_var", weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
)
# ATen puts the affine parameters first.
NATIVE_BATCH_NORM = signature("weight bias running_mean running_var training momentum eps")
NORM_OF_ATEN = signature("weight bias running_mean running_var training momentum eps cudnn_enabled")
INSTANCE_NORM = signature(
    "",
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
)
INSTANCE_NORM_OF_ATEN = signature(
    "weight bias running_mean running_var use_input_stats momentum eps cudnn_enabled"
)
MAX_POOL = signature(
    "kernel_size", stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
)
AVG_POOL = signature(
    "kernel_size",
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
)
AVG_POOL_1D = {key: value for key, value in AVG_POOL.items() if key != "divisor_override"}
ADAPTIVE_AVG = signature("output_size")
ADAPTIVE_MAX = signature("output_size", return_indices=False)
DROPOUT = signature("", p=0.5, training=True, inplace=False)
ALPHA_DROPOUT = signature("", p=0.5, training=False, inplace=False)
DROPOUT_OF_ATEN = signature("p training")
INTERPOLATE = signature(
    "",
    size=None,
    scale_factor=None,
    mode="nearest",
    align_corners=None,
    recompute_scale_factor=None,
    antialias=False,
)
PAD = signature("pad", mode="constant", value=None)
MEAN = signature("", dim=None, keepdim=False, dtype=None)
AMAX = signature("", dim=(), keepdim=False)
CAT = {"tensors": REQUIRED, "dim": 0}
LEAKY = signature("", negative_slope=0.01, inplace=False)
IN_PLACE = signature("", inplace=False)
PLAIN = signature("")
LAYOUT = signature("", memory_format=None)
DIMS = signature("dims")
WEIGHT = signature("weight")
INDEX = signature("index")
NARROW = signature("dim start length")
SELECT = signature("dim index")
SLICE = signature("", dim=0, start=None, end=None, step=1)
PAIR = signature("dim0 dim1")
MOVED = signature("source destination")
FACTOR = signature("factor")
