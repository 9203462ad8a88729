"""L(affine x) -> L' x: every reason not to, each on a graph where it alone holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from neutral import Model

from bnfx.passes.graph import Node, Opaque
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.rules.fold_affine_into_next_linear import RULE


def norm(model: Model, statistics: Any = None, batch: int = 4, **fields: Any) -> Node:
    return model.norm("norm", model.input("in", batch, 4, 4, 4), statistics, **fields)


def refusals(model: Model, numbers: bool = True) -> tuple[Refusal, ...]:
    verdict = model.refused_by(RULE, numbers=numbers)
    return verdict.refusals


def test_refuses_readers_that_are_not_linear_and_names_them(model: Model) -> None:
    node = norm(model)
    model.conv2d("conv", node, 4)
    model.like("relu", Opaque(), node)
    model.like("output", Opaque(), node)
    assert model.reasons(RULE, node) == [Refusal(Code.NO_LINEAR_AFTER, "relu, output reads it")]


@pytest.mark.parametrize("reader", [None, Opaque(reads_data=False)])
def test_refuses_a_map_that_nothing_reads(model: Model, reader: Any) -> None:
    node = norm(model)
    if reader is not None:
        model.like("size", reader, node)
    assert model.reasons(RULE, node) == [Refusal(Code.NO_LINEAR_AFTER, "nothing reads it")]


@pytest.mark.parametrize("which", ["in", "norm"])
def test_refuses_what_is_written_to(model: Model, which: str) -> None:
    node = norm(model)
    model.conv2d("conv", node, 4)
    {"in": node.inputs[0], "norm": node}[which].pinned = True
    assert refusals(model) == (
        Refusal(Code.MUTATED_IN_GRAPH, "the graph may write to what norm reads"),
    )


def test_an_operator_whose_output_is_written_to_may_change(model: Model) -> None:
    model.conv2d("conv", norm(model), 4, pinned=True)
    model.run(RULE)
    assert model.counts()["Affine"] == 0


@pytest.mark.parametrize("which", ["norm", "conv", "weights"])
@pytest.mark.parametrize("dtype", ["float16", None])
def test_refuses_a_change_of_dtype(model: Model, which: str, dtype: str | None) -> None:
    node = norm(model)
    conv = model.conv2d("conv", node, 4)
    if which == "weights":
        conv.role = replace(conv.role, dtype=dtype)
    else:
        {"norm": node, "conv": conv}[which].dtype = dtype
    told = refusals(model)
    assert {refusal.code for refusal in told} == {Code.DTYPE_CHANGE}
    assert [refusal.reason.split()[0] for refusal in told] == {
        "norm": ["in", "conv"],  # it takes one dtype and gives another, and so does its reader
    }.get(which, ["conv"])


@pytest.mark.parametrize("axis", [0, 2, 3])
def test_refuses_another_axis_of_the_same_size(model: Model, axis: int) -> None:
    node = model.batch_norm("norm", model.input("in", *(4,) * 4), 4, axis, shape=(4,) * 4)
    model.conv2d("conv", node, 4)
    assert refusals(model) == (
        Refusal(Code.AXIS_MISMATCH, "its channels are not the input channels of conv"),
    )


def test_refuses_a_sequence_whose_channels_are_not_its_features(model: Model) -> None:
    node = model.norm("norm", model.input("in", 2, 4, 4))
    model.dense("dense", node, 4)
    assert [refusal.code for refusal in refusals(model)] == [Code.AXIS_MISMATCH]


def test_refuses_a_map_of_another_number_of_channels(model: Model) -> None:
    node = model.batch_norm("norm", model.input("in", 2, 4, 4, 4), 2, shape=(2, 4, 4, 4))
    model.conv2d("conv", node, 4)
    assert [refusal.code for refusal in refusals(model)] == [Code.AXIS_MISMATCH]


def test_refuses_an_unknown_rank(model: Model) -> None:
    conv = model.conv2d("conv", norm(model), 4)
    conv.rank = None
    assert refusals(model) == (
        Refusal(Code.UNKNOWN_RANK, "the rank of conv's output is not known"),
    )


@pytest.mark.parametrize(
    ("dims", "code"),
    [(None, Code.UNKNOWN_RANK), ((4, 4, "h", 4), Code.DYNAMIC_SHAPE), (("n", 4, 4, 4), None)],
)
def test_refuses_a_border_of_unknown_size(model: Model, dims: Any, code: Code | None) -> None:
    node = norm(model)
    model.conv2d("conv", node, 4, 3, padding=1)
    node.shape = dims
    if code is None:
        model.run(RULE)
        assert model.has_border()
        return
    (refusal,) = refusals(model)
    assert refusal.code is code
    assert "conv's input is not" in refusal.reason


@pytest.mark.parametrize(
    ("batch", "out", "pays"), [(1, 8, True), (1, 9, False), (8, 16, True), (8, 128, False)]
)
def test_refuses_a_border_that_costs_more_than_it_saves(
    model: Model, batch: int, out: int, pays: bool
) -> None:
    node = norm(model, batch=batch)
    model.conv2d("conv", node, out, 3, padding=1)
    if pays:
        model.run(RULE)
        assert model.has_border()
        return
    (refusal,) = refusals(model)
    assert refusal.code is Code.COSTS_MORE
    assert refusal.reason.startswith("the border of conv would cost ")


def test_the_borders_of_all_readers_are_paid_for(model: Model) -> None:
    node = norm(model, batch=1)
    for name in ("a", "b", "c"):
        model.conv2d(name, node, 4, 3, padding=1)
    assert [refusal.code for refusal in refusals(model)] == [Code.COSTS_MORE]


def test_nothing_is_folded_by_halves(model: Model) -> None:
    node = norm(model)
    model.conv2d("good", node, 4)
    model.conv2d("bad", node, 4).dtype = "float16"
    assert [refusal.code for refusal in refusals(model)] == [Code.DTYPE_CHANGE]


@pytest.mark.parametrize("statistics", [{"mean": np.nan}, {"var": -1}, {"gamma": np.inf}])
def test_refuses_statistics_that_are_not_finite(model: Model, statistics: Any) -> None:
    model.conv2d("conv", norm(model, statistics), 4)
    assert {refusal.code for refusal in refusals(model)} == {Code.NON_FINITE}


PLAIN = {"mean": 0, "var": 1, "gamma": 1, "beta": 0}


@pytest.mark.parametrize(
    ("weight", "statistics", "padding", "code"),
    [
        (np.nan, PLAIN, 0, Code.NON_FINITE),
        (1e20, {**PLAIN, "gamma": 1e20}, 0, Code.OVERFLOW),
        (1e20, {**PLAIN, "beta": 1e20}, 0, Code.OVERFLOW),
        (1e20, {**PLAIN, "beta": 1e20}, 1, Code.OVERFLOW),
        (1e-20, {**PLAIN, "gamma": 1e-20}, 0, Code.UNDERFLOW),
        (1.0, {**PLAIN, "gamma": [1, 1, 1e-39, 1]}, 0, Code.UNDERFLOW),
    ],
    ids=["nan", "weight", "bias", "border", "small", "small-input-channel"],
)
def test_refuses_what_cannot_be_stored(
    model: Model, weight: float, statistics: Any, padding: int, code: Code
) -> None:
    model.conv2d("conv", norm(model, statistics), 4, 3, padding=padding)
    model.arrays["conv.weight"][:] = weight
    reasons = {(Code.NON_FINITE, 0): 2}  # of NaN the bias is made, too
    assert [refusal.code for refusal in refusals(model)] == [code] * reasons.get((code, padding), 1)


def test_without_numbers_only_the_numbers_go_unchecked(model: Model) -> None:
    node = norm(model, {"var": -1})
    model.conv2d("conv", node, 4).dtype = "float16"
    assert [refusal.code for refusal in refusals(model, numbers=False)] == [Code.DTYPE_CHANGE]
