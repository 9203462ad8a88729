"""Models of torch, their BatchNorms signed and far from identities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Make = Callable[[], nn.Module]


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """``model`` in evaluation mode, with random statistics; gammas are signed."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.weight, -1.0, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
            ):
                if tensor is not None:
                    drawn = torch.rand(tensor.shape, generator=generator)
                    tensor.data.copy_(drawn * (high - low) + low)
    return model.eval()


def decoder() -> nn.Module:
    """Transposed convolutions with BatchNorms, as a DCGAN's generator."""
    return nn.Sequential(
        nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 4, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 3, 4, 2, 1),
        nn.Tanh(),
    )


class Deeplab(nn.Module):
    """deeplabv3_resnet50, which gives a tensor rather than a dict."""

    def __init__(self) -> None:
        super().__init__()
        import torchvision

        segmentation = torchvision.models.segmentation
        self.model = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.model(x)["out"]
        return out


def vision(name: str) -> nn.Module:
    """A model of torchvision or timm, by name, without pretrained weights."""
    if name == "deeplabv3_resnet50":
        return Deeplab()
    if name.startswith("repvgg"):
        import timm

        model: nn.Module = timm.create_model(name, pretrained=False)
        return model
    import torchvision

    built: nn.Module = getattr(torchvision.models, name)(weights=None)
    return built
