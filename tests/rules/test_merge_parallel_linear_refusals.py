"""L1 x + L2 x -> L x: every reason not to, each on a graph where it alone holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from neutral import Model

from bnfx.passes.algebra import ConvTranspose
from bnfx.passes.graph import Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.rules.merge_parallel_linear import RULE


def pair(model: Model, dtype: str = "float32", **second: Any) -> Node:
    """A 3x3 convolution beside another one; gives their sum."""
    x = model.input("in", 2, 4, 6, 6, dtype=dtype)
    options = {"kernel": 3, "padding": 1, **second}
    one, other = model.conv2d("one", x, 4, 3, padding=1), model.conv2d("other", x, 4, **options)
    return model.plus("add", one, other)


def test_refuses_an_input_that_is_written_to(model: Model) -> None:
    add = pair(model)
    add.inputs[0].inputs[0].pinned = True
    assert model.reasons(RULE, add) == [Refusal(Code.MUTATED_IN_GRAPH, "the graph may write to in")]


@pytest.mark.parametrize("which", [0, 1])
def test_refuses_padding_that_the_operator_does_not_tell(model: Model, which: int) -> None:
    add = pair(model)
    arm = add.inputs[which]
    arm.role = replace(arm.role, hides_padding=True)
    assert model.reasons(RULE, add) == [
        Refusal(Code.UNSUPPORTED_FORM, "a branch pads its input by other than zeros")
    ]


@pytest.mark.parametrize("which", ["arm", "sum", "weights"])
def test_refuses_branches_of_several_dtypes(model: Model, which: str) -> None:
    add = pair(model)
    if which == "weights":
        for arm in add.inputs:
            arm.role = replace(arm.role, dtype="float16")
    else:
        {"arm": add.inputs[1], "sum": add}[which].dtype = "float16"
    (refusal,) = model.reasons(RULE, add)
    assert refusal.code is Code.DTYPE_CHANGE
    assert "the branches compute in" in refusal.reason


def test_refuses_a_branch_of_unknown_dtype(model: Model) -> None:
    add = pair(model)
    add.inputs[1].dtype = None
    assert model.reasons(RULE, add) == [
        Refusal(Code.DTYPE_CHANGE, "the branches compute in ['None', 'float32']")
    ]


def test_refuses_a_sum_in_the_layout_of_one_branch(model: Model) -> None:
    add = pair(model)
    add.lays_out = True
    assert model.reasons(RULE, add) == [
        Refusal(Code.UNSUPPORTED_FORM, "the sum has the memory layout of a transposed branch")
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_refuses_a_branch_in_another_stretch_of_autocast(model: Model, which: int) -> None:
    add = pair(model)
    add.inputs[which].region = 1
    assert model.reasons(RULE, add) == [
        Refusal(Code.DTYPE_CHANGE, "autocast begins or ends between the branches and their sum")
    ]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"stride": 2}, r"stride (1, 1) beside (2, 2)"),
        ({"dilation": 2, "padding": 2}, "dilation (1, 1) beside (2, 2)"),
        ({"padding": 0}, "their outputs have different sizes"),
    ],
)
def test_refuses_operators_that_have_no_sum(model: Model, second: Any, said: str) -> None:
    assert model.reasons(RULE, pair(model, **second)) == [Refusal(Code.UNSUPPORTED_FORM, said)]


def test_refuses_a_transposed_convolution(model: Model) -> None:
    x = model.input("in", 2, 4, 6, 6)
    weight = model.random_source("t", 4, 4, 1, 1)
    operator = ConvTranspose(weight, None, (1, 1), ((0, 0),) * 2, (0, 0), (1, 1))
    one = model.linear("one", operator, x, shape=x.shape)
    assert model.reasons(RULE, model.plus("add", one, x)) == [
        Refusal(Code.UNSUPPORTED_FORM, "an affine map beside ConvTranspose")
    ]


@pytest.mark.parametrize("axis", [0, 2, 3])
def test_refuses_a_map_along_another_axis_of_the_same_size(model: Model, axis: int) -> None:
    x = model.input("in", 4, 4, 4, 4)
    conv = model.conv2d("conv", x, 4, 3, padding=1)
    norm = model.batch_norm("norm", x, 4, axis, rank=4, shape=x.shape)
    assert model.reasons(RULE, model.plus("add", conv, norm)) == [
        Refusal(
            Code.UNSUPPORTED_FORM,
            "a branch is an affine map along another axis than the channels",
        )
    ]


def test_refuses_a_map_where_the_rank_is_not_known(model: Model) -> None:
    x = model.input("in", 2, 4, 6, 6)
    conv = model.conv2d("conv", x, 4)
    add = model.plus("add", conv, model.norm("norm", x))
    add.rank = None
    (refusal,) = model.reasons(RULE, add)
    assert refusal.code is Code.UNSUPPORTED_FORM


def test_refuses_a_depthwise_kernel_beside_a_dense_one(model: Model) -> None:
    """Together they would be a dense 3x3 kernel of nine times the work."""
    x = model.input("in", 2, 64, 28, 28)
    depthwise = model.conv2d("depthwise", x, 64, 3, padding=1, groups=64)
    add = model.plus("add", depthwise, model.conv2d("pointwise", x, 64))
    (refusal,) = model.reasons(RULE, add)
    assert refusal.code is Code.COSTS_MORE
    assert refusal.reason.startswith("one operator costs ")


def test_refuses_weights_that_are_not_finite(model: Model) -> None:
    add = pair(model)
    model.arrays["other.weight"][0] = np.nan
    assert model.reasons(RULE, add) == [
        Refusal(Code.NON_FINITE, "the folded weight would be NaN or infinite")
    ]


def test_refuses_weights_that_overflow(model: Model) -> None:
    add = pair(model, dtype="float16")
    for name in ("one.weight", "other.weight"):
        model.arrays[name][:] = 4e4
    assert model.reasons(RULE, add) == [
        Refusal(Code.OVERFLOW, "the folded weight overflows float16")
    ]


def test_refuses_weights_that_cancel_to_subnormals(model: Model) -> None:
    add = pair(model, dtype="float16")
    model.arrays["one.weight"][1] = 2.0**-14
    model.arrays["other.weight"][1] = -(2.0**-15)
    assert model.reasons(RULE, add) == [
        Refusal(Code.UNDERFLOW, "a channel of the folded weight underflows float16")
    ]


def test_every_reason_is_given(model: Model) -> None:
    add = pair(model, padding=0)
    add.inputs[0].role = replace(add.inputs[0].role, hides_padding=True)
    add.inputs[0].inputs[0].pinned = True
    assert [refusal.code for refusal in model.reasons(RULE, add)] == [
        Code.MUTATED_IN_GRAPH,
        Code.UNSUPPORTED_FORM,
        Code.UNSUPPORTED_FORM,
    ]
