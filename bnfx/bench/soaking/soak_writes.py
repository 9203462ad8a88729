"""The nets that :mod:`bnfx.bench.soak` calls, and the kinds of write to them.

Each net has one tensor that is written to, in versions: version ``v`` holds ``VALUES[v % 5]``,
times a fixed pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

VALUES = (0.9, -1.1, 1.3, -0.7, 0.5)


class Vector(nn.Module):
    """All folded weights come from one small vector, that of a BatchNorm."""

    inputs, channels = 4, 4

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 1, bias=False) for _ in range(6))
        self.norm = _norm(4)
        self.eval().requires_grad_(False)
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            nn.init.orthogonal_(conv.weight)
        self.pattern = torch.ones(4)

    @property
    def written(self) -> nn.Module:
        """The layer whose weight is written to."""
        return self.norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = self.norm(conv(x)).tanh()
        return x


class Matrix(nn.Module):
    """A weight that is too large to be compared whole; the answer grows with each element of it."""

    inputs, channels = 64, 80

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(64, 80, 1, bias=False)
        self.norm = _norm(80)
        self.eval().requires_grad_(False)
        self.pattern = torch.rand(80, 64, 1, 1) + 0.5

    @property
    def written(self) -> nn.Module:
        """The layer whose weight is written to."""
        return self.conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.norm(self.conv(x))
        return answer


Net = Vector | Matrix


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    for statistic in (norm.running_mean, norm.running_var):
        assert statistic is not None
        nn.init.uniform_(statistic, 0.5, 1.5)
    return norm


def weight_of(model: Net, version: int) -> torch.Tensor:
    """What is written to a model for that version."""
    return model.pattern * VALUES[version % len(VALUES)]


def _optimizer_step(layer: Any, value: torch.Tensor) -> None:
    layer.weight.grad = layer.weight - value
    torch.optim.SGD([layer.weight], lr=1.0, fused=True).step()


def _through_numpy(layer: Any, value: torch.Tensor) -> None:
    layer.weight.detach().numpy()[:] = value.numpy()


# Those that move a sign of the tensor, or that a hook sees, once they are done.
SIGNED: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "in place": lambda layer, value: layer.weight.copy_(value),
    "other memory": lambda layer, value: setattr(layer.weight, "data", value.clone()),
    "new parameter": lambda layer, value: setattr(
        layer, "weight", nn.Parameter(value.clone(), requires_grad=False)
    ),
    "fused optimizer": _optimizer_step,
    "load_state_dict": lambda layer, value: layer.load_state_dict(
        {**layer.state_dict(), "weight": value}
    ),
}
# With those that content alone shows, of tensors that are compared whole.
WRITES = {
    **SIGNED,
    "past autograd": lambda layer, value: layer.weight.data.copy_(value),
    "NumPy": _through_numpy,
}


def by_element(layer: Any, value: torch.Tensor) -> Iterator[int]:
    """A write that takes its time: yields the index of each element just before it is written."""
    array = layer.weight.detach().numpy()
    for at, element in enumerate(value.numpy()):
        yield at
        array[at] = element
