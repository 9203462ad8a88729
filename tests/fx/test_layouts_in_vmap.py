"""BatchNorm inside of ``torch.vmap`` lays its output out as no convolution would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import randomise
from torch import nn

import bnfx
from bnfx.report import Report

Inside = Callable[[Any, torch.Tensor], Any]


class Mapped(nn.Module):
    def __init__(self, inside: Inside, **axes: int) -> None:
        super().__init__()
        self.c, self.b = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.d, self.e = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.inside, self.axes = inside, axes

    def forward(self, x: torch.Tensor) -> Any:
        return torch.vmap(lambda each: self.inside(self, each), **self.axes)(x)


def _in_turn(m: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.vmap(lambda each: m.b(m.c(each[None])))(x)


FORMS: dict[str, tuple[Inside, dict[str, int]]] = {
    "BatchNorm last": (lambda m, x: m.b(m.c(x)), {}),
    "activated": (lambda m, x: m.b(m.c(x)).relu(), {}),
    "out behind": (lambda m, x: m.b(m.c(x)), {"out_dims": 2}),
    "in behind": (lambda m, x: m.b(m.c(x)), {"in_dims": 1}),
    "twice": (_in_turn, {}),
    "summed": (lambda m, x: m.b(m.c(x)).sum(1), {}),
    "two": (lambda m, x: m.e(m.d(m.b(m.c(x)))), {}),
    "beside": (lambda m, x: (m.b(m.c(x)), m.c(x)), {}),
    "arithmetic": (lambda m, x: m.c(x) * m.b.weight[:, None, None] + 1, {}),
    "a convolution last": (lambda m, x: m.d(m.b(m.c(x)).relu()), {}),
}


def significant(tensor: torch.Tensor) -> list[int]:
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("name", list(FORMS))
def test_outputs_lie_as_they_did(name: str, exported: bool) -> None:
    inside, axes = FORMS[name]
    model = randomise(Mapped(inside, **axes)).double().eval()
    x = torch.randn(4, 2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        if exported and "out_dims" in axes:
            pytest.skip("torch.export puts a fake tensor among its constants")
        if exported:
            folded = bnfx.fold(torch.export.export(model, (x,))).module()
        else:
            torch._dynamo.reset()
            folded = torch.compile(model, backend="bnfx", options={"inner": "aot_eager"})
        given, right = folded(x), model(x)
        torch.testing.assert_close(given, right, rtol=1e-9, atol=1e-9)
        for one, other in zip(*map(torch.utils._pytree.tree_leaves, (given, right)), strict=True):
            assert significant(one) == significant(other)


@pytest.mark.parametrize(("name", "folded"), [("a convolution last", 1), ("two", 1)])
def test_what_a_convolution_reads_is_folded(name: str, folded: int) -> None:
    """Its output lies as it does for any input."""
    model = randomise(Mapped(FORMS[name][0])).double().eval()
    reports: list[Report] = []
    torch._dynamo.reset()
    with torch.no_grad():
        options = {"inner": "aot_eager", "report": reports.append}
        torch.compile(model, backend="bnfx", options=options)(
            torch.randn(4, 2, 3, 8, 8, dtype=torch.float64)
        )
    outcomes = [verdict.outcome.value for verdict in reports[0].graphs[0].verdicts]
    assert outcomes.count("folded") == folded
