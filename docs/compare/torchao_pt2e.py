"""torchao's fold of BatchNorm in exported programs, which its PT2E quantisation runs first."""

from __future__ import annotations

import warnings

import torch
from common import case, randomise
from torch import nn
from torchao.quantization.pt2e.utils import _fuse_conv_bn_

import bnfx

warnings.simplefilter("ignore")


class SharedConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.first(self.conv(x)) + self.second(self.conv(x + 1))


class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + y


def pt2e(program, x):
    module = program.module()
    _fuse_conv_bn_(module)
    module.recompile()
    return module(x)


def compare(what, model):
    model, x = randomise(model), torch.randn(2, 4, 8, 8)
    program = torch.export.export(model, (x,))
    with torch.no_grad():
        case(
            "torchao pt2e",
            "torchao",
            what,
            model(x),
            lambda: pt2e(program, x),
            lambda: bnfx.fold(program).module()(x),
        )


compare("one convolution, two BatchNorms", SharedConv())
compare("a convolution read by its BatchNorm and by another op", TwoReaders())
compare(
    "a convolution and two BatchNorms in a row",
    nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)),
)
