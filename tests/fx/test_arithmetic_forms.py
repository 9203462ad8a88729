"""BatchNorm by hand, in place or not, and casts that do nothing: folded where nobody can tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support import Capture, relative
from torch import Tensor, nn

import bnfx

Form = Callable[["ByHand", Tensor], Tensor]


class ByHand(nn.Module):
    """A convolution, and a BatchNorm of the user's own."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.conv, self.form = nn.Conv2d(3, 4, 3), form
        self.last = nn.Conv2d(4, 2, 1)
        draw = torch.Generator().manual_seed(0)
        for name in ("mean", "gamma", "beta"):
            value = torch.randn(4, 1, 1, generator=draw, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(value))
        self.var = nn.Parameter(torch.rand(4, 1, 1, generator=draw, dtype=torch.float64) + 0.5)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    @property
    def scale(self) -> Tensor:
        return self.gamma / (self.var + 1e-3).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.form(self, self.conv(x)).relu())


FOLDED: dict[str, Form] = {
    "in-place": lambda m, x: x.subtract(m.mean).mul_(m.scale).add_(m.beta),
    "in-place-everywhere": lambda m, x: (
        x.sub_(m.mean).mul_(m.var.add(1e-3).rsqrt_().mul_(m.gamma)).add_(m.beta)
    ),
    "functions": lambda m, x: torch.add(torch.multiply(torch.subtract(x, m.mean), m.scale), m.beta),
    "divided": lambda m, x: torch.divide(torch.sub(x, m.mean), m.var).mul_(m.gamma),
    "truly-divided": lambda m, x: torch.true_divide(x - m.mean, m.var).add_(m.beta),
    "div-in-place": lambda m, x: x.sub(m.mean).div_(m.var).multiply_(m.gamma),
    "long-names-in-place": lambda m, x: x.subtract_(m.mean).divide_(m.var).add_(m.beta),
    "augmented": lambda m, x: _augmented(m, x),
    "zeros-and-ones": lambda m, x: (
        x.subtract(m.mean).mul(m.scale * torch.ones_like(m.var)).add(torch.zeros_like(m.mean))
    ),
    "to-dtype": lambda m, x: (x.to(torch.float64) * m.scale).to(x.dtype) + m.beta,
    "double": lambda m, x: x.double().mul(m.scale).double().contiguous() + m.beta,
    "type-as": lambda m, x: (x * m.scale).type_as(m.beta).add(m.beta).type_as(x),
    "to-device": lambda m, x: (x.to("cpu") - m.mean).to("cpu", torch.float64).mul(m.scale),
    "type": lambda m, x: x.type(torch.float64).sub(m.mean),
    "to-like": lambda m, x: (x.to(m.beta) - m.mean).to(x),
    "silu-of-constants": lambda m, x: x * nn.functional.silu(m.var + 1, inplace=True),
}


def _augmented(m: ByHand, x: Tensor) -> Tensor:
    x = x - m.mean
    x *= m.scale
    x += m.beta
    return x


def _later(m: ByHand, x: Tensor) -> Tensor:
    """What is written over is read once more, behind the write."""
    first = x.subtract(m.mean)
    return first.mul_(m.scale) + first.tanh()


def _view(m: ByHand, x: Tensor) -> Tensor:
    """What is written over is seen through a view."""
    first = x.subtract(m.mean)
    part = first[:, :2]
    first.mul_(m.scale)
    return first + part.sum()


def _constant(m: ByHand, x: Tensor) -> Tensor:
    """The scale is written over after it was read."""
    scale = m.var + 1
    y = x * scale
    scale.mul_(2)
    return y * scale


def _own(m: ByHand, x: Tensor) -> Tensor:
    """A parameter is written over: it is another one at the next call."""
    return x * m.var.data.mul_(1.01)


# How many ops are folded at most, those before the write or cast. Export reads what was written
# from the write itself.
LEFT: dict[str, tuple[tuple[int, int], Form]] = {
    "seen-behind-the-write": ((1, 2), _later),
    "seen-through-a-view": ((1, 1), _view),
    "constant-written-between-two-readers": ((0, 0), _constant),
    "cast-down": ((0, 0), lambda m, x: (x.float().double() - m.mean) * m.scale),
    "cast-down-and-up": ((0, 0), lambda m, x: (x.half().double() - m.mean) * m.scale),
    "to-whole-numbers": ((0, 0), lambda m, x: x.to(torch.int32).to(torch.float64) * m.scale),
    "type-as-another": ((0, 0), lambda m, x: x.type_as(m.mean.float()).double().sub(m.mean)),
}


def _reports(model: nn.Module, x: Tensor) -> list[bnfx.Report]:
    """From Dynamo and from export, after checking both answers."""
    model = model.double().eval()
    capture = Capture()
    with torch.no_grad():
        expected = model(x)
        compiled = torch.compile(model, backend="bnfx", options=capture.options)
        assert relative(compiled(x), expected) < 1e-12
        assert relative(compiled(x), expected) < 1e-12
        program = torch.export.export(model, (x,))
        assert relative(bnfx.fold(program).module()(x), expected) < 1e-12
    return [*capture.reports, bnfx.explain(program)]


@pytest.mark.parametrize("form", FOLDED)
def test_folded(form: str) -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    for report in _reports(ByHand(FOLDED[form]), x):
        assert {verdict.outcome.value for verdict in report.verdicts} == {"folded"}, str(report)


@pytest.mark.parametrize("form", LEFT)
def test_left(form: str) -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    most, between = LEFT[form]
    for report, limit in zip(_reports(ByHand(between), x), most, strict=True):
        outcomes = [verdict.outcome.value for verdict in report.verdicts]
        assert outcomes.count("folded") <= limit, str(report)


def test_a_parameter_that_the_graph_writes_is_no_constant() -> None:
    models = [ByHand(_own).double().eval() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    x, capture = torch.randn(2, 3, 6, 6, dtype=torch.float64), Capture()
    compiled = torch.compile(models[0], backend="bnfx", options=capture.options)
    with torch.no_grad():
        for _ in range(3):
            assert relative(compiled(x), models[1](x)) < 1e-12
    (report,) = capture.reports
    assert "folded" not in {verdict.outcome.value for verdict in report.verdicts}
