"""The arguments of torch's calls, by name and in order, with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnfx.passes.fx.calls.call import REQUIRED, Signature

# target -> (kind, spatial dimensions, signature)
Table = Mapping[Any, tuple[str, int, Signature]]


def signature(names: str, **defaults: Any) -> Signature:
    """``input``, the required ``names``, and those with a default, in order."""
    required = dict.fromkeys(names.split(), REQUIRED)
    return {"input": REQUIRED, **required, **defaults}


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
CAT = {"tensors": REQUIRED, "dim": 0}
LEAKY = signature("", negative_slope=0.01, inplace=False)
PLAIN = signature("")
LAYOUT = signature("", memory_format=None)
AMAX = signature("", dim=(), keepdim=False)
DIMS = signature("dims")
WEIGHT = signature("weight")
NARROW = signature("dim start length")
SELECT = signature("dim index")
PAIR = signature("dim0 dim1")
FACTOR = signature("factor")
