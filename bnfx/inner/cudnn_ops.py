"""cuDNN's fused convolutions, as ops that Inductor calls and does not look into.

``relu(conv(x, W) + b)`` and ``relu(conv(x, W) + z + b)`` in one kernel. PyTorch has them as
``aten.cudnn_convolution_relu`` and ``aten.cudnn_convolution_add_relu``, without a rule for fake
tensors; elsewhere than on CUDA, these ops compute the same by its parts.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch

_GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"
_LIBRARY: Any = cast(Any, torch.library.Library)("bnfx", "FRAGMENT")
_LIBRARY.define(f"conv_relu(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}) -> Tensor")
_LIBRARY.define(
    f"conv_add_relu(Tensor x, Tensor weight, Tensor z, Tensor? bias, {_GEOMETRY}) -> Tensor"
)


# The geometry is stride, padding, dilation and groups, in the order of the schemas above.


def _conv(x: torch.Tensor, weight: torch.Tensor, bias: Any, *geometry: Any) -> torch.Tensor:
    stride, padding, dilation, groups = geometry
    none = [0] * len(stride)
    made: torch.Tensor = torch.ops.aten.convolution.default(
        x, weight, bias, stride, padding, dilation, False, none, groups
    )
    return made


def _conv_relu(x: torch.Tensor, weight: torch.Tensor, bias: Any, *geometry: Any) -> torch.Tensor:
    return _conv(x, weight, bias, *geometry).relu()


def _conv_add_relu(
    x: torch.Tensor, weight: torch.Tensor, z: torch.Tensor, bias: Any, *geometry: Any
) -> torch.Tensor:
    return (_conv(x, weight, bias, *geometry) + z).relu()


def _cudnn_conv_relu(*args: Any) -> torch.Tensor:
    made: torch.Tensor = torch.ops.aten.cudnn_convolution_relu.default(*args)
    return made


def _cudnn_conv_add_relu(
    x: torch.Tensor, weight: torch.Tensor, z: torch.Tensor, *rest: Any
) -> torch.Tensor:
    made: torch.Tensor = torch.ops.aten.cudnn_convolution_add_relu.default(x, weight, z, 1.0, *rest)
    return made


@functools.cache
def register() -> None:
    """Make ``torch.ops.bnfx.conv_relu`` and ``conv_add_relu`` known, on every device."""
    for name, whole, parts in (
        ("conv_relu", _cudnn_conv_relu, _conv_relu),
        ("conv_add_relu", _cudnn_conv_add_relu, _conv_add_relu),
    ):
        _LIBRARY.impl(name, whole, "CUDA")
        _LIBRARY.impl(name, parts, "CPU")
        torch.library.register_fake(f"bnfx::{name}", parts, lib=_LIBRARY)
