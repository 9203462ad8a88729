"""torchao's fold of BatchNorm in exported programs, which its PT2E quantisation runs first."""

from __future__ import annotations

import warnings

import torch
from common import SharedConv, TwoReaders, case, randomise
from torch import nn
from torchao.quantization.pt2e.utils import _fuse_conv_bn_

import bnfx

warnings.simplefilter("ignore")


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
