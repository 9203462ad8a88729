"""Outputs that lie in one memory, or do not: one is written to, and another is looked at."""

from __future__ import annotations

import copy
import warnings

import torch
import torch._inductor.config as config
from common import case, randomise
from torch import nn

warnings.simplefilter("ignore")


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.conv, self.norm, self.what = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), what

    def forward(self, x):
        return self.what(self.norm(self.conv(x)), x)


def written(call, x):
    """What becomes of the first when the second is set to zero."""
    first, second = call(x.clone())
    second.zero_()
    return first


def compiled(model, freezing=False, **how):
    def call(x):
        torch._dynamo.reset()
        with config.patch(freezing=freezing):
            return torch.compile(model, **how)(x)

    return call


x = torch.randn(2, 3, 8, 8)
with torch.no_grad():
    for peer, what, returned in (
        ("Inductor", "two copies, one of them written to", lambda y, x: (y.clone(), y.clone())),
        ("Inductor", "x * 1, written to: what x is then", lambda y, x: (x, x * 1)),
        ("Inductor freezing", "y and y[:, 2], which is written to", lambda y, x: (y, y[:, 2])),
    ):
        model = randomise(Returns(returned))
        expected = written(copy.deepcopy(model), x)
        freezing = peer.endswith("freezing")
        case(
            peer,
            "torch",
            what,
            expected,
            lambda m=model, f=freezing: written(compiled(m, f), x),
            lambda m=model: written(compiled(m, backend="bnfx"), x),
        )
