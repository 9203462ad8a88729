"""The demo's models: real architectures with random weights, so that nothing is downloaded.

BatchNorm's parameters are random and *signed*. Freshly made ones (gamma 1, beta 0, mean 0, var 1)
make BatchNorm nearly the identity, and a fold that loses a sign or a mean would pass unseen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnfx.bench.on_models.bench_worker import Subject
from bnfx.bench.on_models.image import image

_SHIFT = 0.5  # standard deviation of beta and running_mean
_BIAS = 0.1  # standard deviation of a layer's bias
# Variance of a weight, times fan_in. 2 would keep the variance of activations where every layer has
# a ReLU; MobileNetV3, where not all do, then explodes, and rounding errors with it.
_GAIN = 1.75


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight and every BatchNorm of ``model`` random values, in place.

    gamma is uniform in +-[0.5, 1.5], beta and running_mean are normal, running_var is uniform in
    [0.5, 2]; weights are normal with variance ``1.75 / fan_in``, biases normal. So a layer neither
    drowns its input in shifts nor lets it grow without bound: the answer depends on the picture.
    (As shipped, torchvision's MobileNetV3 starts with depthwise weights so small that random
    shifts leave 4e-7 of its answer to the picture, and an error in folding would not show.)
    """
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, math.sqrt(_GAIN / fan_in), generator=random)
                if module.bias is not None:
                    module.bias.normal_(0, _BIAS, generator=random)
            elif isinstance(module, _BatchNorm):
                _randomise_batch_norm(module, random)
    return model


def _randomise_batch_norm(norm: _BatchNorm, random: torch.Generator) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    sign = torch.randint(0, 2, norm.weight.shape, generator=random) * 2 - 1
    norm.weight.uniform_(0.5, 1.5, generator=random).mul_(sign)
    norm.bias.normal_(0, _SHIFT, generator=random)
    norm.running_mean.normal_(0, _SHIFT, generator=random)
    norm.running_var.uniform_(0.5, 2, generator=random)


def cases(quick: bool = False) -> tuple[Subject, ...]:
    """The models that ``bnfx demo`` shows, in order; fewer and smaller ones if ``quick``."""
    if quick:
        return (
            _case("torchvision", "resnet18"),
            _case("torchvision", "mobilenet_v3_small"),
            _case("timm", "efficientnet_lite0"),
        )
    return (
        _case("torchvision", "resnet50"),
        _case("torchvision", "mobilenet_v3_large"),
        _case("torchvision", "densenet121"),
        _case("torchvision", "deeplabv3_resnet50", weights_backbone=None),
        _case("timm", "efficientnet_lite0"),
    )


def _case(package: str, name: str, **arguments: Any) -> Subject:
    shown = name if package == "torchvision" else f"{package}:{name}"
    given = {"package": package, "name": name, "arguments": arguments}
    return Subject(shown, ("1x3x224x224",), f"{__name__}:load", given)


def load(
    package: str, name: str, arguments: Mapping[str, Any]
) -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The model, random and in evaluation mode, and the picture.

    Args:
        package: ``"torchvision"`` or ``"timm"``.
        name: of the model there.
        arguments: that it is built with.
    """
    if package == "torchvision":
        from torchvision.models import get_model

        model: nn.Module = get_model(name, weights=None, **arguments)
    else:
        import timm

        model = timm.create_model(name, pretrained=False, **arguments)
    return randomise(model.eval()), (image(),)
