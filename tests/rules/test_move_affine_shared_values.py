"""affine(T x) -> T(affine' x) where ``T`` reads one value twice: ``x + x``, ``cat([x, x])``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from neutral import Model
from neutral_run import check_same
from support import randomise
from torch import nn

import bnfx
from bnfx.passes.graph import Node, Opaque
from bnfx.passes.report import Outcome
from bnfx.passes.rules.move_affine import RULE

SCALE_ONLY = {"mean": 0, "beta": 0}


def conv(model: Model) -> Node:
    return model.conv2d("conv", model.input("in", 2, 3, 4, 4), 4, 3, padding=1, bias=True)


def finish(model: Model, node: Node) -> None:
    model.like("out", Opaque(), node)


def check_folded(model: Model) -> None:
    report = check_same(model, RULE)
    assert [verdict.outcome for verdict in report.verdicts] == [Outcome.FOLDED]
    assert model.counts()["Affine"] == model.counts()["Lowered"] == 0


@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.0, -0.5), (-0.25, -0.75), (0.0, 2.0)])
def test_a_value_plus_itself(model: Model, factors: tuple[float, float]) -> None:
    x = conv(model)
    finish(model, model.norm("norm", model.plus("add", x, x, *factors)))
    check_folded(model)


def test_a_scale_crosses_a_sum_that_cancels_out(model: Model) -> None:
    x = conv(model)
    twice = model.plus("add", x, x, 1.0, -3.0)
    finish(model, model.norm("norm", twice, SCALE_ONLY))
    check_folded(model)


def test_a_shift_does_not_cross_a_sum_that_is_zero(model: Model) -> None:
    x = conv(model)
    norm = model.norm("norm", model.plus("add", x, x, 1.0, -1.0))
    finish(model, norm)
    assert model.reasons(RULE, norm)


@pytest.mark.parametrize("factors", [(1.0, 1.0), (2.0, -0.5), (0.0, 4.0)])
def test_a_shift_of_a_value_plus_itself(model: Model, factors: tuple[float, float]) -> None:
    x = conv(model)
    finish(model, model.arithmetic("map", model.plus("add", x, x, *factors), shift=np.float32(3)))
    report = check_same(model, RULE)
    assert report.count(Outcome.FOLDED, "affine") == 1


@pytest.mark.parametrize("levels", [2, 5])
def test_sums_of_sums(model: Model, levels: int) -> None:
    x = conv(model)
    for level in range(levels):
        x = model.plus(f"add{level}", x, x)
    finish(model, model.norm("norm", x))
    check_folded(model)


@pytest.mark.parametrize("axis", [0, 2, 3])
def test_a_value_beside_itself_on_another_axis(model: Model, axis: int) -> None:
    x = conv(model)
    finish(model, model.norm("norm", model.concat("cat", axis, x, x, x)))
    check_folded(model)


def test_one_map_for_all_channels_of_a_value_beside_itself(model: Model) -> None:
    x = conv(model)
    both = model.concat("cat", 1, x, x)
    finish(model, model.arithmetic("map", both, np.float32(-1.5), np.float32(0.25)))
    report = check_same(model, RULE)
    assert report.count(Outcome.FOLDED, "affine") == 1
    assert model.counts()["Affine"] == 0


def test_unlike_maps_of_a_value_beside_itself_are_refused(model: Model) -> None:
    x = conv(model)
    norm = model.norm("norm", model.concat("cat", 1, x, x), {"gamma": np.arange(1, 9)})
    finish(model, norm)
    assert "other-readers" in {refusal.code.value for refusal in model.reasons(RULE, norm)}


def test_a_sum_of_a_value_beside_itself(model: Model) -> None:
    both = model.concat("cat", 2, *[conv(model)] * 2)
    finish(model, model.norm("norm", model.plus("add", both, both, 2.0, 0.5)))
    check_folded(model)


class Join(nn.Module):
    def __init__(self, join: Any) -> None:
        super().__init__()
        self.conv, self.norm, self.join = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.join(self.conv(x)))
        return y


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "join",
    [
        pytest.param(lambda x: x + x, id="sum"),
        pytest.param(lambda x: torch.add(x, x, alpha=-3), id="alpha"),
        pytest.param(lambda x: torch.cat([x, x], 2), id="cat"),
        pytest.param(lambda x: torch.cat([x + x, torch.add(x, x)], -1), id="both"),
        pytest.param(lambda x: F.avg_pool2d(x, 2) + F.avg_pool2d(x, 2), id="two-pools"),
        pytest.param(lambda x: (y := F.avg_pool2d(x, 2)) + y, id="sum-of-a-pool"),
    ],
)
def test_modules(join: Any) -> None:
    model = randomise(Join(join)).double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        folded = bnfx.fold(model, x, keep="graph")
        assert (folded(x) - expected).abs().max() <= 1e-12 * expected.abs().max()
    outcomes = [v.outcome for v in bnfx.explain(model, x).verdicts]
    assert outcomes == [Outcome.FOLDED]
