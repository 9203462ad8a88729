"""Makes every BatchNorm of a model matter: random, signed, and fitted to what it is given.

A fresh BatchNorm is an identity, and proves nothing. One with running statistics that have nothing
to do with its input lets activations drown in shifts, or grow without bound through a hundred
layers, until an answer hardly depends on the picture, or on nothing but rounding. So statistics are
those of the input, disturbed at random, as a trained model's are near, and not equal, to those of
one picture.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

_NEGATIVE = 0.3  # share of channels with a negative gamma


def randomise(model: nn.Module, x: torch.Tensor, seed: int = 0) -> int:
    """Give every BatchNorm random parameters and statistics, in place, by running ``model`` once.

    gamma is uniform in +-[0.5, 1.5], three of ten negative, and beta in [-0.5, 0.5]; running_mean
    is the channel's mean plus up to +-0.5, running_var is in [0.5, 2], both where the input's root
    mean square is 1. torchvision's FrozenBatchNorm2d is treated alike. Other layers keep what they
    were built with, unless it is all zero.

    Args:
        model: in evaluation mode.
        x: its input.
        seed: of the random numbers.

    Returns:
        The number of BatchNorm modules; one that is never called has random parameters, and the
        statistics that it was built with.
    """
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        _wake(module, random)
    kinds = _kinds()
    norms = [module for module in model.modules() if isinstance(module, kinds)]
    for norm in norms:
        _randomise_parameters(norm, random)

    def fit(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        _fit(norm, inputs[0], random)

    hooks = [norm.register_forward_pre_hook(fit) for norm in norms]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return len(norms)


def _kinds() -> tuple[type[nn.Module], ...]:
    """The classes of BatchNorms; torchvision's only where something has imported it."""
    frozen = getattr(sys.modules.get("torchvision.ops.misc"), "FrozenBatchNorm2d", None)
    return (_BatchNorm,) if frozen is None else (_BatchNorm, frozen)


def _wake(module: nn.Module, random: torch.Generator) -> None:
    """Give a layer that was built with zeros, as the head of a ViT is, random weights."""
    if isinstance(module, (_ConvNd, nn.Linear)) and not module.weight.any():
        with torch.no_grad():
            deviation = 1 / math.sqrt(module.weight[0].numel())
            module.weight.normal_(0, deviation, generator=random)


def _randomise_parameters(norm: nn.Module, random: torch.Generator) -> None:
    weight, bias = norm.weight, norm.bias
    if not isinstance(weight, torch.Tensor) or not isinstance(bias, torch.Tensor):
        return  # affine=False
    with torch.no_grad():
        sign = torch.where(_uniform(weight, 0, 1, random) < _NEGATIVE, -1.0, 1.0)
        weight.copy_(sign * _uniform(weight, 0.5, 1.5, random))
        bias.copy_(_uniform(bias, -0.5, 0.5, random))


def _fit(norm: nn.Module, x: torch.Tensor, random: torch.Generator) -> None:
    mean, var = norm.running_mean, norm.running_var
    if not isinstance(mean, torch.Tensor) or not isinstance(var, torch.Tensor):
        return  # track_running_stats=False
    others = [axis for axis in range(x.ndim) if axis != 1]
    # One number for all channels, and never small beside the input: a channel that hardly varies in
    # this picture would amplify what is mere rounding of the others.
    square = x.square().mean()
    mean.copy_(x.mean(others) + square.sqrt() * _uniform(mean, -0.5, 0.5, random))
    var.copy_(square * _uniform(var, 0.5, 2, random))


def _uniform(like: torch.Tensor, low: float, high: float, random: torch.Generator) -> Any:
    return low + (high - low) * torch.rand(like.shape, generator=random, dtype=like.dtype)
