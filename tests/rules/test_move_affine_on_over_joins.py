"""The way on over joins and pads: what each of their guards is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from neutral import Model
from neutral_run import check_same

from bnfx.passes.crossing import Pad, Reshape
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


def test_parts_that_differ_in_their_shift_alone(model: Model) -> None:
    """Along the rows, the upper ones are shifted and the lower ones are not."""
    node, other = _shift(model), model.input("other", 2, 4, 4, 4)
    model.conv2d("conv", model.concat("cat", 2, node, other), 4)
    assert _codes(model, node) == [Code.AXIS_MISMATCH]


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


def test_an_op_whose_output_has_no_known_shape(model: Model) -> None:
    node = _scale(model)
    model.like("out", Opaque(), model.like("flat", Move(Reshape()), node, rank=2, shape=None))
    assert _codes(model, node) == [Code.UNKNOWN_RANK]


def test_a_scale_crosses_a_pad_that_no_convolution_can_do(model: Model) -> None:
    """One that crops on the other side; only a shift would have to be done by the convolution."""
    pad = model.move("pad", Pad(((2, (2, -1)),), 0.0), _scale(model), 2, 4, 5, 4)
    model.like("out", Opaque(), model.conv2d("conv", pad, 3))
    check_same(model, RULE)
    assert model.counts() == {"Opaque": 3, "Move": 1, "Linear": 1}
