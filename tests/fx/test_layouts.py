"""Outputs are laid out as the model's are, whatever became of the weights."""

from __future__ import annotations

from collections.abc import Callable
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


Function = Callable[[nn.Module, torch.Tensor], torch.Tensor]

# Of a convolution's output: what closes the gaps of a part, and what becomes of it.
OF_PARTS: dict[str, tuple[Function, int]] = {
    "one step": (lambda norm, y: y[:, :, :2] * 2, 3),
    "steps that become one": (lambda norm, y: (y[:, :, :2] * 2 - 1) / 3, 3),
    "a step that is a BatchNorm": (lambda norm, y: norm(y[:, :, :2]) * 2, 3),
    "BatchNorms": (lambda norm, y: norm(norm(y[:, :, :2])), 3),
    "a view": (lambda norm, y: ((y[:, :, :2] * 2 - 1) / 3).view(-1), 4),
    "each second row": (lambda norm, y: (y[:, :, ::2] * 2 - 1) / 3, 3),
    "a channel": (lambda norm, y: (y[:, 1] * 2 - 1) / 3, 3),
    "one that is turned": (lambda norm, y: (y[:, :, :2].transpose(2, 3) * 2 - 1) / 3, 4),
    "one that is repeated": (lambda norm, y: (y[:, :, :1].expand(-1, -1, 7, -1) - 1) / 3, 5),
    "a sum of maps": (lambda norm, y: y[:, :, :2] * 2 + y[:, :, :2], 5),
    "a sum of one and its map": (lambda norm, y: _sum_with_map(y[:, :, :2]), 4),
    "of one and its copy": (lambda norm, y: _copy_and_whole(y[:, :, :2]), 5),
    "of one that is copied": (lambda norm, y: _sum_of_copies(y[:, :, :2], 1), 6),
    "of one that is copied and scaled": (lambda norm, y: _sum_of_copies(y[:, :, :2], 3), 7),
    "a ReLU, which closes them itself": (lambda norm, y: torch.relu(norm(y[:, :, :2]) * 2), 3),
    "a BatchNorm of one that is turned": (lambda norm, y: norm(y.transpose(2, 3)), 3),
    "all of it": (lambda norm, y: (y.transpose(0, 1) * 2 - 1) / 3, 2),
}


def _sum_with_map(y: torch.Tensor) -> torch.Tensor:
    return y * 2 + y


def _copy_and_whole(y: torch.Tensor) -> torch.Tensor:
    return y.clone() * 2 + y


def _sum_of_copies(y: torch.Tensor, factor: float) -> torch.Tensor:
    other = y.clone()
    return y.clone() * 2 + (other * factor if factor != 1 else other)


class _Part(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.norm, self.conv(x))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", OF_PARTS)
def test_parts_have_no_gaps(case: str, layout: torch.memory_format) -> None:
    torch._dynamo.reset()
    function, left = OF_PARTS[case]
    net = randomise(_Part(function)).eval().double()
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64).to(memory_format=layout)
    capture = Capture()
    with torch.no_grad():
        if case == "a view" and layout is torch.channels_last:
            with pytest.raises(RuntimeError, match="view"):  # of PyTorch's own
                net(x)
            return
        _check(net, torch.compile(net, backend="bnfx", options=capture.options), x)
        _check(net, bnfx.fold(net, x, keep="graph"), x)
    if layout is torch.contiguous_format:
        assert count_ops(capture.graphs[0]) == left


@pytest.mark.parametrize("factor", [1, 3])
def test_copies_of_a_whole_are_no_readers(factor: float) -> None:
    torch._dynamo.reset()
    net = randomise(_Part(lambda norm, y: _sum_of_copies(y, factor))).eval().double()
    x, capture = torch.randn(2, 3, 6, 5, dtype=torch.float64), Capture()
    with torch.no_grad():
        _check(net, torch.compile(net, backend="bnfx", options=capture.options), x)
    assert count_ops(capture.graphs[0]) == 1
