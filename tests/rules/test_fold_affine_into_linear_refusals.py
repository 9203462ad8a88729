"""affine(L x) -> L' x: every reason not to, each on a graph where it alone holds."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from neutral import Model

from bnfx.passes.algebra import Dense
from bnfx.passes.graph import Opaque
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.rules.fold_affine_into_linear import RULE


def test_refuses_without_a_linear_operator_and_says_what_stands_there(model: Model) -> None:
    why = Refusal(Code.DYNAMIC_ARGUMENT, "its stride is computed in the graph")
    conv = model.add("conv", Opaque(), model.x, refusals=(why,))
    model.batch_norm("norm", conv)
    verdict = model.refused_by(RULE)
    assert verdict.refusals == (Refusal(Code.NO_LINEAR_BEFORE, "its input is conv"), why)


def test_refuses_other_readers_and_names_them(model: Model) -> None:
    conv = model.conv("conv", model.x)
    model.batch_norm("norm", conv)
    model.add("shortcut", Opaque(), conv)
    model.add("output", Opaque(), conv)
    verdict = model.refused_by(RULE)
    assert verdict.refusals == (
        Refusal(Code.OTHER_READERS, "conv is also read by shortcut, output"),
    )


def test_refuses_an_output_that_is_written_to(model: Model) -> None:
    model.batch_norm("norm", model.conv("conv", model.x, pinned=True))
    assert model.refused_by(RULE).refusals == (
        Refusal(Code.MUTATED_IN_GRAPH, "the graph may write to the output of conv"),
    )


def test_refuses_another_number_of_channels(model: Model) -> None:
    model.batch_norm("norm", model.conv("conv", model.x), channels=2)
    assert model.refused_by(RULE).refusals == (
        Refusal(Code.UNSUPPORTED_FORM, "it has 2 channels, conv gives 3"),
    )


@pytest.mark.parametrize("axis", [0, 2, 3])
def test_refuses_another_axis_of_the_same_size(model: Model, axis: int) -> None:
    model.batch_norm("norm", model.conv("conv", model.x), axis=axis)
    assert [refusal.code for refusal in model.refused_by(RULE).refusals] == [Code.AXIS_MISMATCH]


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_refuses_a_linear_layer_whose_channels_are_not_axis_1(model: Model, rank: int) -> None:
    dense = Dense(model.random_source("weight", 3, 3), None)
    model.batch_norm("norm", model.linear("dense", dense, model.x, rank=rank), rank=rank)
    assert [refusal.code for refusal in model.refused_by(RULE).refusals] == [Code.AXIS_MISMATCH]


def test_refuses_an_unbatched_convolution(model: Model) -> None:
    model.batch_norm("norm", model.conv("conv", model.x, rank=3), rank=3)
    assert [refusal.code for refusal in model.refused_by(RULE).refusals] == [Code.AXIS_MISMATCH]


def test_refuses_an_unknown_rank(model: Model) -> None:
    model.batch_norm("norm", model.conv("conv", model.x, rank=None), rank=None)
    assert [refusal.code for refusal in model.refused_by(RULE).refusals] == [Code.UNKNOWN_RANK]


@pytest.mark.parametrize("dtype", ["float16", None])
def test_refuses_a_change_of_dtype(model: Model, dtype: str | None) -> None:
    model.batch_norm("norm", model.conv("conv", model.x), dtype=dtype)
    assert [refusal.code for refusal in model.refused_by(RULE).refusals] == [Code.DTYPE_CHANGE]


@pytest.mark.parametrize(
    ("statistics", "reasons"),
    [
        (
            {"mean": [0, np.nan, 0]},
            ["norm.mean holds NaN or infinity", "its shift is NaN or infinite"],
        ),
        ({"var": [1, np.inf, 1]}, ["norm.var holds NaN or infinity"]),
        (
            {"gamma": [-np.inf, 1, 1], "mean": 1},
            [
                "norm.gamma holds NaN or infinity",
                "its scale is NaN or infinite",
                "its shift is NaN or infinite",
            ],
        ),
        (
            {"beta": [1, 1, np.nan]},
            ["norm.beta holds NaN or infinity", "its shift is NaN or infinite"],
        ),
        (
            {"var": [-1, 1, 1]},
            ["its scale is NaN or infinite", "its shift is NaN or infinite"],
        ),
    ],
    ids=["nan-mean", "infinite-var", "infinite-gamma", "nan-beta", "negative-var"],
)
def test_refuses_statistics_that_are_not_finite(
    model: Model, statistics: dict[str, Any], reasons: list[str]
) -> None:
    model.batch_norm("norm", model.conv("conv", model.x), statistics=statistics)
    verdict = model.refused_by(RULE)
    assert sorted(refusal.reason for refusal in verdict.refusals) == sorted(reasons)
    assert {refusal.code for refusal in verdict.refusals} == {Code.NON_FINITE}


def test_a_variance_negative_by_less_than_eps_is_no_reason(model: Model) -> None:
    model.batch_norm("norm", model.conv("conv", model.x), statistics={"var": [-1e-6, 1, 1]})
    model.run(RULE)
    assert model.counts() == {"Opaque": 1, "Linear": 1}


def test_refuses_a_weight_that_is_not_finite(model: Model) -> None:
    model.batch_norm("norm", model.conv("conv", model.x, weight=np.nan))
    assert model.refused_by(RULE).refusals == (
        Refusal(Code.NON_FINITE, "the folded weight would be NaN or infinite"),
    )


# float16 holds up to 65504; below 2**-14 it is subnormal, in steps of 2**-24.
OVERFLOW = {"var": 1, "gamma": 7, "mean": 0, "beta": 0}
UNDERFLOW = {"var": 1, "gamma": [1, -1e-3, 1], "mean": 0, "beta": 0}


def test_refuses_overflow_of_the_stored_weight(model: Model) -> None:
    conv = model.conv("conv", model.x, weight=1e4, dtype="float16")
    model.batch_norm("norm", conv, statistics=OVERFLOW, dtype="float16")
    assert model.refused_by(RULE).refusals == (
        Refusal(Code.OVERFLOW, "the folded weight overflows float16"),
    )


def test_refuses_overflow_of_the_stored_shift(model: Model) -> None:
    conv = model.conv("conv", model.x, weight=1, dtype="float16")
    statistics = {**OVERFLOW, "beta": [0, 0, -7e4]}
    model.batch_norm("norm", conv, statistics=statistics, dtype="float16")
    assert model.refused_by(RULE).refusals == (
        Refusal(Code.OVERFLOW, "the folded bias overflows float16"),
    )


def test_refuses_underflow_of_one_channel(model: Model) -> None:
    conv = model.conv("conv", model.x, weight=1e-3 / 3, dtype="float16")
    model.batch_norm("norm", conv, statistics=UNDERFLOW, dtype="float16")
    assert model.refused_by(RULE).refusals == (
        Refusal(Code.UNDERFLOW, "a channel of the folded weight underflows float16"),
    )


@pytest.mark.parametrize(
    ("weight", "statistics", "code"),
    [(1e4, OVERFLOW, Code.OVERFLOW), (1e-3 / 3, UNDERFLOW, Code.UNDERFLOW)],
)
def test_refuses_what_the_computing_dtype_cannot_hold(
    model: Model, weight: float, statistics: dict[str, Any], code: Code
) -> None:
    """Under autocast weights are stored in float32 and computed with in float16."""
    conv = model.conv("conv", model.x, weight=weight)
    assert conv.role.dtype == "float32"
    conv.dtype = "float16"
    model.batch_norm("norm", conv, statistics=statistics, dtype="float16")
    (refusal,) = model.refused_by(RULE).refusals
    assert refusal.code is code


@pytest.mark.parametrize(
    ("weight", "statistics"),
    [(1e4, {**OVERFLOW, "gamma": 6.5}), (1e-3, {**UNDERFLOW, "gamma": [1, 0, 1]}), (0, UNDERFLOW)],
    ids=["just-fits", "gamma-of-zero", "weight-of-zero"],
)
def test_what_float16_can_hold_is_folded(
    model: Model, weight: float, statistics: dict[str, Any]
) -> None:
    conv = model.conv("conv", model.x, weight=weight, dtype="float16")
    model.batch_norm("norm", conv, statistics=statistics, dtype="float16")
    (verdict,) = model.run(RULE).verdicts
    assert verdict.outcome is Outcome.FOLDED


def test_every_reason_is_given(model: Model) -> None:
    conv = model.conv("conv", model.x, weight=1e4, dtype="float16")
    model.batch_norm("norm", conv, statistics={**OVERFLOW, "beta": 1e5})
    model.add("shortcut", Opaque(), conv)
    assert [refusal.code for refusal in model.refused_by(RULE).refusals] == [
        Code.OTHER_READERS,
        Code.DTYPE_CHANGE,
        Code.OVERFLOW,
        Code.OVERFLOW,
    ]


def test_along_the_wrong_axis_there_is_no_folded_weight_to_complain_of(model: Model) -> None:
    conv = model.conv("conv", model.x, weight=1e4, dtype="float16")
    model.batch_norm("norm", conv, axis=2, statistics={**OVERFLOW, "beta": 1e5})
    model.add("shortcut", Opaque(), conv)
    assert [refusal.code for refusal in model.refused_by(RULE).refusals] == [
        Code.OTHER_READERS,
        Code.DTYPE_CHANGE,
        Code.AXIS_MISMATCH,
    ]


def test_every_reason_is_given_where_the_statistics_are_broken_too(model: Model) -> None:
    conv = model.conv("conv", model.x, rank=None)
    statistics = {"var": -1, "mean": np.nan}
    model.batch_norm("norm", conv, rank=None, dtype="float16", statistics=statistics)
    model.add("shortcut", Opaque(), conv)
    codes = [refusal.code for refusal in model.refused_by(RULE).refusals]
    assert codes[:3] == [Code.OTHER_READERS, Code.DTYPE_CHANGE, Code.UNKNOWN_RANK]
    assert codes[3:] == [Code.NON_FINITE] * 3


def test_without_numbers_only_the_numbers_go_unchecked(model: Model) -> None:
    conv = model.conv("conv", model.x, weight=np.inf)
    model.batch_norm("norm", conv, axis=2, statistics={"var": -1})
    codes = [refusal.code for refusal in model.refused_by(RULE, numbers=False).refusals]
    assert codes == [Code.AXIS_MISMATCH]


@pytest.mark.parametrize("statistics", [{"var": -1}, {"gamma": 1e38, "var": 1}])
def test_a_refusal_raises_no_warning(model: Model, statistics: dict[str, Any]) -> None:
    conv = model.conv("conv", model.x, weight=1e3)
    norm = model.batch_norm("norm", conv, statistics=statistics)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(RULE.refuse(norm, model.values))


def test_an_operator_without_inputs_is_folded(model: Model) -> None:
    dense = Dense(model.random_source("weight", 3, 0), None)
    model.batch_norm("norm", model.linear("dense", dense, model.x, rank=2), rank=2)
    (verdict,) = model.run(RULE).verdicts
    assert verdict.outcome is Outcome.FOLDED
