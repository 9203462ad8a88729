"""The zoo: which models, and the smallest input that each takes. Nothing is downloaded.

Of torchvision, every classification, segmentation and video model, and the backbone of every
detection model (the rest of a detector depends on what is detected); of timm, the models listed in
:mod:`bnfx.bench.zoo.timm_models`; of segmentation_models_pytorch, every decoder.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from bnfx.bench.zoo.timm_models import TIMM

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ZooModel:
    """A model of the zoo.

    Args:
        name: library and model, as in ``torchvision/resnet18``.
        load: makes it anew, with random weights.
        shape: of its input.
        left_out: why it is not run, if it is not.
    """

    name: str
    load: Callable[[], nn.Module]
    shape: Shape
    left_out: str = ""


_SIZE = 64  # takes most models through their last stage
_CLIP = (8, 64)  # frames, and their height and width

# What a builder must be told, and the size where it is not 64.
_CLASSIFICATION: Mapping[str, tuple[dict[str, Any], int]] = {
    "googlenet": ({"init_weights": False}, 64),
    "inception_v3": ({"init_weights": False}, 96),
    "maxvit_t": ({"input_size": (224, 224)}, 224),  # windows of 7 at every stage
    "vit_b_16": ({"image_size": 64}, 64),
    "vit_b_32": ({"image_size": 64}, 64),
    "vit_h_14": ({"image_size": 56}, 56),
    "vit_l_16": ({"image_size": 64}, 64),
    "vit_l_32": ({"image_size": 64}, 64),
}
_VIDEO: Mapping[str, tuple[int, int]] = {  # where it is not _CLIP
    "mvit_v1_b": (16, 224),
    "mvit_v2_s": (16, 224),
    "s3d": (16, 224),
}
_BACKBONE_SIZES: Mapping[str, int] = {"ssd300_vgg16": 288}  # where it is not _SIZE
# Their released weights come with FrozenBatchNorm2d; built without weights, they have BatchNorm2d.
_FROZEN = frozenset(
    {
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "fasterrcnn_mobilenet_v3_large_fpn",
        "fasterrcnn_resnet50_fpn",
        "fcos_resnet50_fpn",
        "keypointrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn",
        "retinanet_resnet50_fpn",
    }
)
_DECODERS = (
    "DPT",
    "DeepLabV3",
    "DeepLabV3Plus",
    "FPN",
    "Linknet",
    "MAnet",
    "PAN",
    "PSPNet",
    "Segformer",
    "UPerNet",
    "Unet",
    "UnetPlusPlus",
)
_ENCODERS = {"DPT": "tu-vit_tiny_patch16_224"}  # where it cannot be resnet18
_DECODER_SIZES = {"DPT": 224, "PAN": 128}  # where it is not 64


def entries() -> Iterator[ZooModel]:
    """All of it, in the order in which it is run."""
    yield from _torchvision()
    for name, size in TIMM.items():
        yield ZooModel(f"timm/{name}", _timm(name), _image(size))
    missing = importlib.util.find_spec("segmentation_models_pytorch") is None
    why = "segmentation_models_pytorch is not installed" if missing else ""
    for decoder in _DECODERS:
        yield ZooModel(
            f"smp/{decoder}", _smp(decoder), _image(_DECODER_SIZES.get(decoder, _SIZE)), why
        )


def _torchvision() -> Iterator[ZooModel]:
    from torchvision import models

    for name in models.list_models(module=models):
        options, size = _CLASSIFICATION.get(name, ({}, _SIZE))
        yield ZooModel(f"torchvision/{name}", _built(name, **options), _image(size))
    for name in models.list_models(module=models.segmentation):
        load = _built(name, weights_backbone=None)
        yield ZooModel(f"torchvision/{name}", load, _image(_SIZE))
    for name in models.list_models(module=models.detection):
        size = _BACKBONE_SIZES.get(name, _SIZE)
        yield ZooModel(f"torchvision/{name}.backbone", _backbone(name), _image(size))
    for name in models.list_models(module=models.video):
        frames, size = _VIDEO.get(name, _CLIP)
        yield ZooModel(f"torchvision/{name}", _built(name), (1, 3, frames, size, size))


def _built(name: str, **options: Any) -> Callable[[], nn.Module]:
    def load() -> nn.Module:
        from torchvision.models import get_model

        model: nn.Module = get_model(name, weights=None, **options)
        return model

    return load


def _backbone(name: str) -> Callable[[], nn.Module]:
    def load() -> nn.Module:
        backbone: Any = _built(name, weights_backbone=None)().backbone
        return _freeze(backbone) if name in _FROZEN else backbone

    return load


def _freeze(model: nn.Module) -> nn.Module:
    """Every BatchNorm2d becomes a FrozenBatchNorm2d, as where a detector is built with weights."""
    from torchvision.ops.misc import FrozenBatchNorm2d

    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, FrozenBatchNorm2d(norm.num_features, norm.eps))
    return model


def _timm(name: str) -> Callable[[], nn.Module]:
    def load() -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(name, pretrained=False)
        return model

    return load


def _smp(decoder: str) -> Callable[[], nn.Module]:
    def load() -> nn.Module:
        import segmentation_models_pytorch as smp  # type: ignore[import-untyped]

        encoder = _ENCODERS.get(decoder, "resnet18")
        model: nn.Module = getattr(smp, decoder)(encoder, encoder_weights=None)
        return model

    return load


def _image(size: int) -> Shape:
    return (2, 3, size, size) if size <= 96 else (1, 3, size, size)
