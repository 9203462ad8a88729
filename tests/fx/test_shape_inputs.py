"""Sizes that a reshape reads, where they are nodes of the graph, are no elements that it reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from battery.conv import Fn
from support import Capture, randomise, relative
from torch import fx, nn

import bnfx


def _model(flat: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    model = Fn(lambda m, x: m.bn(flat(m.lin(x))), lin=nn.Linear(6, 6), bn=nn.BatchNorm1d(6))
    return randomise(model).double().eval()


FLAT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "computed": lambda y: y.view(y.size(0) * y.shape[1], -1),
    "named": lambda y: y.view(-1, y.size(2)),
}


@pytest.mark.parametrize("name", FLAT)
def test_dynamic_sizes(name: str) -> None:
    model, capture = _model(FLAT[name]), Capture()
    compiled = torch.compile(model, backend="bnfx", options=capture.options, dynamic=True)
    for size in (2, 5):
        x = torch.randn(size, 3, 6, dtype=torch.float64)
        with torch.no_grad():
            assert relative(compiled(x), model(x)) < 1e-12
    (report,) = capture.reports
    assert report.count("folded") == 1


@pytest.mark.parametrize("name", FLAT)
def test_a_traced_graph(name: str) -> None:
    traced = fx.symbolic_trace(_model(FLAT[name]))
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    assert bnfx.explain(traced, x).count("folded") == 1
    with torch.no_grad():
        assert relative(bnfx.fold(traced, x)(x), traced(x)) < 1e-12
