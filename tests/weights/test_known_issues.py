"""The stale answers that torch.compile was reported to give, as tests."""

from __future__ import annotations

import copy

import pytest
import torch
from support import randomise, relative
from torch import nn

MODES = ["auto", "live", "frozen"]


class ConvNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("weights", MODES)
def test_108863_evaluate_train_evaluate(weights: str) -> None:
    """pytorch#108863: the convolution folded at the first evaluation answers at the second."""
    torch.manual_seed(0)
    model = randomise(ConvNorm())
    compiled = torch.compile(model, backend="bnfx", options={"weights": weights})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x = torch.randn(4, 3, 8, 8)
    answers = []
    for _ in range(3):
        model.eval()
        with torch.no_grad():
            answers.append(compiled(x))
            assert relative(answers[-1], model(x)) < 1e-5
        model.train()
        compiled(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert relative(answers[0], answers[-1]) > 1e-2, "training must matter"


@pytest.mark.one_in(9)
@pytest.mark.parametrize("weights", MODES)
@pytest.mark.parametrize("norm", [False, True])
def test_104984_load_between_evaluations(weights: str, norm: bool) -> None:
    """pytorch#104984: ``eval()`` under no_grad keeps the weights that were there at first."""
    torch.manual_seed(0)
    layers = [nn.Linear(128, 2), *([nn.BatchNorm1d(2)] if norm else []), nn.Sigmoid()]
    model = randomise(nn.Sequential(*layers))
    compiled = torch.compile(model, backend="bnfx", options={"weights": weights})
    x = torch.randn(4, 128)
    other = {
        key: torch.rand_like(value) if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    model.eval()
    with torch.no_grad():
        before = compiled(x)
        model.load_state_dict(other)
        after = compiled(x)
        assert relative(after, model(x)) < 1e-5
        assert relative(after, before) > 1e-2
    model.train()
    assert relative(compiled(x), model(x)) < 1e-5
    model.eval()
    with torch.no_grad():
        assert relative(compiled(x), model(x)) < 1e-5


@pytest.mark.one_in(6)
@pytest.mark.parametrize("weights", MODES)
@pytest.mark.parametrize("kind", ["linear", "norm"])
def test_129362_assign_to_a_model_whose_forward_is_compiled(weights: str, kind: str) -> None:
    """pytorch#129362: ``load_state_dict(assign=True)`` after writes through ``.data`` does nothing.

    The module holds its own compiled method, as in the report.
    """
    torch.manual_seed(0)
    model = (randomise(ConvNorm()) if kind == "norm" else nn.Linear(5, 5)).eval()
    eager = copy.deepcopy(model)
    x = torch.randn(2, 3, 8, 8) if kind == "norm" else torch.ones(1, 5)
    options = {"weights": weights}
    model.forward = torch.compile(model.forward, fullgraph=True, backend="bnfx", options=options)
    kept = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        original = eager(x)
        assert relative(model(x), original) < 1e-5
        pairs = zip(model.parameters(), eager.parameters(), strict=True)
        for number, pair in enumerate(pairs):
            for parameter in pair:
                parameter.data.copy_(
                    torch.linspace(-1, number, parameter.numel()).view_as(parameter)
                )
        assert relative(eager(x), original) > 1e-2
        assert relative(model(x), eager(x)) < 1e-5
        model.load_state_dict(kept, assign=True)
        assert relative(model(x), original) < 1e-5


@pytest.mark.one_in(3)
@pytest.mark.parametrize("weights", MODES)
def test_each_tensor_written_to_through_its_state_dict(weights: str) -> None:
    """One by one, buffers and parameters, folded or not."""
    torch.manual_seed(0)
    model = randomise(ConvNorm()).eval()
    compiled = torch.compile(model, backend="bnfx", options={"weights": weights})
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        compiled(x)
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            before = model(x)
            value.mul_(-1.5 if "var" not in name else 2.5)
            assert relative(compiled(x), model(x)) < 1e-5
            assert relative(model(x), before) > 1e-3, name
