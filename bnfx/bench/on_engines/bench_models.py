"""The models that engines are compared on: random weights, BatchNorms that are no identities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn
from torch.utils import _pytree as pytree

from bnfx.bench.zoo.random_norms import randomise


class Subject(NamedTuple):
    """A model, and the shape of one sample."""

    build: Callable[[], nn.Module]
    sample: tuple[int, ...] = (3, 224, 224)


class Outputs(nn.Module):
    """A model whose outputs are a tuple of tensors, as engines have them.

    Args:
        model: whose outputs may be a dict, or nested.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(pytree.tree_leaves(self.model(x)))


class CrepeTiny(nn.Module):
    """The pitch tracker CREPE in its smallest size: six layers over 1024 audio samples each, of
    convolution, ReLU, BatchNorm and max pool, and a dense layer. After Kim et al., ICASSP 2018.
    """

    def __init__(self) -> None:
        super().__init__()
        layers = list[nn.Module]()
        before = 1
        for at, after in enumerate((128, 16, 16, 16, 32, 64)):
            size, stride = (512, 4) if at == 0 else (64, 1)
            total = size - stride
            layers += [
                nn.ZeroPad2d((0, 0, total // 2, total - total // 2)),
                nn.Conv2d(before, after, (size, 1), (stride, 1)),
                nn.ReLU(),
                nn.BatchNorm2d(after, eps=1e-3),
                nn.MaxPool2d((2, 1)),
            ]
            before = after
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(256, 360)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x[:, None, :, None])
        return torch.sigmoid(self.classifier(y.permute(0, 2, 1, 3).flatten(1)))


def _torchvision(name: str, **given: Any) -> Subject:
    return Subject(lambda: torchvision.models.get_model(name, weights=None, **given))


def _timm(name: str) -> Subject:
    def build() -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(name)
        return model

    return Subject(build)


def _fpn() -> nn.Module:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    model: nn.Module = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=nn.BatchNorm2d
    )
    return model


MODELS: Mapping[str, Subject] = {
    "mobilenetv3_large_100": _timm("mobilenetv3_large_100"),
    "resnet18": _torchvision("resnet18"),
    "resnet50": _torchvision("resnet50"),
    "densenet121": _torchvision("densenet121"),
    "efficientnet_lite0": _timm("efficientnet_lite0"),
    "repvgg_a0": _timm("repvgg_a0"),
    "mobileone_s0": _timm("mobileone_s0"),
    "fastvit_t8": _timm("fastvit_t8"),
    "repvit_m1": _timm("repvit_m1"),
    "crepe_tiny": Subject(CrepeTiny, (1024,)),
    "deeplabv3_resnet50": _torchvision("deeplabv3_resnet50", weights_backbone=None),
    "r3d_18": Subject(_torchvision("r3d_18").build, (3, 8, 112, 112)),
    "resnet50_fpn": Subject(_fpn),
}


def load(name: str, batch: int) -> tuple[nn.Module, torch.Tensor]:
    """The model in evaluation mode, and an input; the same numbers in each process."""
    torch.manual_seed(0)
    subject = MODELS[name]
    model = Outputs(subject.build()).eval().requires_grad_(False)
    x = torch.randn(batch, *subject.sample)
    randomise(model, x[:1])
    return model, x
