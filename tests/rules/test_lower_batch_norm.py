"""BatchNorm -> one multiply-add."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from neutral import Model

from bnfx.passes.graph import Opaque
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome, Site
from bnfx.passes.rules.lower_batch_norm import RULE


def test_golden(model: Model) -> None:
    norm = model.batch_norm("norm", model.x)
    model.add("relu", Opaque(), norm)
    role = norm.role
    before = model.picture()
    assert model.counts() == {"Opaque": 2, "Affine": 1}

    (verdict,) = model.run(RULE).verdicts

    assert model.counts() == {"Opaque": 2, "Lowered": 1}
    assert norm.role == replace(role, lowered=True)
    norm.role = role
    assert model.picture() == before
    assert (verdict.outcome, verdict.target, verdict.refusals) == (Outcome.LOWERED, "", ())


def test_second_run_changes_nothing(model: Model) -> None:
    model.batch_norm("norm", model.x)
    model.run(RULE)
    before = model.picture()
    model.run(RULE)
    assert model.picture() == before


def test_without_numbers_it_lowers_all_the_same(model: Model) -> None:
    model.batch_norm("norm", model.x, statistics={"var": -1})
    model.run(RULE, numbers=False)
    assert model.counts() == {"Opaque": 1, "Lowered": 1}


@pytest.mark.parametrize("before", ["conv", "norm", "relu"])
def test_lowers_whatever_stands_before(model: Model, before: str) -> None:
    source = {
        "conv": lambda: model.conv("conv", model.x),
        "norm": lambda: model.batch_norm("first", model.x, sites=()),
        "relu": lambda: model.add("relu", Opaque(), model.x),
    }[before]()
    model.batch_norm("norm", source)
    (verdict,) = model.run(RULE).verdicts
    assert verdict.outcome is Outcome.LOWERED


def test_is_about_batch_norms_only(model: Model) -> None:
    """Arithmetic is one multiply or add already, and so is a border that a rule put in."""
    times = model.arithmetic("times", model.input("in", 2, 3), 2.0)
    model.batch_norm("border", times, rank=2, shape=(2, 3), sites=())
    verdict = model.refused_by(RULE)
    assert (verdict.outcome, [r.code for r in verdict.refusals]) == (
        Outcome.KEPT,
        [Code.RULE_DISABLED],
    )


def test_a_batch_norm_of_two_sites_is_one(model: Model) -> None:
    norm = model.batch_norm("norm", model.x)
    norm.sites = (Site("times", "affine"), *norm.sites)
    report = model.run(RULE)
    assert [verdict.outcome for verdict in report.verdicts] == [Outcome.LOWERED] * 2


def test_refuses_an_unknown_rank(model: Model) -> None:
    model.batch_norm("norm", model.x, rank=None)
    assert model.refused_by(RULE).refusals == (
        Refusal(Code.UNKNOWN_RANK, "the rank of norm's output is not known"),
    )


@pytest.mark.parametrize(
    "statistics",
    [{"mean": np.nan}, {"var": np.inf}, {"var": -1}, {"gamma": -np.inf}, {"beta": [0, np.nan, 0]}],
    ids=["nan-mean", "infinite-var", "negative-var", "infinite-gamma", "nan-beta"],
)
def test_refuses_statistics_that_are_not_finite(model: Model, statistics: dict[str, Any]) -> None:
    model.batch_norm("norm", model.x, statistics=statistics)
    assert {refusal.code for refusal in model.refused_by(RULE).refusals} == {Code.NON_FINITE}


def test_every_reason_is_given(model: Model) -> None:
    model.batch_norm("norm", model.x, rank=None, statistics={"gamma": np.nan, "beta": 0, "mean": 0})
    assert [refusal.reason for refusal in model.refused_by(RULE).refusals] == [
        "the rank of norm's output is not known",
        "norm.gamma holds NaN or infinity",
        "its scale is NaN or infinite",
        "its shift is NaN or infinite",
    ]


def test_what_the_lifter_could_not_read_is_no_map(model: Model) -> None:
    norm = model.add("norm", Opaque(), model.x, sites=(Site("norm", "batch_norm"),))
    assert not RULE.match(norm)
