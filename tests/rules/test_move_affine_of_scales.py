"""Maps without a shift, and maps of one number: what is asked of them all the same."""

from __future__ import annotations

import numpy as np
from neutral import Model

from bnfx.passes.crossing import Identity
from bnfx.passes.graph import Opaque
from bnfx.passes.refusals import Code
from bnfx.passes.rules import fold_affine_into_next_linear
from bnfx.passes.rules.routes.back import backward


def test_a_scale_of_rows_is_refused_by_the_convolution(model: Model) -> None:
    conv = model.conv2d("conv", model.input("in", 2, 4, 4, 4), 4)
    copy = model.move("copy", Identity(), conv)
    rows = model.arithmetic("rows", copy, np.array([[[1.0, 2, -3, 4]]]))
    model.like("out", Opaque(), rows)
    assert rows.role.map.axes == (2,)
    assert [r.code for r in backward(rows, model.values).refusals] == [Code.AXIS_MISMATCH]


def test_a_map_gets_no_more_axes_by_a_merge(model: Model) -> None:
    """A convolution before it could take it no more."""
    conv = model.conv2d("conv", model.input("in", 2, 4, 4, 4), 4)
    channels = model.arithmetic("channels", conv, np.array([[1.0, 2, -3, 4]]))
    copy = model.move("copy", Identity(), channels)
    rows = model.arithmetic("rows", copy, np.ones((1, 1, 4)), np.ones((1, 1, 4)))
    assert [r.code for r in backward(rows, model.values).refusals] == [Code.AXIS_MISMATCH]


def test_one_number_is_absorbed_whatever_the_rank(model: Model) -> None:
    twice = model.arithmetic("twice", model.input("in", 2, 4, 4, 4), 2.0)
    conv = model.conv2d("conv", twice, 3)
    conv.rank = conv.shape = None
    model.like("out", Opaque(), conv)
    assert not list(fold_affine_into_next_linear.refuse(twice, model.values))
    channels = model.norm("norm", model.input("more", 2, 4, 4, 4))
    other = model.conv2d("other", channels, 3)
    other.rank = other.shape = None
    codes = [r.code for r in fold_affine_into_next_linear.refuse(channels, model.values)]
    assert codes == [Code.UNKNOWN_RANK]


def test_a_border_needs_a_rank_of_one_number_too(model: Model) -> None:
    node = model.arithmetic("map", model.input("in", 2, 4, 4, 4), 2.0, 1.0)
    conv = model.conv2d("conv", node, 3, 3, padding=1)
    conv.rank = conv.shape = None
    codes = [r.code for r in fold_affine_into_next_linear.refuse(node, model.values)]
    assert codes == [Code.UNKNOWN_RANK]


def test_a_scale_gives_a_convolution_no_bias(model: Model) -> None:
    scale = model.arithmetic("scale", model.input("in", 2, 4, 4, 4), np.array([[1.0, -1, 2, 3]]))
    conv = model.conv2d("conv", scale, 3)
    fold_affine_into_next_linear.rewrite(model.graph, scale, model.values)
    assert conv.role.operator.bias is None
