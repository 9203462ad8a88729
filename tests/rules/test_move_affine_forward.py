"""T(affine x) -> affine'(T x): the way on to everything that absorbs the map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from neutral import Model
from neutral_run import check_same
from numpy.testing import assert_array_equal

from bnfx.passes.crossing import Homogeneous, Movement, Pad, Permute, Reshape, Select, Window
from bnfx.passes.graph import Affine, Linear, Node, Opaque
from bnfx.passes.report import GraphReport, Outcome
from bnfx.passes.rules.move_affine import RULE

POSITIVE = {"gamma": [0, 1, 2, 3]}


def start(model: Model, batch: int = 2, name: str = "") -> Node:
    """A value that no map can go back through."""
    x = model.input(f"in{name}", batch, 4, 4, 4)
    return model.like(f"start{name}", Opaque(), x)


def norm(model: Model, statistics: Any = None, **options: Any) -> Node:
    return model.norm("norm", start(model, **options), statistics)


def scale(model: Model, **options: Any) -> Node:
    return model.arithmetic("scale", start(model, **options), np.array([[0.0, 1, 2, 3]]))


def shift(model: Model, **options: Any) -> Node:
    return model.arithmetic("shift", start(model, **options), 1.0, np.array([[0.0, -1, 2, 3]]))


def finish(model: Model, *nodes: Node) -> None:
    for node in nodes:
        model.like(f"out_{node.name}", Opaque(), node)


def moved(model: Model, kind: str = "batch_norm") -> GraphReport:
    report = check_same(model, RULE)
    assert report.rewrites == {"move-affine": 1}
    assert report.count(Outcome.FOLDED, kind) == 1
    return report


def test_golden(model: Model) -> None:
    node = norm(model)
    pool = model.move("pool", Window((2, 3)), node, 2, 4, 2, 2)
    conv = model.conv2d("conv", pool, 5, bias=True)
    finish(model, conv)
    affine, operator, before = node.role.map.along(1), conv.role.operator, node.inputs[0]

    report = moved(model)

    assert [n.name for n in model.graph] == ["x", "in", "start", "pool", "conv", "out_conv"]
    assert pool.inputs == [before]
    assert isinstance(conv.role, Linear)
    assert conv.role.operator.weight == operator.after(affine.scale).weight
    assert conv.role.operator.bias == operator.bias + operator.response(affine.shift, None)
    assert not model.has_border()
    assert report.verdicts[0].target == "conv"


@pytest.mark.parametrize(
    ("movement", "dims"),
    [
        (Window((2, 3), by_order=True), (2, 4, 2, 2)),
        (Permute((0, 1, 3, 2)), (2, 4, 4, 4)),
        (Pad(((2, (1, 2)),), None), (2, 4, 7, 4)),
        (Select(1, 1, 4), (2, 3, 4, 4)),
        (Select(3, 1, 2), (2, 4, 4, 1)),
        (Reshape(), (2, 4, 2, 8)),
    ],
)
def test_movements(model: Model, movement: Movement, dims: Any) -> None:
    finish(
        model, model.conv2d("conv", model.move("moved", movement, norm(model, POSITIVE), *dims), 3)
    )
    moved(model)


def test_a_flatten_before_a_dense_operator(model: Model) -> None:
    """Each channel is 16 features, and the scale is written out for each."""
    flat = model.move("flat", Reshape(), norm(model), 2, 64)
    dense = model.dense("dense", flat, 3)
    finish(model, dense)
    moved(model)
    assert dense.role.operator.weight.shape == (3, 64)


def test_an_activation_lets_a_scale_through(model: Model) -> None:
    relu = model.move("relu", Homogeneous(), scale(model))
    finish(model, model.conv2d("conv", relu, 3, 3, padding=1))
    moved(model, "affine")
    assert not model.has_border()


def test_every_branch_absorbs_the_map(model: Model) -> None:
    node = norm(model, batch=8)
    pool = model.move("pool", Window((2, 3), keep=False), node, 8, 4)
    finish(model, model.dense("dense", pool, 3), model.conv2d("conv", node, 3, 3, padding=1))
    moved(model)
    assert model.has_border()


@pytest.mark.parametrize("sides", [((2, (1, 1)), (3, (1, 1))), ((3, (0, 2)),), ((2, (2, 0)),)])
@pytest.mark.parametrize("padding", [0, 1])
def test_padding_by_zeros_counts_as_the_convolution_s_own(
    model: Model, sides: Any, padding: int
) -> None:
    dims = [8, 4, 4, 4]
    for axis, pair in sides:
        dims[axis] += sum(pair)
    pad = model.move("pad", Pad(sides, 0.0), norm(model, batch=8), *dims)
    conv = model.conv2d("conv", pad, 4, 3, padding=padding, groups=2, bias=True)
    finish(model, conv)
    moved(model)
    assert model.has_border()
    assert model.counts() == {"Opaque": 4, "Move": 1, "Linear": 1, "Lowered": 1}
    inner = conv.inputs[0]
    assert inner.role.operator.padding == ((padding, padding),) * 2, "it still reads the pad"


def test_a_concatenation_leaves_the_other_branches_alone(model: Model) -> None:
    other = start(model, name="2")
    conv = model.conv2d("conv", model.concat("cat", 1, other, norm(model), other), 5)
    finish(model, conv)
    moved(model)
    weight = model.evaluate(conv.role.operator.weight)
    for place in (slice(0, 4), slice(8, 12)):
        assert_array_equal(weight[:, place], model.arrays["conv.weight"][:, place])


def test_a_value_reaches_a_concatenation_on_two_ways(model: Model) -> None:
    node = norm(model, POSITIVE)
    turned = model.move("turned", Permute((0, 1, 3, 2)), node)
    finish(model, model.conv2d("conv", model.concat("cat", 1, node, turned), 5))
    moved(model)


@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.0, -1.0), (-2.0, 0.5)])
@pytest.mark.parametrize("position", [0, 1])
def test_a_sum_lets_a_shift_through(model: Model, factors: Any, position: int) -> None:
    arms = [start(model, name="2")]
    arms.insert(position, shift(model))
    finish(model, model.conv2d("conv", model.plus("add", *arms, *factors), 3))
    moved(model, "affine")


@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.0, -3.0)])
def test_a_sum_of_a_value_with_itself(model: Model, factors: Any) -> None:
    node = shift(model)
    finish(model, model.conv2d("conv", model.plus("add", node, node, *factors), 3))
    moved(model, "affine")


def test_a_sum_of_two_ways(model: Model) -> None:
    node = shift(model, batch=8)
    turned = model.move("turned", Permute((0, 1, 3, 2)), node)
    add = model.plus("add", node, turned, 1.0, 2.0)
    finish(model, model.conv2d("conv", add, 4, 3, padding=1))
    moved(model, "affine")
    assert model.has_border()


def test_a_product_lets_a_scale_through(model: Model) -> None:
    gate = model.gate("gate", scale(model), start(model, name="2"))
    finish(model, model.conv2d("conv", gate, 3, 3, padding=1))
    moved(model, "affine")


def test_a_gate_of_one_position(model: Model) -> None:
    """The map of a factor that is broadcast is the map of the product."""
    narrow = model.like("narrow", Opaque(), model.input("in2", 2, 4, 1, 1))
    gate = model.gate(
        "gate", start(model), model.arithmetic("scale", narrow, np.array([[1.0, -2, 0, 3]]))
    )
    finish(model, model.conv2d("conv", gate, 3))
    moved(model, "affine")


def test_a_square_takes_the_scale_twice(model: Model) -> None:
    node = scale(model)
    conv = model.conv2d("conv", model.gate("gate", node, node), 3)
    finish(model, conv)
    moved(model, "affine")
    expected = model.arrays["conv.weight"] * np.array([0, 1, 4, 9.0]).reshape(1, 4, 1, 1)
    assert_array_equal(model.evaluate(conv.role.operator.weight), expected)


def test_another_map_absorbs_the_map(model: Model) -> None:
    pool = model.move("pool", Window((2, 3)), norm(model), 2, 4, 2, 2)
    second = model.norm("second", pool)
    finish(model, second)

    report = check_same(model, RULE)

    assert [(v.site.name, v.outcome, v.target) for v in report.verdicts] == [
        ("norm", Outcome.MERGED, "second"),
        ("second", Outcome.LOWERED, ""),
    ]
    assert isinstance(second.role, Affine)
    assert second.role.lowered
    assert second.role.map.axes == (1,)


def test_borders_of_two_ways_add_up(model: Model) -> None:
    node = shift(model, batch=16)
    conv = model.conv2d("conv", model.plus("add", node, node, 1.0, 2.0), 4, 3, padding=1)
    finish(model, conv)
    moved(model, "affine")
    assert model.has_border()
    assert model.counts() == {"Opaque": 4, "Add": 1, "Linear": 1, "Lowered": 1}
