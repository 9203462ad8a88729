"""Inductor's freezing, and its efficient_conv_bn_eval pass."""

from __future__ import annotations

import copy
import warnings

import torch
import torch._inductor.config as config
import torch.nn.functional as F
from common import case, randomise
from torch import nn

warnings.simplefilter("ignore")


class Scaled(nn.Module):
    """The last axis is as long as there are channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 6, 3), nn.Parameter(torch.rand(1, 6) + 0.5)

    def forward(self, x):
        return self.conv(x) * self.scale


def with_bnfx(model, x):
    torch._dynamo.reset()
    return torch.compile(model, backend="bnfx", options={"inner": "aot_eager"})(x)


def frozen(model, x, change=None):
    torch._dynamo.reset()
    with config.patch(freezing=True):
        compiled = torch.compile(model)
        answer = compiled(x)
        if change is not None:
            change(model)
            answer = compiled(x)
    return answer


def compare(what, model, x):
    expected = model(x)
    case(
        "Inductor freezing",
        "torch",
        what,
        expected,
        lambda: frozen(model, x),
        lambda: with_bnfx(model, x),
    )


def double(model):
    model[0].weight.mul_(2)


with torch.no_grad():
    transposed = randomise(nn.Sequential(nn.ConvTranspose2d(6, 6, 3), nn.BatchNorm2d(6)))
    compare("ConvTranspose2d(C, C), then BatchNorm", transposed, torch.randn(2, 6, 8, 8))
    compare("conv(x) * p, p of shape (1, C), width C", Scaled().eval(), torch.randn(2, 3, 8, 8))

    model, x = (
        randomise(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))),
        torch.randn(2, 3, 9, 9),
    )
    changed = copy.deepcopy(model)
    double(changed)

    def bnfx_after_a_write():
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="bnfx", options={"inner": "aot_eager"})
        compiled(x)
        double(model)
        return compiled(x)

    fresh = copy.deepcopy(model)
    case(
        "Inductor freezing",
        "torch",
        "weights written to after the first call",
        changed(x),
        lambda: frozen(fresh, x, double),
        bnfx_after_a_write,
    )


def efficient(model, x):
    torch._dynamo.reset()
    with config.patch(efficient_conv_bn_eval_fx_passes=True):
        return torch.compile(model)(x)


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bn = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(F.conv2d(x, self.weight, stride=2, padding=1))


linear = randomise(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)))
three = torch.randn(3, 5, 6)
for what, model, x in (
    ("keyword arguments of a convolution", randomise(Keywords()), torch.randn(2, 3, 8, 8)),
    ("BatchNorm1d behind a linear layer on (N, L, C), L = C", linear, three),
):
    with torch.no_grad():
        case(
            "Inductor efficient_conv_bn_eval",
            "torch",
            what,
            model(x),
            lambda m=model, x=x: efficient(m, x),
            lambda m=model, x=x: with_bnfx(m, x),
        )
