"""Models of the tests on a device, and how an answer is judged there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from support import randomise, relative
from torch import nn


class Net(nn.Module):
    """Folds of each kind: before, behind, before a ReLU, before a sum, into a linear layer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.before = nn.BatchNorm2d(3)
        self.one, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.two, self.last = nn.Conv2d(16, 16, 9, padding=4), nn.BatchNorm2d(16)
        self.up, self.up_norm = nn.ConvTranspose2d(16, 8, 2, 2), nn.BatchNorm2d(8)
        self.head, self.head_norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        randomise(self, seed).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.one(self.before(x))).relu()
        x = (self.last(self.two(x)) + x).relu()
        return self.head_norm(self.head(self.up_norm(self.up(x)).mean((2, 3))))


def picture(device: str, seed: int = 1) -> torch.Tensor:
    return torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(seed)).to(device)


@torch.no_grad()
def exact(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The untouched model's answer in float64."""
    return copy.deepcopy(model).double()(x.double())


@torch.no_grad()
def error(model: nn.Module, compiled: Any, x: torch.Tensor) -> float:
    return relative(compiled(x), exact(model, x))


@contextmanager
def without_tf32(allowed: bool = False) -> Iterator[None]:
    """Whole float32 in convolutions and matrix products, or TF32."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before
