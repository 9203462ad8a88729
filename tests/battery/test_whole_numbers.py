"""The battery without tolerance: with whole numbers, answers are the model's to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from battery.conv import Case
from battery.every import CASES
from battery.whole_numbers import fresh
from support import HEAVY, sampled
from torch import nn

import bnfx

DIVIDES = "divides by a number of positions that is no power of two"
EPS = "has an eps of its own, at which var + eps is no power of four"
ROOTS = "computes its weights by roots or exponentials"
BLENDS = "blends by fractions that are no sums of a few powers of two"
BEFORE = "has tanh beside what is folded: its values are no whole numbers"
# Where a right answer rounds, and why. All others must be equal to the last bit.
ROUNDS: dict[str, str] = {
    **dict.fromkeys(("functional-batch-norm", "torch-batch-norm"), EPS),
    **dict.fromkeys(("conv-div", "div-conv", "image-scaling-conv"), "divides by 3, 5 or 255"),
    **dict.fromkeys(
        (
            *("conv-computed", "computed-conv", "weight-norm", "bn-weight-norm", "spectral-norm"),
            "weight-standardisation",
        ),
        ROOTS,
    ),
    **dict.fromkeys(
        (
            *("data-in-weight", "conv-avg-pool-ceil-bn", "bn-avg-pool-ceil-conv"),
            *("conv-avg-pool-not-counting-bn", "bn-avg-pool-not-counting-conv"),
            *("conv-adaptive-avg-bn", "bn-adaptive-avg-conv", "conv-mean-keepdim-bn"),
            *("bn-mean-keepdim-conv", "bn-mean-linear", "bn-pool-flatten-linear"),
            *("conv-mean-over-channels-bn", "conv-counting-pool-bn", "conv-and-avg-pool"),
        ),
        DIVIDES,
    ),
    **dict.fromkeys(("conv-bilinear-bn", "bn-bilinear-conv"), BLENDS),
    **dict.fromkeys(("cat-conv", "bn-add-one-arm"), BEFORE),
}
EXACT = [case for case in CASES if case.name not in ROUNDS]
Way = Callable[[nn.Module, torch.Tensor], torch.Tensor]


def _compiled(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch._dynamo.reset()
    return torch.compile(model, backend="bnfx", options={"inner": "eager"})(x)


def _folded(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return bnfx.fold(model, x, keep="graph")(x)


def _exported(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return bnfx.fold(torch.export.export(model, (x,))).module()(x)


def check(case: Case, way: Way) -> None:
    case, x = fresh(case)
    with torch.no_grad():
        expected = copy.deepcopy(case.model)(x)
        assert expected.std() > 0, "a constant answer proves nothing"
        assert torch.equal(way(case.model, x), expected)


def test_reasons_are_of_cases() -> None:
    assert {case.name for case in CASES} >= set(ROUNDS)
    assert len(EXACT) >= 340


@pytest.mark.parametrize("case", sampled(EXACT, every=20))
def test_compiled(case: Case) -> None:
    check(case, _compiled)


@pytest.mark.parametrize("case", sampled(EXACT, every=40, first=3))
def test_folded(case: Case) -> None:
    check(case, _folded)


@pytest.mark.parametrize("case", sampled(EXACT, every=40, first=6))
def test_exported(case: Case) -> None:
    check(case, _exported)


@HEAVY
@pytest.mark.parametrize("name", ROUNDS)
def test_what_rounds_does(name: str) -> None:
    """The list is no longer than it must be."""
    (case,) = (case for case in CASES if case.name == name)
    with pytest.raises(AssertionError):
        check(case, _compiled)
