"""The net that :mod:`bnfx.bench.soak` calls, and the seven kinds of write to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Net(nn.Module):
    """All folded weights come from one small vector, ``norm.weight``, written in one piece."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 1, bias=False) for _ in range(6))
        self.norm = nn.BatchNorm2d(4)
        for statistic in (self.norm.running_mean, self.norm.running_var):
            assert statistic is not None
            nn.init.uniform_(statistic, 0.5, 1.5)
        self.eval().requires_grad_(False)
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            nn.init.orthogonal_(conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = self.norm(conv(x)).tanh()
        return x


def _optimizer_step(model: Net, value: torch.Tensor) -> None:
    weight = model.norm.weight
    weight.grad = weight - value
    torch.optim.SGD([weight], lr=1.0, fused=True).step()


def _through_numpy(model: Net, value: torch.Tensor) -> None:
    model.norm.weight.detach().numpy()[:] = value.numpy()


WRITES: dict[str, Callable[[Net, torch.Tensor], Any]] = {
    "in place": lambda model, value: model.norm.weight.copy_(value),
    "past autograd": lambda model, value: model.norm.weight.data.copy_(value),
    "other memory": lambda model, value: setattr(model.norm.weight, "data", value.clone()),
    "new parameter": lambda model, value: setattr(
        model.norm, "weight", nn.Parameter(value.clone(), requires_grad=False)
    ),
    "NumPy": _through_numpy,
    "fused optimizer": _optimizer_step,
    "load_state_dict": lambda model, value: model.norm.load_state_dict(
        {**model.norm.state_dict(), "weight": value}
    ),
}
