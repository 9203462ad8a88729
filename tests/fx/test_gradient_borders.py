"""Where gradients end or begin, no map passes: it has other gradients on the other side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import Capture, randomise
from torch import nn
from torch.utils.checkpoint import checkpoint

X = torch.randn(2, 4, 6, 5, dtype=torch.float64)
aten = torch.ops.aten


class Net(nn.Module):
    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.run = run

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


def frozen_conv(net: Net, x: torch.Tensor) -> Any:
    with torch.no_grad():
        y = net.conv(x)
    return net.bn(y)


def with_gradients(net: Net, x: torch.Tensor) -> Any:
    with torch.enable_grad():
        return net.bn(net.conv(x))


def inferred_conv(net: Net, x: torch.Tensor) -> Any:
    with torch.inference_mode():
        y = net.conv(x)
    return net.bn(y.clone())


def not_inferred(net: Net, x: torch.Tensor) -> Any:
    with torch.inference_mode(False):
        return net.bn(net.conv(x))


def checkpointed(run: Callable[..., Any]) -> Callable[..., Any]:
    return lambda net, x: checkpoint(lambda x: run(net, x), x, use_reentrant=False)


def branch(run: Callable[..., Any]) -> Callable[..., Any]:
    def forward(net: Net, x: torch.Tensor) -> Any:
        return torch.cond(x.sum() < 1e9, lambda x: run(net, x), lambda x: net.bn(net.conv(x)), (x,))

    return forward


def parts(net: Net, x: torch.Tensor) -> Any:
    return net.bn(torch.cat([part.detach() for part in net.conv(x).split(2, 1)], 1))


# What runs, whether gradients are on outside of it, and which parameters get some.
CASES: dict[str, tuple[Callable[..., Any], bool, tuple[bool, bool]]] = {
    "a block without gradients": (frozen_conv, True, (False, True)),
    "the same, checkpointed": (checkpointed(frozen_conv), True, (False, True)),
    "the same, in a branch": (branch(frozen_conv), True, (False, True)),
    "a block with gradients": (with_gradients, False, (True, True)),
    "the same block, checkpointed": (checkpointed(with_gradients), False, (True, True)),
    "inference": (inferred_conv, True, (False, True)),
    "no inference": (not_inferred, False, (True, True)),
    "detached": (lambda n, x: n.bn(n.conv(x).detach()), True, (False, True)),
    "detached, in place": (lambda n, x: n.bn(n.conv(x).detach_()), True, (False, True)),
    "detached, by ATen": (lambda n, x: n.bn(aten.detach(n.conv(x))), True, (False, True)),
    "detached ahead": (lambda n, x: n.conv(n.bn(x).detach()), True, (True, False)),
    "detached parts": (parts, True, (False, True)),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_stop_where_they_did(name: str) -> None:
    run, on, expected = CASES[name]
    net = randomise(Net(run)).double().eval()
    torch._dynamo.reset()
    capture = Capture()
    with torch.set_grad_enabled(on):
        want, got = net(X), torch.compile(net, backend="bnfx", options=capture.options)(X)
    weights = (net.conv.weight, net.bn.weight)
    wanted, given = (
        torch.autograd.grad(value.square().sum(), weights, allow_unused=True)
        for value in (want, got)
    )
    for mine, theirs, flows in zip(given, wanted, expected, strict=True):
        assert (theirs is not None and theirs.any()) == flows
        if theirs is not None:
            assert torch.allclose(mine, theirs, rtol=1e-10, atol=0)
        else:
            assert mine is None or not mine.any()  # a branch gives zeros
    assert capture.reports[0].count("folded") == 0


@pytest.mark.parametrize("name", ["detached", "detached ahead", "detached parts", "inference"])
def test_without_gradients_there_are_no_such_borders(name: str) -> None:
    net = randomise(Net(CASES[name][0])).double().eval()
    torch._dynamo.reset()
    capture = Capture()
    with torch.no_grad():
        got = torch.compile(net, backend="bnfx", options=capture.options)(X)
        assert torch.allclose(got, net(X), rtol=1e-10, atol=1e-12)
    assert capture.reports[0].count("folded") == 1
