"""Writes networks as ONNX files for the Relay tests; runs where torch is: `make test-relay`.

A plain export of a model in evaluation has its BatchNorms folded by torch already, as far as torch
can. ``training=PRESERVE`` with constant folding off keeps them.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn


class Mixed(nn.Module):
    """What torch's own exporter and TVM both leave: transposed and grouped, 1-d, linear, cat."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.wide = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, groups=1), nn.BatchNorm2d(8))
        self.narrow = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False))
        self.joined = nn.BatchNorm2d(12)
        self.grouped = nn.Sequential(nn.Conv2d(12, 12, 3, groups=3), nn.BatchNorm2d(12), nn.ReLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(12, 6, 2, stride=2), nn.BatchNorm2d(6))
        self.head = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = self.joined(torch.cat([self.wide(x), self.narrow(x)], dim=1))
        x = self.up(self.grouped(x))
        return self.head(x.mean((2, 3)))


def randomise(model: nn.Module) -> nn.Module:
    """Signed BatchNorm parameters and statistics: fresh ones are nearly identities."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def export(name: str, model: nn.Module, size: int, folder: Path) -> None:
    """``name.onnx``, and ``name.npz`` with an input and torch's answer."""
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        answer = randomise(model)(x)
    np.savez(folder / f"{name}.npz", x=x.numpy(), answer=answer.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on its older exporter
        torch.onnx.export(
            model,
            (x,),
            str(folder / f"{name}.onnx"),
            dynamo=False,
            opset_version=13,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["x"],
        )


if __name__ == "__main__":
    torch.manual_seed(0)
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    export("mixed", Mixed(), 12, target)
    export("resnet18", torchvision.models.resnet18(weights=None, num_classes=10), 64, target)
