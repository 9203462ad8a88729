"""Products beside the way back: one that takes nothing does not spoil the way of another factor."""

from __future__ import annotations

import numpy as np
from neutral import Model
from neutral_run import check_same

from bnfx.passes.graph import Node, Opaque
from bnfx.passes.rules.move_affine import RULE


def _convs(model: Model, *names: str) -> list[Node]:
    start = model.input("in", 2, 3, 4, 4)
    return [model.conv2d(name, start, 3, bias=True) for name in names]


def _scaled(model: Model, value: Node) -> None:
    scale = np.asarray([2.0, -0.5, 3.0]).reshape(1, 3, 1, 1)
    model.like("out", Opaque(), model.arithmetic("scale", value, scale))


def test_a_square_beside_the_factor_that_takes_it(model: Model) -> None:
    one, other = _convs(model, "one", "other")
    square = model.gate("square", other, other)
    _scaled(model, model.gate("product", one, square))
    assert check_same(model, RULE).rewrites == {"move-affine": 1}


def test_a_gate_that_others_read(model: Model) -> None:
    one, left, right = _convs(model, "one", "left", "right")
    gate = model.gate("gate", left, right)
    model.like("reader", Opaque(), gate)
    _scaled(model, model.gate("product", gate, one))
    assert check_same(model, RULE).rewrites == {"move-affine": 1}


def test_a_shift_goes_past_a_product_to_the_other_summand(model: Model) -> None:
    one, left, right = _convs(model, "one", "left", "right")
    total = model.plus("total", model.gate("gate", left, right), one)
    shift = np.asarray([2.0, -0.5, 3.0]).reshape(1, 3, 1, 1)
    model.like("out", Opaque(), model.arithmetic("shift", total, 1.0, shift))
    assert check_same(model, RULE).rewrites == {"move-affine": 1}


def test_a_scale_that_no_product_takes_is_refused(model: Model) -> None:
    (one,) = _convs(model, "one")
    square = model.gate("square", one, one)
    _scaled(model, model.gate("fourth", square, square))
    assert check_same(model, RULE).rewrites == {}


def test_a_sum_with_a_product_that_is_subtracted_from_itself(model: Model) -> None:
    one, other = _convs(model, "one", "other")
    total = model.plus("total", other, model.gate("square", one, one))
    less = model.plus("less", total, total, 1.0, -2.0)
    shift = np.asarray([2.0, -0.5, 3.0]).reshape(1, 3, 1, 1)
    model.like("out", Opaque(), model.arithmetic("shift", less, 1.0, shift))
    assert check_same(model, RULE).rewrites == {}
