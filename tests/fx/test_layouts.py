"""Outputs are laid out as the model's are, whatever became of the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import Capture, count_ops, randomise, relative
from torch import nn

import bnfx

RANKS = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d)}
KERNELS = ((1, 3), (3, 1))


def _net(rank: int, first: int, second: int) -> tuple[nn.Module, torch.Tensor]:
    """Two convolutions that become one, whose weight is a product."""
    conv, norm = RANKS[rank]
    layers = [conv(4, 4, first, bias=False), norm(4), conv(4, 4, second)]
    net = randomise(nn.Sequential(*layers)).eval().double()
    return net, torch.randn(2, 4, *(6, 5)[:rank], dtype=torch.float64)


def _check(net: nn.Module, run: Any, x: torch.Tensor) -> None:
    """A caller may view the output: ``y.view(n, -1)`` raises where channels come last."""
    actual, expected = run(x), net(x)
    assert relative(actual, expected) < 1e-12
    assert actual.stride() == expected.stride()


@pytest.mark.parametrize("weights", ["live", "frozen"])
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("rank", RANKS)
def test_convolutions_that_became_one(rank: int, kernels: tuple[int, int], weights: str) -> None:
    torch._dynamo.reset()
    net, x = _net(rank, *kernels)
    capture = Capture()
    options = {**capture.options, "weights": weights}
    with torch.no_grad():
        _check(net, torch.compile(net, backend="bnfx", options=options), x)
    assert count_ops(capture.graphs[0]) == 1


@pytest.mark.parametrize("kernels", KERNELS)
def test_folded_into_one(kernels: tuple[int, int]) -> None:
    net, x = _net(2, *kernels)
    with torch.no_grad():
        _check(net, bnfx.fold(net, x, keep="graph"), x)
