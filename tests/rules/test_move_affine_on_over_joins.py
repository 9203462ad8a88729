"""The way on over joins and pads: what each of their guards is for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from neutral import Model
from neutral_run import check_same

from bnfx.passes.crossing import Homogeneous, Pad, Reshape
from bnfx.passes.graph import Concat, Move, Node, Opaque
from bnfx.passes.refusals import Code
from bnfx.passes.rules.move_affine import RULE
from bnfx.passes.rules.routes.forward import forward


def _shift(model: Model) -> Node:
    return model.arithmetic("shift", model.input("in", 2, 4, 4, 4), 1.0, np.array([[0.0, 1, 2, 3]]))


def _scale(model: Model) -> Node:
    return model.arithmetic("scale", model.input("in", 2, 4, 4, 4), np.array([[1.0, -1, 2, 3]]))


def _codes(model: Model, node: Node) -> list[Code]:
    return [refusal.code for refusal in forward(node, model.values).refusals]


def test_parts_of_one_map_keep_it(model: Model) -> None:
    """Along rows that it does not tell apart."""
    node = _shift(model)
    cat = model.concat("cat", 2, node, node)
    model.like("out", Opaque(), model.conv2d("conv", cat, 3))
    check_same(model, RULE)
    assert model.counts() == {"Opaque": 3, "Concat": 1, "Linear": 1}


def test_parts_that_differ_in_their_shift_alone(model: Model) -> None:
    """Along the rows, the upper ones are shifted and the lower ones are not."""
    node, other = _shift(model), model.input("other", 2, 4, 4, 4)
    model.conv2d("conv", model.concat("cat", 2, node, other), 4)
    assert _codes(model, node) == [Code.AXIS_MISMATCH]


def test_a_whole_of_no_known_shape(model: Model) -> None:
    node, other = _shift(model), model.input("other", 2, 4, 4, 4)
    whole = model.concat("cat", 1, node, other)
    model.conv2d("conv", whole, 4)
    whole.shape = None
    assert _codes(model, node) == [Code.DYNAMIC_SHAPE]


@pytest.mark.parametrize("dims", [None, (2, "n", 4, 4)])
def test_parts_of_sizes_that_are_not_fixed(model: Model, dims: Any) -> None:
    """The size of the whole may be fixed all the same."""
    node = _shift(model)
    other = model.input("other", 2, 2, 4, 4)
    other.shape = dims
    whole = model.like("cat", Concat(1), node, other, shape=(2, 6, 4, 4))
    model.conv2d("conv", whole, 4)
    assert _codes(model, node) == [Code.DYNAMIC_SHAPE]


def test_nothing_is_told_of_what_stands_behind_a_join_that_blocks(model: Model) -> None:
    node, other = _scale(model), model.input("other", 2, 4, 4, 4)
    product = model.gate("product", node, other)
    product.pinned = True
    model.like("out", Opaque(), product)
    assert _codes(model, node) == [Code.MUTATED_IN_GRAPH]


def test_the_other_factor_may_have_a_dtype_of_its_own(model: Model) -> None:
    node, other = _scale(model), model.input("other", 2, 4, 4, 4, dtype="float16")
    model.like("out", Opaque(), model.conv2d("conv", model.gate("product", node, other), 3))
    check_same(model, RULE)
    assert model.counts() == {"Opaque": 4, "Product": 1, "Linear": 1}


@pytest.mark.parametrize("which", ["input", "output"])
def test_an_op_of_which_a_shape_is_not_known(model: Model, which: str) -> None:
    node = _scale(model)
    flat = model.like("flat", Move(Reshape()), node, rank=2, shape=(2, 64))
    {"input": node, "output": flat}[which].shape = None
    model.like("out", Opaque(), flat)
    assert _codes(model, node) == [Code.UNKNOWN_RANK]


def test_a_sum_names_the_summand_that_is_scaled(model: Model) -> None:
    free, node = model.input("free", 2, 4, 4, 4), _scale(model)
    model.conv2d("conv", model.plus("add", free, node), 4)
    assert [r.reason for r in forward(node, None).refusals] == ["add reads scale"]


def test_a_sum_of_scales_has_no_shift_whatever_its_factors(model: Model) -> None:
    node = model.arithmetic("scale", model.input("in", 2, 4, 4, 4), 2.0)
    relu = model.move("relu", Homogeneous(), model.plus("add", node, node, 1.0, 2.0))
    model.like("out", Opaque(), model.conv2d("conv", relu, 3, 3, padding=1))
    check_same(model, RULE)
    assert model.counts() == {"Opaque": 3, "Add": 1, "Move": 1, "Linear": 1}


def test_signs_are_not_told_of_where_something_else_blocks(model: Model) -> None:
    node = _scale(model)
    model.like("out", Opaque(), model.move("relu", Homogeneous(), node))
    assert _codes(model, node) == [Code.NO_LINEAR_AFTER]


@pytest.mark.parametrize("which", ["fill", "reader", "padding", "none"])
def test_refuses_a_shift_across_a_pad_that_no_convolution_can_do(model: Model, which: str) -> None:
    """It would have to be a pad with zeros that only convolutions read, which pad with zeros."""
    node = _shift(model)
    fill = 1.0 if which == "fill" else 0.0
    pad = model.move("pad", Pad(((2, (1, 1)),), fill), node, 2, 4, 6, 4)
    if which != "none":
        conv = model.conv2d("conv", pad, 4)
        conv.role = replace(conv.role, hides_padding=which == "padding")
    if which == "reader":
        model.like("out", Opaque(), pad)
    others = [Code.PADDING_VALUE] if which == "fill" else []
    assert _codes(model, node) == [Code.NONZERO_SHIFT, *others]


def test_a_shift_crosses_what_only_crops(model: Model) -> None:
    crop = model.move("crop", Pad(((2, (-1, -1)),), 0.0), _shift(model), 2, 4, 2, 4)
    model.like("out", Opaque(), model.conv2d("conv", crop, 3))
    check_same(model, RULE)
    assert model.counts() == {"Opaque": 3, "Move": 1, "Linear": 1}


def test_a_scale_crosses_a_pad_that_no_convolution_can_do(model: Model) -> None:
    """One that crops on the other side; only a shift would have to be done by the convolution."""
    pad = model.move("pad", Pad(((2, (2, -1)),), 0.0), _scale(model), 2, 4, 5, 4)
    model.like("out", Opaque(), model.conv2d("conv", pad, 3))
    check_same(model, RULE)
    assert model.counts() == {"Opaque": 3, "Move": 1, "Linear": 1}
