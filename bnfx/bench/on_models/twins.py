"""Models without their BatchNorms: they compute less than any folded model must."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from bnfx.passes.fx.calls.modules import is_batch_norm


def twin_of(model: nn.Module) -> nn.Module:
    """The model without BatchNorms. What one of them holds besides, such as timm's activations,
    stays.
    """
    twin = copy.deepcopy(model)
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if is_batch_norm(child):
                setattr(parent, name, nn.Sequential(*child.children()))
    return twin


def levelled_twin_of(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """The same, with layers that neither drown nor blow up what they are given."""
    found = twin_of(model)
    _level(found, x)
    return found


def _level(model: nn.Module, x: torch.Tensor) -> None:
    """Scale each layer so that its output's root mean square is 1, in place: without BatchNorms,
    activations grow until rounding is all that is left of them.
    """

    def scale(layer: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        size = output.square().mean().sqrt()
        for parameter in layer.parameters(recurse=False):
            parameter.div_(size)
        return output / size

    layers = [each for each in model.modules() if isinstance(each, (_ConvNd, nn.Linear))]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    model(x)
    for hook in hooks:
        hook.remove()
