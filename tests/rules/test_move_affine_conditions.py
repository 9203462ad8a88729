"""affine(T x) -> T(affine' x): refusals by axes, signs, shifts, sizes, dtypes and numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from neutral import Model
from rules.move_cases import (
    MAXIMUM,
    MEAN,
    POSITIVE,
    back,
    back_code,
    conv,
    every_reason,
    on,
    on_code,
    reasons,
)

from bnfx.passes.crossing import Homogeneous, Movement, Pad, Reshape, Window
from bnfx.passes.graph import Concat, Opaque
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.rules.move_affine import RULE
from bnfx.passes.rules.routes.back import backward
from bnfx.passes.rules.routes.forward import forward
from bnfx.passes.values import Values


@pytest.mark.parametrize("way", ["back", "on"])
def test_refuses_an_axis_that_is_combined(model: Model, way: str) -> None:
    pool = Window((1, 2))
    norm = (back if way == "back" else on)(model, pool, 4, 4, 2, 4)
    assert reasons(model, norm)[way == "on"].code is Code.AXIS_MISMATCH


def test_refuses_where_the_channels_are_not_the_operators(model: Model) -> None:
    start = model.conv2d("conv", model.input("in", 4, 4, 4, 4), 4)
    moved = model.move("flat", Reshape(), start, 4, 64)
    norm = model.norm("norm", moved)
    model.like("out", Opaque(), norm)
    assert reasons(model, norm)[0] == Refusal(
        Code.AXIS_MISMATCH, "its channels are not the output channels of conv"
    )


@pytest.mark.parametrize("movement", [MAXIMUM, Homogeneous()])
@pytest.mark.parametrize("way", ["back", "on"])
def test_refuses_a_negative_scale_across_what_orders(
    model: Model, movement: Movement, way: str
) -> None:
    dims = (4, 4, 4, 4) if movement == Homogeneous() else (4, 4, 2, 2)
    x = model.input("in", 4, 4, 4, 4)
    scale = np.array([[1, 0, -1e-30, 1]])
    if way == "back":
        moved = model.move("moved", movement, model.conv2d("conv", x, 4), *dims)
        node = model.arithmetic("scale", moved, scale)
        model.like("out", Opaque(), node)
    else:
        node = model.arithmetic("scale", x, scale)
        model.conv2d("conv", model.move("moved", movement, node, *dims), 4)
    refusal = reasons(model, node)[way == "on"]
    assert refusal == Refusal(Code.NEGATIVE_SCALE, "it would have to cross moved")
    model.arrays["scale.scale"][:] = [[1, 0, 1e-30, 1]]
    assert not [r for r in RULE.refuse(node, model.values) if r.code is Code.NEGATIVE_SCALE]


def test_refuses_a_scale_of_unknown_sign(model: Model) -> None:
    norm = back(model, MAXIMUM, statistics=POSITIVE)
    assert back_code(model, norm, numbers=False) is Code.NEGATIVE_SCALE
    assert not list(RULE.refuse(norm, model.values))


def test_refuses_a_scale_whose_sign_may_not_matter(model: Model) -> None:
    """What is folded anew with other numbers must be the same graph."""
    norm = back(model, MAXIMUM, statistics=POSITIVE)
    values = Values(lambda source: model.arrays[source.name], np.zeros(()), signs=False)
    assert next(refusal.code for refusal in RULE.refuse(norm, values)) is Code.NEGATIVE_SCALE


def test_a_shift_crosses_a_maximum_whatever_its_sign(model: Model) -> None:
    pool = model.move("pool", MAXIMUM, conv(model), 4, 4, 2, 2)
    shift = model.arithmetic("shift", pool, 1.0, np.array([[1.0, -1, 0, 2]]))
    assert not list(RULE.refuse(shift, None))


@pytest.mark.parametrize(
    "movement", [Homogeneous(), Pad(((2, (1, 1)),), 0.0), Window((2, 3), counts_padding=True)]
)
def test_refuses_a_shift_across_what_keeps_a_scale_only(model: Model, movement: Movement) -> None:
    dims = (4, 4, 6, 4) if isinstance(movement, Pad) else (4, 4, 4, 4)
    norm = back(model, movement, *dims, statistics=POSITIVE)
    assert reasons(model, norm)[0] == Refusal(Code.NONZERO_SHIFT, "it would have to cross moved")


def test_refuses_the_way_on_with_a_shift(model: Model) -> None:
    norm = on(model, Homogeneous(), 4, 4, 4, 4, statistics=POSITIVE)
    assert reasons(model, norm)[1].code is Code.NONZERO_SHIFT


def test_refuses_a_shift_across_a_product(model: Model) -> None:
    gate = model.gate("gate", conv(model), conv(model, "other"))
    norm = model.norm("norm", gate)
    model.like("out", Opaque(), norm)
    assert reasons(model, norm)[0] == Refusal(
        Code.NONZERO_SHIFT, "it would have to cross the product gate"
    )


@pytest.mark.parametrize("kind", ["add", "gate"])
def test_refuses_the_way_on_through_a_join_that_does_not_keep_the_map(
    model: Model, kind: str
) -> None:
    norm = model.norm("norm", model.input("in", 4, 4, 4, 4))
    free = model.like("free", Opaque(), norm.inputs[0])
    join = (model.plus if kind == "add" else model.gate)("join", norm, free)
    model.conv2d("conv", join, 4)
    assert every_reason(model, norm)[1] == (Refusal(Code.NO_LINEAR_AFTER, "join reads norm"),)


@pytest.mark.parametrize("way", ["back", "on"])
def test_refuses_padding_by_another_constant(model: Model, way: str) -> None:
    """Even a scale would change it."""
    pad = Pad(((2, (1, 1)),), 1.0)
    x = model.input("in", 4, 4, 4, 4)
    if way == "back":
        node = model.arithmetic("s", model.move("p", pad, model.conv2d("c", x, 4), 4, 4, 6, 4), 2.0)
        model.like("out", Opaque(), node)
    else:
        node = model.arithmetic("s", x, 2.0)
        model.conv2d("c", model.move("p", pad, node, 4, 4, 6, 4), 4)
    assert reasons(model, node)[way == "on"] == Refusal(
        Code.PADDING_VALUE, "it crosses padding with 1.0"
    )


def test_refuses_a_pad_that_crops_too(model: Model) -> None:
    norm = on(model, Pad(((2, (1, -1)),), 0.0), 4, 4, 4, 4)
    assert on_code(model, norm) is Code.PADDING_VALUE


def test_refuses_zeros_before_what_does_not_convolve(model: Model) -> None:
    """A pad that a dense operator reads cannot be that operator's own."""
    norm = model.norm("norm", model.input("in", 4, 4, 4, 4))
    pad = model.move("pad", Pad(((2, (1, 1)),), 0.0), norm, 4, 4, 6, 4)
    model.conv2d("conv", pad, 4)
    model.dense("dense", pad, 4)
    assert on_code(model, norm) is Code.NONZERO_SHIFT


