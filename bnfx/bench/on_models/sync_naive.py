"""What SyncBatchNorm is measured against: the usual re-implementation, and the bare limit."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from bnfx.sync.collectives import AddUp, add_up, gather


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """As detectron2's ``NaiveSyncBatchNorm``: E[x^2] - E[x]^2, averaged over ranks by autograd.

    All ranks weigh the same, the running variance is the biased one, and digits cancel.
    """

    @staticmethod
    def convert(module: nn.Module) -> None:
        """Make each BatchNorm2d in ``module`` one of these, in place."""
        for each in module.modules():
            if type(each) is nn.BatchNorm2d:
                each.__class__ = NaiveSyncBatchNorm

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        group: Any = dist.group.WORLD
        both = torch.cat([input.mean((0, 2, 3)), (input * input).mean((0, 2, 3))])
        shared: torch.Tensor = AddUp.apply(both, group.group_name) / dist.get_world_size()
        mean, square = shared.chunk(2)
        var = square - mean * mean
        assert self.running_mean is not None and self.running_var is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(var, self.momentum or 0.0)
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        output: torch.Tensor = input * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
        return output


def bare_collectives(count: int, channels: int) -> None:
    """``count`` all-gathers and all-reduces, as large as those of as many BatchNorms."""
    group: Any = dist.group.WORLD
    for _ in range(count):
        gather(torch.ones(1 + 2 * channels), group.group_name, dist.get_world_size())
    for _ in range(count):
        add_up(torch.ones(2 * channels), group.group_name)
