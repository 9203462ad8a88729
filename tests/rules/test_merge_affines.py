"""affine(affine x) -> affine x."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from neutral import Model
from numpy.testing import assert_allclose
from support import randomise, relative
from torch import nn

import bnfx
from bnfx.passes.graph import Affine, Node, Opaque
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.rules.merge_affines import RULE


def test_golden(model: Model) -> None:
    first = model.batch_norm("first", model.x)
    second = model.batch_norm("second", first)
    relu = model.add("relu", Opaque(), second)
    product = second.role.map @ first.role.map
    assert model.counts() == {"Opaque": 2, "Affine": 2}

    kept, merged = model.run(RULE).verdicts

    assert [node.name for node in model.graph] == ["x", "first", "relu"]
    assert isinstance(first.role, Affine)
    assert (first.role.map, first.role.map.axes) == (product, (1,))
    assert (relu.inputs, list(first.users)) == ([first], [relu])
    assert kept.site.name == "first"
    assert (merged.site.name, merged.outcome, merged.target) == ("second", Outcome.MERGED, "first")
    assert merged.refusals == ()


def test_merged_map_is_the_composition(model: Model) -> None:
    first = model.batch_norm("first", model.x)
    maps = [first.role.map]
    before = first
    for name in ("second", "third"):
        before = model.batch_norm(name, before)
        maps.append(before.role.map)
    x = expected = model.random.normal(size=(2, 3))
    for affine in maps:
        expected = model.evaluate(affine.scale) * expected + model.evaluate(affine.shift)

    model.run(RULE)

    assert [node.name for node in model.graph] == ["x", "first"]
    scale, shift = model.evaluate(first.role.map.scale), model.evaluate(first.role.map.shift)
    assert_allclose(scale * x + shift, expected, rtol=0, atol=1e-14)


def test_second_run_changes_nothing(model: Model) -> None:
    model.batch_norm("second", model.batch_norm("first", model.x))
    model.run(RULE)
    before = model.picture()
    model.run(RULE)
    assert model.picture() == before


def test_without_numbers_it_merges_all_the_same(model: Model) -> None:
    model.batch_norm("second", model.batch_norm("first", model.x))
    model.run(RULE, numbers=False)
    assert [node.name for node in model.graph] == ["x", "first"]


def test_reader_of_the_shape_alone_does_not_count(model: Model) -> None:
    first = model.batch_norm("first", model.x)
    size = model.add("size", Opaque(reads_data=False), first)
    model.batch_norm("second", first)
    model.run(RULE)
    assert [node.name for node in model.graph] == ["x", "first", "size"]
    assert size.inputs == [first]


def test_a_chain_becomes_one_lowered_map(model: Model) -> None:
    node = model.x
    for name in ("first", "second", "third"):
        node = model.batch_norm(name, node)
    report = model.run(RULE)
    assert [verdict.outcome for verdict in report.verdicts] == [
        Outcome.LOWERED,
        Outcome.MERGED,
        Outcome.MERGED,
    ]
    (affine,) = (node.role for node in model.graph if isinstance(node.role, Affine))
    assert affine.lowered


def refusals(model: Model, node: Node) -> list[Refusal]:
    """The rule's reasons against ``node``, after checking that a run leaves the graph alone."""
    before = model.picture()
    model.run(RULE)
    assert model.picture() == before
    assert RULE.match(node)
    return list(RULE.refuse(node, model.values))


def test_refuses_without_a_map_before(model: Model) -> None:
    norm = model.batch_norm("norm", model.conv("conv", model.x))
    assert refusals(model, norm) == [Refusal(Code.NO_AFFINE_BEFORE, "its input is conv")]


def test_refuses_other_readers_and_names_them(model: Model) -> None:
    first = model.batch_norm("first", model.x)
    second = model.batch_norm("second", first)
    model.add("shortcut", Opaque(), first)
    assert refusals(model, second) == [
        Refusal(Code.OTHER_READERS, "first is also read by shortcut")
    ]


def test_refuses_another_axis_of_the_same_size(model: Model) -> None:
    second = model.batch_norm("second", model.batch_norm("first", model.x), axis=2)
    assert refusals(model, second) == [
        Refusal(Code.AXIS_MISMATCH, "it varies along axes (2,), first along (1,)")
    ]


@pytest.mark.parametrize("dtype", ["float16", None])
def test_refuses_a_change_of_dtype(model: Model, dtype: str | None) -> None:
    second = model.batch_norm("second", model.batch_norm("first", model.x), dtype=dtype)
    assert refusals(model, second) == [
        Refusal(Code.DTYPE_CHANGE, f"first gives float32, not {dtype}")
    ]


@pytest.mark.parametrize("broken", ["first", "second"])
@pytest.mark.parametrize("statistics", [{"mean": np.nan}, {"var": -1}, {"gamma": np.inf}])
def test_refuses_statistics_that_are_not_finite(
    model: Model, broken: str, statistics: dict[str, Any]
) -> None:
    chosen = {broken: statistics}
    first = model.batch_norm("first", model.x, statistics=chosen.get("first"))
    second = model.batch_norm("second", first, statistics=chosen.get("second"))
    assert {refusal.code for refusal in refusals(model, second)} == {Code.NON_FINITE}


def test_every_reason_is_given(model: Model) -> None:
    first = model.batch_norm("first", model.x, statistics={"beta": np.inf})
    statistics = {"beta": np.nan}
    second = model.batch_norm("second", first, axis=3, dtype="float16", statistics=statistics)
    model.add("shortcut", Opaque(), first)
    reasons = refusals(model, second)
    assert [refusal.code for refusal in reasons[:3]] == [
        Code.OTHER_READERS,
        Code.DTYPE_CHANGE,
        Code.AXIS_MISMATCH,
    ]
    assert {refusal.code for refusal in reasons[3:]} == {Code.NON_FINITE}
    said = " ".join(refusal.reason for refusal in reasons[3:])
    assert "first.beta" in said
    assert "second.beta" in said


def test_refuses_a_product_that_is_not_finite(model: Model) -> None:
    """``x * 1e200 * 1e200`` is finite for a small ``x``, ``x * inf`` is not."""
    first = model.batch_norm("first", model.x)
    second = model.batch_norm("second", first)
    for name in ("first", "second"):
        for part in ("mean", "var", "gamma", "beta"):
            value = {"var": 1.0, "gamma": 1e200}.get(part, 0.0)
            model.arrays[f"{name}.{part}"] = np.full(3, value)
    assert {refusal.code for refusal in refusals(model, second)} == {Code.NON_FINITE}


@pytest.mark.parametrize("rules", ["all", ["fold-affine-into-linear", "merge-affines"]])
def test_a_merged_map_reaches_the_output(rules: Any) -> None:
    """Without example inputs the rank of the last two is unknown, so they cannot be lowered."""
    model = randomise(
        nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.Flatten(),
            nn.ReLU(),
            nn.BatchNorm1d(16),
            nn.BatchNorm1d(16),
        )
    ).eval()
    x = torch.randn(2, 3, 4, 4)
    with pytest.warns(bnfx.FoldWarning, match="kept, as ranks are not known"):
        folded = bnfx.fold(model, rules=rules)
    assert relative(folded(x), model(x)) < 1e-5