def test_refuses_padded_channels(model: Model) -> None:
    norm = model.norm("norm", model.input("in", 4, 4, 4, 4))
    pad = model.move("pad", Pad(((1, (1, 1)),), 0.0), norm, 4, 6, 4, 4)
    model.conv2d("conv", pad, 4)
    assert every_reason(model, norm)[1] == (
        Refusal(Code.AXIS_MISMATCH, "its channels are not the input channels of conv"),
        Refusal(Code.AXIS_MISMATCH, "pad pads channels"),
    )


def test_refuses_padded_channels_for_one_number_too(model: Model) -> None:
    node = model.arithmetic("more", model.input("in", 4, 4, 4, 4), 2.0, 1.0)
    pad = model.move("pad", Pad(((1, (1, 1)),), 0.0), node, 4, 6, 4, 4)
    model.conv2d("conv", pad, 4)
    assert reasons(model, node)[1] == Refusal(Code.AXIS_MISMATCH, "pad pads channels")


def test_refuses_zeros_that_something_writes_over(model: Model) -> None:
    norm = on(model, Pad(((2, (1, 1)),), 0.0), 4, 4, 6, 4)
    assert not list(RULE.refuse(norm, model.values))
    (pad,) = norm.users
    pad.pinned = True
    assert every_reason(model, norm)[1] == (
        Refusal(Code.NONZERO_SHIFT, "it would have to cross moved"),
        Refusal(Code.MUTATED_IN_GRAPH, "the graph may write to the output of moved"),
    )


