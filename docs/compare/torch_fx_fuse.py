"""torch.fx.experimental.optimization.fuse, and torch.ao.quantization.fuse_modules."""

from __future__ import annotations

import warnings

import torch
from common import SharedConv, TwoReaders, case, randomise
from torch import nn
from torch.fx.experimental.optimization import fuse

import bnfx

warnings.simplefilter("ignore")
X = torch.randn(2, 4, 8, 8)


def compare(what, model, x):
    model = randomise(model)
    with torch.no_grad():
        expected = model(x)
        case(
            "torch.fx fuse",
            "torch",
            what,
            expected,
            lambda: fuse(model)(x),
            lambda: bnfx.fold(model, x, verify=False)(x),
        )


compare("one convolution, two BatchNorms", SharedConv(), X)
linear = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
compare("BatchNorm1d behind a linear layer on (N, L, C), L = C", linear, torch.randn(3, 5, 6))

hooked = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
hooked[0].register_forward_hook(lambda module, inputs, output: output * 3)
hooked = randomise(hooked)
with torch.no_grad():
    case(
        "torch.fx fuse",
        "torch",
        "a forward hook on the convolution",
        hooked(X),
        lambda: fuse(hooked)(X),
        lambda: bnfx.fold(hooked, X, verify=False)(X),
    )
compare(
    "a linear layer and BatchNorm1d(affine=False)",
    nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False)),
    torch.randn(3, 6),
)

readers = randomise(TwoReaders())
with torch.no_grad():
    case(
        "fuse_modules",
        "torch",
        "a convolution read by its BatchNorm and by another op",
        readers(X),
        lambda: torch.ao.quantization.fuse_modules(readers, [["conv", "bn"]])(X),
        lambda: bnfx.fold(readers, X, verify=False)(X),
    )
