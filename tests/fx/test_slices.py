"""Slices between an operator and its BatchNorm, as Dynamo and ``torch.export`` show them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support import Capture, randomise, relative
from torch import Tensor, nn

import bnfx

Function = Callable[[Tensor], Tensor]
# Of a convolution's output of shape (2, 6, 7, 9).
CROSSED: dict[str, Function] = {
    "two-axes": lambda y: y[:, :, 1:-1, 1:-1],
    "crop": lambda y: y[..., :-1, :-1],
    "ellipsis": lambda y: y[..., 1:-1, 2:],
    "batch-too": lambda y: y[:1, :, 1:],
    "steps": lambda y: y[:, :, ::2, 1::3],
    "one-step": lambda y: y[:, :, ::2],
    "step-and-end": lambda y: y[:, :, 1:6:2, -4:-1],
    "index-and-new-axis": lambda y: y[:, :, 0:5, 0][:, :, :, None],
    "new-axis-behind": lambda y: y[:, :, 1:3, -1, None],
    "far-ends": lambda y: y[-9:99, :, -99:4, 2:99],
    "nothing": lambda y: y[:, :, 0:, :],
    "channels-and-space": lambda y: y[:, 1:5, 1:],
    "every-other-channel": lambda y: y[:, ::2],
    "every-third-channel-from-1": lambda y: y[:, 1::3, 1:-1],
}
LEFT: dict[str, Function] = {
    "index-list": lambda y: y[:, :, [0, 2], 1:],
    "seen-elsewhere": lambda y: y[:, :, 1:, 1:] + y.sum(),
}


class Net(nn.Module):
    def __init__(self, between: Function) -> None:
        super().__init__()
        self.conv, self.between = nn.Conv2d(3, 6, 3), between
        channels = between(torch.ones(2, 6, 7, 9)).shape[1]
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.between(self.conv(x)))


class Reader(Net):
    """The BatchNorm first."""

    def __init__(self, between: Function) -> None:
        super().__init__(between)
        self.conv, self.bn = nn.Conv2d(self.bn.num_features, 4, 1), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.between(self.bn(x)))


def _outcome(model: nn.Module, x: Tensor) -> str:
    """What both frontends say, after checking that the compiled model is exact."""
    randomise(model).eval().double()
    capture = Capture()
    with torch.no_grad():
        compiled = torch.compile(model, backend="bnfx", options=capture.options)
        assert relative(compiled(x), model(x)) < 1e-12
    (report,) = capture.reports
    (verdict,) = report.verdicts
    exported = bnfx.explain(torch.export.export(model, (x,)))
    (same,) = exported.verdicts
    assert (verdict.outcome, {r.code for r in verdict.refusals}) == (
        same.outcome,
        {r.code for r in same.refusals},
    )
    return str(verdict.outcome.value)


@pytest.mark.parametrize("form", CROSSED)
def test_backwards(form: str) -> None:
    x = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    assert _outcome(Net(CROSSED[form]), x) == "folded"


@pytest.mark.parametrize("form", [form for form in CROSSED if "channel" in form or "axes" in form])
def test_forwards(form: str) -> None:
    x = torch.randn(2, 6, 7, 9, dtype=torch.float64)
    assert _outcome(Reader(CROSSED[form]), x) == "folded"


@pytest.mark.parametrize("form", LEFT)
def test_what_is_not_crossed(form: str) -> None:
    x = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    assert _outcome(Net(LEFT[form]), x) == "lowered"


def test_parts_of_one_value_beside_each_other() -> None:
    """Two slices along one axis that share no position, and one that does."""

    class Parts(nn.Module):
        def __init__(self, step: int) -> None:
            super().__init__()
            self.conv, self.bn, self.step = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(3), step

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.bn(y[:, ::2]) + y[:, 1 :: self.step].sum(1, keepdim=True)

    x = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    assert _outcome(Parts(2), x) == "folded"
    assert _outcome(Parts(1), x) == "lowered"
