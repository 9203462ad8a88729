"""What can be done with a folded model: fold it again, trace it, copy it, train it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support import TORCH, randomise, relative
from torch import fx, nn

import bnfx

X = torch.randn(2, 3, 8, 8, dtype=torch.float64)
OTHER = torch.randn(5, 3, 11, 10, dtype=torch.float64)


class Pooled(nn.Module):
    """``F.max_pool2d`` is one function or another, by a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.bn(F.max_pool2d(self.conv(x), 2)))


def _pooled() -> nn.Module:
    return randomise(Pooled()).eval().double()


def test_pools_chosen_by_a_flag_decide_nothing() -> None:
    model = _pooled()
    folded = bnfx.fold(model, keep="graph")  # without inputs: by symbolic tracing
    with torch.no_grad():
        assert relative(folded(OTHER), model(OTHER)) < 1e-12


@pytest.mark.skipif(TORCH < (2, 12), reason="its sizes are fixed: such guards are not made")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit:FutureWarning")
def test_a_graph_with_guards_can_be_traced() -> None:
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3))
    model = randomise(nn.Sequential(*layers, nn.BatchNorm2d(5), nn.Conv2d(5, 5, 1)))
    model = model.eval().double()
    folded = bnfx.fold(model, X, keep="graph")
    assert "max(" in folded.code
    with torch.no_grad():
        traced = torch.jit.trace(folded, X)
        for run in (folded, traced, fx.symbolic_trace(folded)):
            assert relative(run(OTHER), model(OTHER)) < 1e-12
        with pytest.raises(AssertionError, match="folded for inputs with"):
            folded(X[:, :, :2])


@pytest.mark.parametrize("keep", ["module", "graph"])
def test_what_is_folded_in_inference_mode_can_be_trained(keep: str) -> None:
    model = _pooled()
    with torch.inference_mode():
        folded = bnfx.fold(model, X, keep=keep, verify=False, rules="fold-affine-into-linear")
    folded(X).sum().backward()
    assert all(p.grad is not None for p in folded.parameters())


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_scripted_part_is_named_without_inputs_too() -> None:
    part = torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval())
    model = nn.Sequential(nn.Identity(), part, nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    for inputs in ((), (torch.ones(1, 3, 4, 4),)):
        with pytest.raises(bnfx.CaptureError, match=r"^1 is TorchScript, whose code no graph"):
            bnfx.fold(model, *inputs, keep="graph")
        with pytest.warns(bnfx.FoldWarning, match="1.1 is TorchScript"):
            same = bnfx.fold(model, *inputs)
        assert type(same[3]) is nn.Identity
    with pytest.raises(bnfx.CaptureError, match=r"^1 is TorchScript, whose code no graph"):
        bnfx.explain(model)
