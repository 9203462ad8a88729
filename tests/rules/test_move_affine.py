"""affine(T x) -> T(affine' x): the way back to what absorbs the map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from neutral import Model
from neutral_run import check_same
from numpy.testing import assert_array_equal

from bnfx.passes.crossing import (
    Chain,
    Homogeneous,
    Identity,
    Movement,
    Pad,
    Permute,
    Reshape,
    Select,
    Window,
)
from bnfx.passes.graph import Affine, Concat, Linear, Move, Node, Opaque, Product
from bnfx.passes.report import Outcome, Verdict
from bnfx.passes.rules.move_affine import RULE

POSITIVE = {"gamma": [0, 1, 2, 3]}
SCALE = {**POSITIVE, "mean": 0, "beta": 0}


def conv(model: Model, name: str = "conv", out: int = 4, **options: Any) -> Node:
    x = next((node for node in model.graph if node.name == "in"), None)
    x = x or model.input("in", 2, 4, 4, 4)
    return model.conv2d(name, x, out, 3, padding=1, bias=True, **options)


def finish(model: Model, node: Node, name: str = "out") -> Node:
    return model.like(name, Opaque(), node)


def folded(model: Model, **functions: Any) -> Verdict:
    """The verdict on the only map, after checking that the graph still gives the same."""
    report = check_same(model, RULE, **functions)
    assert report.rewrites == {"move-affine": 1}
    assert not model.has_border()
    assert model.counts()["Affine"] == model.counts()["Lowered"] == 0
    (verdict,) = report.verdicts
    return verdict


def test_golden(model: Model) -> None:
    start = conv(model)
    pool = model.move("pool", Window((2, 3)), start, 2, 4, 2, 2)
    norm = model.norm("norm", pool)
    finish(model, norm)
    operator, affine = start.role.operator, norm.role.map.along(1)

    verdict = folded(model)

    assert [node.name for node in model.graph] == ["x", "in", "conv", "pool", "out"]
    assert start.role == Linear(affine @ operator, "float32")
    assert pool.role == Move(Window((2, 3)))
    assert (verdict.outcome, verdict.target, verdict.refusals) == (Outcome.FOLDED, "conv", ())


def test_second_run_changes_nothing(model: Model) -> None:
    model.norm("norm", model.move("pool", Window((2, 3)), conv(model), 2, 4, 2, 2))
    model.run(RULE)
    before = model.picture()
    assert model.run(RULE).rewrites == {}
    assert model.picture() == before


SHUFFLE = Chain(
    (
        (Reshape(), (2, 1, 2, 2, 4, 4)),
        (Permute((0, 1, 4, 2, 5, 3)), (2, 1, 4, 2, 4, 2)),
        (Reshape(), (2, 1, 8, 8)),
    )
)


@pytest.mark.parametrize(
    ("movement", "dims", "statistics"),
    [
        (Identity(), (2, 4, 4, 4), None),
        (Window((2, 3), by_order=True), (2, 4, 2, 2), POSITIVE),
        (Window((2, 3), keep=False), (2, 4), None),
        (Reshape(), (2, 4, 16), None),
        (Reshape(), (2, 4, 4, 4, 1), None),
        (Permute((0, 1, 3, 2)), (2, 4, 4, 4), None),
        (SHUFFLE, (2, 1, 8, 8), None),
        (Pad(((2, (1, 1)), (3, (0, 2))), None), (2, 4, 6, 6), None),
        (Pad(((2, (1, 1)), (3, (0, 2))), 0.0), (2, 4, 6, 6), "scale"),
        (Homogeneous(), (2, 4, 4, 4), "scale"),
        (Select(1, 1, 4), (2, 3, 4, 4), None),
        (Select(2, 1, 3), (2, 4, 2, 4), None),
        (Select(2, 1, 2, keep=False), (2, 4, 4), None),
    ],
)
def test_every_movement(model: Model, movement: Movement, dims: Any, statistics: Any) -> None:
    moved = model.move("moved", movement, conv(model), *dims)
    if statistics == "scale":
        last = model.arithmetic("norm", moved, np.array([[0.0, 1, 2, 3]]))
    else:
        last = model.norm("norm", moved, statistics)
    finish(model, last)
    assert folded(model).target == "conv"


def test_a_map_that_the_channels_were_merged_into(model: Model) -> None:
    """Of one position each channel is one feature, so that features are channels."""
    flat = model.move(
        "flat", Reshape(), model.conv2d("conv", model.input("in", 3, 4, 1, 1), 4), 3, 4
    )
    finish(model, model.norm("norm", flat))
    assert folded(model).target == "conv"


def test_several_movements(model: Model) -> None:
    node = model.move("relu", Homogeneous(), conv(model))
    node = model.move("pool", Window((2, 3), by_order=True), node, 2, 4, 2, 2)
    node = model.move("turn", Permute((0, 2, 3, 1)), node, 2, 2, 2, 4)
    finish(model, model.arithmetic("scale", node, np.array([[[[0.0, 1, 2, 3]]]])))
    assert folded(model).target == "conv"


def test_a_concatenation_gives_each_branch_its_part(model: Model) -> None:
    one, other = conv(model, "one", 3), conv(model, "other", 5)
    norm = model.norm("norm", model.concat("cat", 1, one, other))
    finish(model, norm)
    assert folded(model).target == "one"
    assert model.counts() == {"Opaque": 3, "Linear": 2, "Concat": 1}


def test_a_concatenation_along_another_axis_gives_all_to_each(model: Model) -> None:
    cat = model.concat("cat", 2, conv(model, "one"), conv(model, "other"))
    finish(model, model.norm("norm", cat))
    folded(model)


def test_parts_of_a_split_each_go_their_own_way(model: Model) -> None:
    start = conv(model, out=8)
    parts = [
        model.move(f"part{i}", Select(1, 4 * i, 4 * i + 4), start, 2, 4, 4, 4) for i in range(2)
    ]
    finish(model, model.norm("norm", parts[0]), "first")
    finish(model, parts[1], "second")
    assert folded(model).target == "conv"
    scaled = model.evaluate(start.role.operator.weight)
    assert_array_equal(scaled[4:], model.arrays["conv.weight"][4:])


def test_both_parts_of_a_split(model: Model) -> None:
    start = conv(model, out=8)
    for i in range(2):
        part = model.move(f"part{i}", Select(1, 4 * i, 4 * i + 4), start, 2, 4, 4, 4)
        finish(model, model.norm(f"norm{i}", part), f"out{i}")
    report = check_same(model, RULE)
    assert [verdict.target for verdict in report.verdicts] == ["conv", "conv"]


def test_one_number_for_a_part_of_a_split(model: Model) -> None:
    """For the whole it is one number for some channels, and the identity for the others."""
    start = conv(model, out=8)
    parts = [
        model.move(f"part{i}", Select(1, 4 * i, 4 * i + 4), start, 2, 4, 4, 4) for i in range(2)
    ]
    finish(model, model.arithmetic("double", parts[1], 2.0, -1.0), "first")
    finish(model, parts[0], "second")
    assert folded(model).target == "conv"


def test_a_shuffled_split_and_concatenation(model: Model) -> None:
    """The parts of a split come together again in another order."""
    start = conv(model, out=4)
    parts = [
        model.move(f"part{i}", Select(1, 2 * i, 2 * i + 2), start, 2, 2, 4, 4) for i in range(2)
    ]
    finish(model, model.norm("norm", model.concat("cat", 1, *reversed(parts))))
    assert folded(model).target == "conv"


@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.0, -1.0), (-2.0, 0.5)])
def test_a_sum_gives_the_scale_to_both_and_the_shift_to_one(model: Model, factors: Any) -> None:
    add = model.plus("add", conv(model, "one"), conv(model, "other"), *factors)
    finish(model, model.norm("norm", add))
    assert folded(model).target == "one"


@pytest.mark.parametrize("swapped", [False, True])
def test_the_shift_of_a_sum_goes_to_the_arm_that_can_take_it(model: Model, swapped: bool) -> None:
    """A ReLU lets a scale through, and no shift."""
    relu = model.move("relu", Homogeneous(), conv(model, "one"))
    arms = [relu, conv(model, "other")]
    add = model.plus("add", *(reversed(arms) if swapped else arms), -2.0, 3.0)
    finish(model, model.norm("norm", add, {**POSITIVE, "gamma": [1, 1, 2, 3]}))
    assert folded(model).target == ("other" if swapped else "one")


def test_a_sum_of_sums(model: Model) -> None:
    inner = model.plus("inner", conv(model, "a"), conv(model, "b"))
    finish(model, model.norm("norm", model.plus("outer", inner, conv(model, "c"), 1.0, -1.0)))
    folded(model)


@pytest.mark.parametrize("arm", [0, 1])
def test_a_product_gives_the_scale_to_one_factor(model: Model, arm: int) -> None:
    free = model.like("free", Opaque(), model.input("in2", 2, 4, 4, 4))
    arms = [conv(model), free]
    gate = model.gate("gate", arms[arm], arms[1 - arm])
    finish(model, model.arithmetic("scale", gate, np.array([[1.0, -2, 0, 3]])))
    assert folded(model).target == "conv"


@pytest.mark.parametrize("swapped", [False, True])
def test_a_product_gives_nothing_to_a_factor_that_is_broadcast(model: Model, swapped: bool) -> None:
    whole = conv(model, "whole")
    narrow = model.conv2d("narrow", model.input("in2", 2, 4, 4, 4), 1)
    gate = model.like("gate", Product(), *((narrow, whole) if swapped else (whole, narrow)))
    gate.shape = whole.shape
    finish(model, model.arithmetic("scale", gate, np.array([[1.0, -2, 0, 3]])))
    assert folded(model).target == "whole"


def test_what_lays_its_output_out_leaves_an_op_that_does(model: Model) -> None:
    norm = model.norm("norm", model.move("pool", Window((2, 3)), conv(model), 2, 4, 2, 2))
    finish(model, norm)
    norm.lays_out = True
    assert folded(model).target == "conv"
    assert norm in model.graph
    assert norm.role == Move(Identity(contiguous=True))


def test_without_numbers_it_crosses_what_needs_none(model: Model) -> None:
    finish(model, model.norm("norm", model.move("pool", Window((2, 3)), conv(model), 2, 4, 2, 2)))
    check_same(model, RULE, numbers=False)
    assert not any(isinstance(node.role, Affine) for node in model.graph)


def test_concatenated_sizes_of_a_symbolic_axis_do_not_matter_elsewhere(model: Model) -> None:
    x = model.input("in", "n", 4, "h", "w")
    parts = [model.conv2d(name, x, 4) for name in ("one", "other")]
    cat = model.like("cat", Concat(1), *parts, shape=("n", 8, "h", "w"))
    finish(model, model.norm("norm", cat))
    folded(model)
