"""What is measured: models, batch sizes, number formats, and in which order.

The order is that of what one wants to know first, since time may run out: a cell of each kind with
all ways, then the others with the ways that matter most, then the rest of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from bnfx.bench.on_gpu.ways_to_run import MAIN, NAMES, OPTIONS
from bnfx.bench.zoo.random_norms import randomise

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SIZES = {"r3d_18": (3, 8, 112, 112), "tiny": (3, 16, 16)}
_TIMM = ("repvgg_a0", "mobileone_s0")


@dataclass(frozen=True)
class Cell:
    """One model at one batch size in one number format.

    Args:
        number_format: ``"fp32"`` (convolutions in TF32, as is PyTorch's default), ``"fp16"`` or
            ``"bf16"``.
        ways: names of the ways to run it.
    """

    model: str
    batch: int
    number_format: str
    channels_last: bool
    ways: tuple[str, ...]

    @property
    def name(self) -> str:
        layout = " channels_last" if self.channels_last else ""
        return f"{self.model} b{self.batch} {self.number_format}{layout}"

    def built(self, device: str) -> tuple[nn.Module, torch.Tensor]:
        """The model in evaluation mode, its BatchNorms no identities, and an input."""
        torch.manual_seed(0)
        model = _model(self.model).eval().requires_grad_(False)
        size = _SIZES.get(self.model, (3, 224, 224))
        randomise(model, torch.randn(1, *size))
        x = torch.randn(self.batch, *size)
        model, x = model.to(device), x.to(device)
        model, x = model.to(_DTYPES[self.number_format]), x.to(_DTYPES[self.number_format])
        if not self.channels_last:
            return model, x
        layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        if x.dim() == 4:
            return model.to(memory_format=layout), x.to(memory_format=layout)
        for module in model.modules():
            if isinstance(module, nn.Conv3d):
                module.to(memory_format=layout)
        return model, x.to(memory_format=layout)


def tiny() -> nn.Module:
    """A residual block and a head: every way in seconds, for trying the script itself."""

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
            self.conv, self.last = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
            self.head = nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.stem(x)).relu()
            x = (self.last(self.conv(x)) + x).relu()
            return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]

    return Tiny()


def _model(name: str) -> nn.Module:
    if name == "tiny":
        return tiny()
    if name in _TIMM:
        import timm

        made: nn.Module = timm.create_model(name, pretrained=False)
        return made
    import torchvision

    more = {"weights_backbone": None} if name.startswith("deeplab") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **more)
    return model


def plan(size: str) -> list[Cell]:
    """The cells, the most telling first, none twice with the same ways.

    Args:
        size: ``"full"``, or ``"small"`` for trying the script.
    """
    if size == "small":
        return [Cell("tiny", 2, "fp32", False, NAMES)]
    found: dict[str, Cell] = {}
    for cell in _ordered():
        found.setdefault(f"{cell.name}: {len(cell.ways)} ways", cell)
    return list(found.values())


def _ordered() -> Iterator[Cell]:
    every = (*MAIN, *OPTIONS)
    yield Cell("resnet50", 8, "fp16", True, every)
    yield Cell("mobilenet_v3_large", 1, "fp32", False, MAIN)
    yield Cell("repvgg_a0", 8, "fp16", True, MAIN)
    yield Cell("resnet50", 1, "fp32", False, every)
    yield Cell("resnet50", 64, "bf16", True, MAIN)
    yield Cell("mobileone_s0", 1, "fp16", True, MAIN)
    yield Cell("densenet121", 8, "fp32", False, MAIN)
    yield Cell("deeplabv3_resnet50", 1, "fp16", True, MAIN)
    yield Cell("r3d_18", 1, "fp16", True, MAIN)
    yield Cell("convnext_tiny", 8, "bf16", False, MAIN)
    models = ("resnet50", "mobilenet_v3_large", "densenet121", *_TIMM)
    for model in (*models, "deeplabv3_resnet50", "r3d_18", "convnext_tiny"):
        for batch in (1, 8, 64):
            for number_format in _DTYPES:
                for layout in (True, False):
                    yield Cell(model, batch, number_format, layout, every)
