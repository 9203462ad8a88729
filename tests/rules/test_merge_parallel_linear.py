"""L1 x + L2 x -> L x."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from neutral import Model
from neutral_run import check_same

from bnfx.passes.algebra import Conv, average
from bnfx.passes.crossing import Window
from bnfx.passes.graph import Linear, Node, Opaque
from bnfx.passes.report import Outcome
from bnfx.passes.rules import fold_affine_into_linear
from bnfx.passes.rules.merge_parallel_linear import RULE


def start(model: Model, channels: int = 4) -> Node:
    return model.input("in", 2, channels, 6, 6)


def finish(model: Model, node: Node) -> Node:
    return model.like("out", Opaque(), node)


def two(model: Model, **second: Any) -> Node:
    """A 3x3 convolution beside a 1x1 one, which ``second`` changes; gives their sum."""
    x = start(model)
    one = model.conv2d("one", x, 4, 3, padding=1, bias=True)
    other = model.conv2d("other", x, 4, **second)
    add = model.plus("add", one, other)
    finish(model, add)
    return add


def test_golden(model: Model) -> None:
    add = two(model)
    x, one, other = add.inputs[0].inputs[0], *add.inputs
    both = one.role.operator + other.role.operator
    assert model.counts() == {"Opaque": 3, "Linear": 2, "Add": 1}

    report = check_same(model, RULE)

    assert model.counts() == {"Opaque": 3, "Linear": 1}
    assert [node.name for node in model.graph] == ["x", "in", "one", "out"]
    assert add.role == Linear(both, "float32")
    assert (add.inputs, list(x.users)) == ([x], [add])
    assert report.rewrites == {"merge-parallel-linear": 1}
    assert not model.has_border()


def test_second_run_changes_nothing(model: Model) -> None:
    two(model)
    model.run(RULE)
    before = model.picture()
    assert model.run(RULE).rewrites == {}
    assert model.picture() == before


def test_without_numbers_it_merges_all_the_same(model: Model) -> None:
    two(model)
    check_same(model, RULE, numbers=False)
    assert model.counts() == {"Opaque": 3, "Linear": 1}


@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.0, -1.0), (-0.5, 2.0)])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    "second",
    [
        {"kernel": 1},
        {"kernel": 3, "padding": 1},
        {"kernel": 5, "padding": 2},
        {"kernel": 3, "padding": 1, "groups": 2},
        {"kernel": 1, "groups": 4, "bias": True},
        {"kernel": 1, "dilation": 3},
    ],
)
def test_any_two_that_have_a_sum(
    model: Model, second: Any, swapped: bool, factors: tuple[float, float]
) -> None:
    x = start(model)
    arms = [
        model.conv2d("one", x, 4, 3, padding=1, bias=True),
        model.conv2d("other", x, 4, **second),
    ]
    finish(model, model.plus("add", *(reversed(arms) if swapped else arms), *factors))
    check_same(model, RULE)
    assert model.counts() == {"Opaque": 3, "Linear": 1}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("arm", ["input", "norm", "scalar", "pool", "itself"])
def test_branches_that_are_no_convolution(model: Model, arm: str, swapped: bool) -> None:
    x = start(model)
    conv = model.conv2d("conv", x, 4, 3, padding=1)
    other = {
        "input": lambda: x,
        "norm": lambda: model.norm("norm", x, {"gamma": [0, -1, 1, 2]}),
        "scalar": lambda: model.arithmetic("scalar", x, 3.0, -1.0),
        "pool": lambda: model.move(
            "pool",
            Window(
                (2, 3), counts_padding=True, convolution=average(4, (3, 3), (1, 1), ((1, 1),) * 2)
            ),
            x,
        ),
        "itself": lambda: conv,
    }[arm]()
    add = model.plus("add", *((other, conv) if swapped else (conv, other)), 2.0, -3.0)
    finish(model, add)

    report = check_same(model, RULE)

    assert model.counts() == {"Opaque": 3, "Linear": 1}
    assert [(v.outcome, v.target) for v in report.verdicts] == (
        [(Outcome.FOLDED, "conv")] if arm in ("norm", "scalar") else []
    )


def test_a_whole_block_becomes_one_convolution(model: Model) -> None:
    """RepVGG: 3x3 and 1x1 convolutions and the input, each with a BatchNorm of its own."""
    x = start(model)
    three = model.norm("n3", model.conv2d("three", x, 4, 3, padding=1))
    one = model.norm("n1", model.conv2d("one", x, 4))
    add = model.plus("add", three, one)
    finish(model, model.plus("sum", add, model.norm("n0", x)))

    report = check_same(model, fold_affine_into_linear.RULE, RULE)

    assert model.counts() == {"Opaque": 3, "Linear": 1}
    assert [(v.site.name, v.outcome, v.target) for v in report.verdicts] == [
        ("n3", Outcome.FOLDED, "three"),
        ("n1", Outcome.FOLDED, "one"),
        ("n0", Outcome.FOLDED, "three"),
    ]
    assert report.rewrites == {"fold-affine-into-linear": 2, "merge-parallel-linear": 2}


def test_crossed_kernels(model: Model) -> None:
    """ACNet: 1x3 beside 3x1 makes a cross of five taps in 3x3, beside a full 3x3."""
    x = start(model)
    full = model.conv2d("full", x, 4, 3, padding=1)
    across = Conv(model.random_source("a", 4, 4, 1, 3), None, (1, 1), ((0, 0), (1, 1)), (1, 1))
    down = Conv(model.random_source("d", 4, 4, 3, 1), None, (1, 1), ((1, 1), (0, 0)), (1, 1))
    fields = {"rank": 4, "shape": x.shape}
    first = model.plus("first", full, model.linear("across", across, x, **fields))
    finish(model, model.plus("second", first, model.linear("down", down, x, **fields)))
    check_same(model, RULE)
    (conv,) = (n for n in model.graph if isinstance(n.role, Linear))
    assert conv.role.operator.kernel == (3, 3)
    assert conv.name == "full"


def test_dense_operators(model: Model) -> None:
    x = model.input("in", 2, 5, 4)
    add = model.plus("add", model.dense("one", x, 4), model.dense("other", x, 4, bias=False))
    finish(model, model.plus("more", add, x))
    check_same(model, RULE)
    assert model.counts() == {"Opaque": 3, "Linear": 1}


def test_a_residual_over_the_middle_merges_with_what_stands_after_it(model: Model) -> None:
    x = start(model)
    middle = model.conv2d("middle", x, 4, 3, padding=1)
    last = model.conv2d("last", middle, 4)
    finish(model, model.plus("add", last, middle))
    check_same(model, RULE)
    assert [node.name for node in model.graph] == ["x", "in", "middle", "last", "out"]


def test_arms_that_somebody_else_reads_are_no_arms(model: Model) -> None:
    add = two(model)
    model.like("also", Opaque(), add.inputs[1])
    before = model.picture()
    assert not RULE.match(add)
    model.run(RULE)
    assert model.picture() == before


def test_reader_of_the_shape_alone_keeps_the_arm(model: Model) -> None:
    add = two(model)
    one = add.inputs[0]
    model.add("size", Opaque(reads_data=False), one)
    model.run(RULE)
    assert one in model.graph
    assert list(one.users) == [node for node in model.graph if node.name == "size"]
    assert isinstance(add.role, Linear)


@pytest.mark.parametrize("which", ["pinned", "other-input", "no-linear"])
def test_is_about_sums_over_one_input_only(model: Model, which: str) -> None:
    x, y = start(model), model.input("in2", 2, 4, 6, 6)
    one = model.conv2d("one", x, 4)
    other = {
        "pinned": lambda: model.conv2d("other", x, 4, pinned=True),
        "other-input": lambda: model.conv2d("other", y, 4),
        "no-linear": lambda: model.norm("other", x),
    }[which]()
    first = model.norm("first", x) if which == "no-linear" else one
    assert not RULE.match(model.plus("add", first, other))


def test_gamma_of_zero_in_the_identity_branch(model: Model) -> None:
    x = start(model)
    conv = model.conv2d("conv", x, 4, 3, padding=1)
    norm = model.norm("norm", x, {"gamma": 0, "beta": [1, 2, 3, 4]})
    add = model.plus("add", conv, norm)
    finish(model, add)
    weight = np.float64(model.arrays["conv.weight"])
    check_same(model, RULE)
    assert (model.evaluate(add.role.operator.weight) == weight).all()
    assert (model.evaluate(add.role.operator.bias) == [1, 2, 3, 4]).all()
