"""Graphs deeper than Python recurses, folded and compiled."""

from __future__ import annotations

import copy

import pytest
import torch
from support import randomise
from torch import nn

import bnfx
from bnfx.bench.depth import Dropouts, Halves, Maps, Sums
from bnfx.passes.report import Outcome

CASES = [
    pytest.param(Dropouts(1100), id="dropouts", marks=pytest.mark.heavy),
    pytest.param(Halves(30), id="halves"),
    pytest.param(Sums(30), id="sums"),
    pytest.param(Maps(30), id="maps"),
]


def prepared(model: nn.Module) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The model in float64 with random numbers, an input, and its own answer."""
    model = randomise(copy.deepcopy(model)).double().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.abs_()  # max pools keep no other order
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        return model, x, model(x)


def is_same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-12 * expected.abs().max())


@pytest.mark.one_in(3)
@pytest.mark.parametrize("model", CASES)
def test_a_deep_graph_is_folded(model: nn.Module) -> None:
    model, x, expected = prepared(model)
    verdicts = bnfx.explain(model, x).verdicts
    assert {verdict.outcome for verdict in verdicts} == {Outcome.FOLDED}
    with torch.no_grad():
        folded = bnfx.fold(model, x, keep="graph")
        assert is_same(folded(x), expected)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())


@pytest.mark.one_in(3)
@pytest.mark.parametrize("model", CASES)
def test_a_deep_graph_is_compiled(model: nn.Module) -> None:
    model, x, expected = prepared(model)
    reports: list[bnfx.Report] = []
    torch._dynamo.reset()
    compiled = torch.compile(
        model,
        backend="bnfx",
        fullgraph=True,
        options={"inner": "eager", "report": reports.append},
    )
    with torch.no_grad():
        assert is_same(compiled(x), expected)
    assert {verdict.outcome for verdict in reports[-1].verdicts} == {Outcome.FOLDED}
