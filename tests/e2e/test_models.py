"""Real models: no BatchNorm left, every one accounted for, the answer unchanged."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from support import Capture, randomise, relative
from torch import nn

from bnfx.passes.fx.modules import is_batch_norm

Build = Callable[[], nn.Module]

IMAGE, VIDEO = (2, 3, 64, 64), (1, 3, 4, 32, 32)


def tv(name: str, **options: object) -> Build:
    return lambda: getattr(torchvision.models, name)(weights=None, **options)


def segmentation(name: str) -> Build:
    build = getattr(torchvision.models.segmentation, name)
    return lambda: build(weights=None, weights_backbone=None)


# name: builder, input shape, and how many of its BatchNorms fold (the rest become multiply-adds)
MODELS: dict[str, tuple[Build, tuple[int, ...], int]] = {
    "resnet18": (tv("resnet18"), IMAGE, 20),
    "resnet50": (tv("resnet50"), IMAGE, 53),
    "vgg16_bn": (tv("vgg16_bn"), IMAGE, 13),
    "mobilenet_v2": (tv("mobilenet_v2"), IMAGE, 52),
    "mobilenet_v3_large": (tv("mobilenet_v3_large"), IMAGE, 46),
    "efficientnet_b0": (tv("efficientnet_b0"), IMAGE, 49),
    "googlenet": (tv("googlenet", init_weights=False), IMAGE, 57),
    "inception_v3": (tv("inception_v3", init_weights=False), (1, 3, 96, 96), 94),
    "shufflenet_v2_x1_0": (tv("shufflenet_v2_x1_0"), IMAGE, 56),
    "mnasnet1_0": (tv("mnasnet1_0"), IMAGE, 52),
    "regnet_y_400mf": (tv("regnet_y_400mf"), IMAGE, 53),
    "convnext_tiny": (tv("convnext_tiny"), IMAGE, 0),
    "densenet121": (tv("densenet121"), IMAGE, 59),
    "deeplabv3_resnet50": (segmentation("deeplabv3_resnet50"), IMAGE, 60),
    "fcn_resnet50": (segmentation("fcn_resnet50"), IMAGE, 54),
    "r3d_18": (lambda: torchvision.models.video.r3d_18(weights=None), VIDEO, 20),
    "timm-efficientnet_lite0": (lambda: timm.create_model("efficientnet_lite0"), IMAGE, 49),
    "timm-repvgg_a0": (lambda: timm.create_model("repvgg_a0"), IMAGE, 61),
    "smp-unet-resnet18": (
        lambda: smp.Unet("resnet18", encoder_weights=None),
        (1, 3, 64, 64),
        30,
    ),
}


def executed_batch_norms(model: nn.Module, x: torch.Tensor) -> int:
    calls: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_: calls.append("call"))
        for module in model.modules()
        if is_batch_norm(module)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return len(calls)


def answer(output: object) -> torch.Tensor:
    """The main output; torchvision's segmentation models return a dict."""
    return output["out"] if isinstance(output, dict) else output


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    build, shape, folded = MODELS[name]
    torch.manual_seed(0)
    model = randomise(build()).eval()
    x = torch.randn(shape, dtype=torch.float64)
    expected_sites = executed_batch_norms(model, x.float())
    for dtype, bound in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        model.to(dtype)
        capture = Capture()
        compiled = torch.compile(model, backend="bnfx", options=capture.options)
        with torch.no_grad():
            error = relative(answer(compiled(x.to(dtype))), answer(model(x.to(dtype))))
        assert error < bound
        verdicts = [
            verdict
            for report in capture.reports
            for verdict in report.verdicts
            if verdict.site.kind == "batch_norm"
        ]
        assert len(verdicts) == expected_sites
        assert len({id(verdict.site) for verdict in verdicts}) == expected_sites
        assert capture.batch_norms() == 0
        outcomes = [verdict.outcome.value for verdict in verdicts]
        assert outcomes.count("folded") == folded
        assert outcomes.count("lowered") == expected_sites - folded
