"""What code has by a closure or a global is not copied, so a copy that runs would write to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import randomise
from torch import nn

import bnfx
from bnfx.errors import BnfxError

X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
KEPT: list[nn.Module] = []


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.make: Callable[[torch.Tensor], torch.Tensor] = torch.relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.make(self.norm(self.conv(x)))


class ByGlobal(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.conv(x))
        KEPT[0].norm.running_var.mul_(2)  # type: ignore[operator, union-attr]
        return y


def by_closure() -> nn.Module:
    model = Net()
    norm = model.norm

    def make(y: torch.Tensor) -> torch.Tensor:
        norm.running_var.mul_(2)  # type: ignore[operator, union-attr]
        return y

    model.make = make
    return model


def by_global() -> nn.Module:
    model = ByGlobal()
    KEPT[:] = [model]
    return model


@pytest.mark.filterwarnings("ignore::bnfx.errors.FoldWarning")
@pytest.mark.parametrize("keep", ["auto", "graph", "module"])
@pytest.mark.parametrize("inputs", [(), (X,)], ids=["no inputs", "inputs"])
@pytest.mark.parametrize("made", [by_closure, by_global])
def test_a_write_to_the_model_itself_is_refused(
    made: Callable[[], nn.Module], inputs: tuple[Any, ...], keep: str
) -> None:
    model = randomise(made()).double().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(BnfxError):
        bnfx.fold(model, *inputs, keep=keep)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_what_a_closure_reads_may_be_the_models() -> None:
    model = randomise(Net()).double().eval()
    scale = model.norm.weight
    model.make = lambda y: y + scale.sum()
    folded = bnfx.fold(model, X, keep="graph")
    torch.testing.assert_close(folded(X), model(X))