@pytest.mark.parametrize("where", ["moved", "conv"])
def test_refuses_shapes_that_are_not_known(model: Model, where: str) -> None:
    norm = back(model)
    {"moved": norm.inputs[0], "conv": norm.inputs[0].inputs[0]}[where].shape = None
    assert reasons(model, norm)[0] == Refusal(Code.UNKNOWN_RANK, "the shape of moved is not known")


def test_refuses_parts_of_sizes_that_are_not_fixed(model: Model) -> None:
    x = model.input("in", 4, 4, 4, 4)
    parts = [model.conv2d(name, x, 4) for name in ("one", "other")]
    parts[0].shape = (4, "c", 4, 4)
    cat = model.like("cat", Concat(1), *parts, shape=(4, 8, 4, 4))
    norm = model.norm("norm", cat)
    model.like("out", Opaque(), norm)
    assert reasons(model, norm)[0] == Refusal(
        Code.DYNAMIC_SHAPE, "the parts of cat have no fixed sizes"
    )


def test_refuses_the_way_on_into_a_whole_of_no_fixed_size(model: Model) -> None:
    norm = model.norm("norm", model.input("in", 4, 4, 4, 4))
    other = model.input("other", 4, "c", 4, 4)
    cat = model.like("cat", Concat(1), other, norm, shape=(4, "c + 4", 4, 4))
    model.linear("conv", conv(model).role.operator, cat, shape=(4, 4, 4, 4))
    assert every_reason(model, norm)[1] == (
        Refusal(Code.DYNAMIC_SHAPE, "the parts of cat have no fixed sizes"),
    )


@pytest.mark.parametrize("where", ["moved", "conv"])
def test_refuses_a_change_of_dtype(model: Model, where: str) -> None:
    norm = back(model)
    {"moved": norm.inputs[0], "conv": norm.inputs[0].inputs[0]}[where].dtype = "float16"
    told = {refusal.code for refusal in every_reason(model, norm)[0]}
    assert told == {Code.DTYPE_CHANGE}


@pytest.mark.parametrize("statistics", [{"mean": np.nan}, {"var": -1}, {"gamma": np.inf}])
def test_refuses_statistics_that_are_not_finite(model: Model, statistics: Any) -> None:
    norm = back(model, statistics=statistics)
    assert {refusal.code for refusal in model.reasons(RULE, norm)} == {Code.NON_FINITE}


@pytest.mark.parametrize(
    ("weight", "gamma", "code"),
    [(np.nan, 1, Code.NON_FINITE), (1e20, 1e20, Code.OVERFLOW), (1e-20, 1e-20, Code.UNDERFLOW)],
)
@pytest.mark.parametrize("way", ["back", "on"])
def test_refuses_weights_that_cannot_be_stored(
    model: Model, weight: float, gamma: float, code: Code, way: str
) -> None:
    plain = {"mean": 0, "var": 1, "beta": 0, "gamma": gamma}
    norm = (back if way == "back" else on)(model, statistics=plain)
    model.arrays["conv.weight"][:] = weight
    told = {refusal.code for refusal in every_reason(model, norm)[way == "on"]}
    assert told == {code}


def test_refuses_a_merge_that_saves_nothing(model: Model) -> None:
    """``relu(x * 2)`` and ``+ 1`` later on are one op each already."""
    double = model.arithmetic("double", model.input("in", 4, 4, 4, 4), 2.0)
    add = model.arithmetic("add", model.move("pool", MEAN, double, 4, 4, 2, 2), 1.0, 1.0)
    model.like("out", Opaque(), add)
    assert reasons(model, add)[0] == Refusal(
        Code.COSTS_MORE, "merging it with double would save nothing"
    )


def test_refuses_a_border_that_costs_more_than_it_saves(model: Model) -> None:
    norm = model.norm("norm", model.input("in", 1, 4, 4, 4))
    pad = model.move("pad", Pad(((2, (1, 1)),), 0.0), norm, 1, 4, 6, 4)
    model.conv2d("conv", pad, 64)
    assert on_code(model, norm) is Code.COSTS_MORE


@pytest.mark.parametrize("way", [backward, forward])
def test_a_blocked_way_leaves_no_trace(model: Model, way: Any) -> None:
    norm = back(model, Homogeneous(), 4, 4, 4, 4)
    before = model.picture()
    assert way(norm, model.values).refusals
    assert model.picture() == before
