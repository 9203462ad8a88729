"""What ``fold`` may know of shapes: what the graph fixes, and nothing that other inputs change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from battery.conv import Fn
from support import randomise, relative
from torch import nn

import bnfx

Forward = Callable[..., torch.Tensor]


def model(forward: Forward, **layers: nn.Module) -> nn.Module:
    return randomise(Fn(forward, **layers)).eval().double()


def agrees(net: nn.Module, example: tuple[int, ...], other: tuple[int, ...]) -> None:
    """Folded on one shape, and right on another, or an error that says why not."""
    folded = bnfx.fold(net, torch.randn(example, dtype=torch.float64), keep="graph")
    x = torch.randn(other, dtype=torch.float64)
    with torch.no_grad():
        try:
            answer = folded(x)
        except AssertionError as error:
            if "this graph was folded for" not in str(error):
                raise
            return
        assert relative(answer, net(x)) < 1e-10


SHAPES = [((1, 4, 4, 4), (1, 4, 8, 8)), ((2, 4, 6, 6), (5, 4, 6, 7)), ((4, 4, 1, 1), (1, 4, 5, 5))]
NETS: dict[str, Callable[[], nn.Module]] = {
    "border": lambda: model(
        lambda m, x: m.c(m.bn(x)), bn=nn.BatchNorm2d(4), c=nn.Conv2d(4, 3, 3, padding=1)
    ),
    "view": lambda: model(
        lambda m, x: m.bn(m.c(x).view(-1, 4, x.shape[2] * x.shape[3])),
        c=nn.Conv2d(4, 4, 1),
        bn=nn.BatchNorm1d(4),
    ),
    "view-by-numbers": lambda: model(
        lambda m, x: m.bn(m.c(x).reshape(-1, 4, 1)), c=nn.Conv2d(4, 4, 1), bn=nn.BatchNorm1d(4)
    ),
    "squeeze": lambda: model(lambda m, x: m.c(x).squeeze() * m.c.bias, c=nn.Conv2d(4, 5, 1)),
    "batch-slice": lambda: model(
        lambda m, x: (lambda y: torch.cat([m.b(y[:2]), y[2:]]))(m.a(x)),
        a=nn.BatchNorm2d(4),
        b=nn.BatchNorm2d(4),
    ),
    "pool-and-branches": lambda: model(
        lambda m, x: m.bn(F.avg_pool2d(m.a(x) + m.b(x) + x, 1)),
        a=nn.Conv2d(4, 4, 3, padding=1),
        b=nn.Conv2d(4, 4, 1),
        bn=nn.BatchNorm2d(4),
    ),
}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("example", "other"), SHAPES)
def test_other_sizes_are_right_or_refused(
    name: str, example: tuple[int, ...], other: tuple[int, ...]
) -> None:
    net = NETS[name]()
    try:
        net(torch.randn(other, dtype=torch.float64))
    except RuntimeError:
        pytest.fail("the model itself takes both shapes") if name != "squeeze" else None
        return
    agrees(net, example, other)


@pytest.mark.parametrize("name", ["border", "pool-and-branches"])
def test_what_is_folded_takes_other_sizes(name: str) -> None:
    net = NETS[name]()
    folded = bnfx.fold(net, torch.randn(1, 4, 6, 6, dtype=torch.float64), keep="graph")
    x = torch.randn(3, 4, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        assert relative(folded(x), net(x)) < 1e-10


def test_sequences_with_the_batch_in_the_middle() -> None:
    net = model(
        lambda m, x: m.c(m.bn(x.permute(1, 2, 0))),
        bn=nn.BatchNorm1d(4),
        c=nn.Conv1d(4, 3, 3, padding=1),
    )
    for example, other in (((1, 2, 4), (5, 2, 4)), ((6, 2, 4), (1, 2, 4))):
        agrees(net, example, other)


def test_numbers_among_the_inputs_are_checked() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.c = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)

        def forward(self, x: torch.Tensor, n: int) -> torch.Tensor:
            return self.c(self.bn(F.interpolate(x, size=(n, n))))

    net = randomise(Sized()).eval().double()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    folded = bnfx.fold(net, x, 5, keep="graph")
    with torch.no_grad():
        assert relative(folded(x, 5), net(x, 5)) < 1e-10
        with pytest.raises(AssertionError, match="n=5"):
            folded(x, 1)
