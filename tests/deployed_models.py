"""The networks that people deploy: what tests of whole models run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from torch import nn

Build = Callable[[], nn.Module]

IMAGE, VIDEO = (2, 3, 64, 64), (1, 3, 4, 32, 32)


class Network(NamedTuple):
    """``folded``: how many of its BatchNorms fold; the rest become multiply-adds."""

    build: Build
    shape: tuple[int, ...]
    folded: int


def tv(name: str, **options: object) -> Build:
    return lambda: torchvision.models.get_model(name, weights=None, **options)


SPINE: dict[str, Network] = {
    "resnet18": Network(tv("resnet18"), IMAGE, 20),
    "resnet50": Network(tv("resnet50"), IMAGE, 53),
    "vgg16_bn": Network(tv("vgg16_bn"), IMAGE, 13),
    "mobilenet_v2": Network(tv("mobilenet_v2"), IMAGE, 52),
    "mobilenet_v3_large": Network(tv("mobilenet_v3_large"), IMAGE, 46),
    "efficientnet_b0": Network(tv("efficientnet_b0"), IMAGE, 49),
    "googlenet": Network(tv("googlenet", init_weights=False), IMAGE, 57),
    "inception_v3": Network(tv("inception_v3", init_weights=False), (1, 3, 96, 96), 94),
    "shufflenet_v2_x1_0": Network(tv("shufflenet_v2_x1_0"), IMAGE, 56),
    "mnasnet1_0": Network(tv("mnasnet1_0"), IMAGE, 52),
    "regnet_y_400mf": Network(tv("regnet_y_400mf"), IMAGE, 53),
    "convnext_tiny": Network(tv("convnext_tiny"), IMAGE, 0),
    "densenet121": Network(tv("densenet121"), IMAGE, 59),
    "deeplabv3_resnet50": Network(tv("deeplabv3_resnet50", weights_backbone=None), IMAGE, 60),
    "fcn_resnet50": Network(tv("fcn_resnet50", weights_backbone=None), IMAGE, 54),
    "r3d_18": Network(tv("r3d_18"), VIDEO, 20),
}

OTHERS: dict[str, Network] = {
    "mobilenet_v3_small": Network(tv("mobilenet_v3_small"), IMAGE, 34),
    "timm-resnet18": Network(lambda: timm.create_model("resnet18"), IMAGE, 20),
    "timm-efficientnet_lite0": Network(lambda: timm.create_model("efficientnet_lite0"), IMAGE, 49),
    "timm-repvgg_a0": Network(lambda: timm.create_model("repvgg_a0"), IMAGE, 61),
    "smp-unet-resnet18": Network(
        lambda: smp.Unet("resnet18", encoder_weights=None), (1, 3, 64, 64), 30
    ),
}

DETECTORS = (
    "fasterrcnn_mobilenet_v3_large_fpn",
    "retinanet_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
)


def detector(name: str) -> nn.Module:
    return tv(name, weights_backbone=None)().eval()


class Dense(nn.Module):
    """A detector up to its boxes: what comes behind depends on how many there are."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.rpn.head if hasattr(detector, "rpn") else detector.head

    def forward(self, x: torch.Tensor) -> object:
        return self.head(list(self.backbone(x).values()))
