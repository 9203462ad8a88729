"""L(affine x) -> L' x."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from neutral import Model
from neutral_run import check_same
from numpy.testing import assert_array_equal

from bnfx.passes.algebra import ConvTranspose
from bnfx.passes.crossing import Identity
from bnfx.passes.graph import Affine, Linear, Move, Node, Opaque
from bnfx.passes.report import Outcome
from bnfx.passes.rules.fold_affine_into_next_linear import RULE
from bnfx.passes.rules.ordered import RULES

SIGNED = {"gamma": [0, -1, 2, -3]}


def before(model: Model, batch: int = 4) -> Node:
    """A BatchNorm that nothing linear stands before."""
    x = model.input("in", batch, 4, 6, 6)
    return model.norm("norm", model.like("relu", Opaque(), x), SIGNED)


def transposed(model: Model, name: str, x: Node, **options: Any) -> Node:
    known: dict[str, Any] = {"stride": 1, "kernel": 1, "cut": 0, "extra": 0, "groups": 1, **options}
    taps = (known["kernel"],) * 2
    weight = model.random_source(f"{name}.weight", 4, 4 // known["groups"], *taps)
    operator = ConvTranspose(
        weight,
        model.random_source(f"{name}.bias", 4),
        (known["stride"],) * 2,
        ((known["cut"],) * 2,) * 2,
        (known["extra"],) * 2,
        (1, 1),
        known["groups"],
    )
    shape = (x.shape[0], *operator.output_shape(x.shape[1:]))
    return model.linear(name, operator, x, rank=4, shape=shape)


def test_golden(model: Model) -> None:
    norm = before(model)
    conv = model.conv2d("conv", norm, 5, 3, bias=True)
    model.like("out", Opaque(), conv)
    affine, operator = norm.role.map.along(1), conv.role.operator
    relu = norm.inputs[0]

    report = check_same(model, RULE)

    assert [node.name for node in model.graph] == ["x", "in", "relu", "conv", "out"]
    assert (conv.inputs, list(relu.users)) == ([relu], [conv])
    assert isinstance(conv.role, Linear)
    assert conv.role.operator.weight == operator.after(affine.scale).weight
    assert conv.role.operator.bias == operator.bias + operator.response(affine.shift, None)
    (verdict,) = report.verdicts
    assert (verdict.outcome, verdict.target, verdict.refusals) == (Outcome.FOLDED, "conv", ())
    assert report.rewrites == {"fold-affine-into-next-linear": 1}
    assert not model.has_border()


def test_second_run_changes_nothing(model: Model) -> None:
    model.conv2d("conv", before(model), 4, 3, padding=1)
    model.run(RULE)
    picture = model.picture()
    assert model.run(RULE).rewrites == {}
    assert model.picture() == picture


@pytest.mark.parametrize("padding", [0, 1])
def test_without_numbers_it_folds_all_the_same(model: Model, padding: int) -> None:
    model.like("out", Opaque(), model.conv2d("conv", before(model), 4, 3, padding=padding))
    check_same(model, RULE, numbers=False)
    assert model.counts()["Affine"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"kernel": 1},
        {"kernel": 3, "stride": 2, "dilation": 2},
        {"kernel": 3, "groups": 2, "bias": True},
        {"kernel": 3, "groups": 4},
        {"kernel": 3, "padding": 1, "bias": True},
        {"kernel": (1, 3), "padding": 2, "stride": 2, "groups": 2},
        {"kernel": 3, "padding": 2, "dilation": 2, "groups": 4},
    ],
)
def test_any_convolution(model: Model, options: Any) -> None:
    model.like("out", Opaque(), model.conv2d("conv", before(model), 4, **options))
    report = check_same(model, RULE)
    assert report.count(Outcome.FOLDED) == 1
    assert model.has_border() is ("padding" in options)


@pytest.mark.parametrize(
    ("options", "border"),
    [
        ({"groups": 2}, False),
        ({"kernel": 2, "stride": 2}, True),
        ({"kernel": 3, "stride": 2, "cut": 1, "extra": 1, "groups": 2}, True),
        ({"kernel": 3, "groups": 4}, True),
    ],
)
def test_any_transposed_convolution(model: Model, options: Any, border: bool) -> None:
    model.like("out", Opaque(), transposed(model, "up", before(model, batch=32), **options))
    report = check_same(model, RULE)
    assert report.count(Outcome.FOLDED) == 1
    assert model.has_border() is border


@pytest.mark.parametrize("dims", [(5, 4), (5, 3, 4), (5, 2, 3, 4)])
def test_dense(model: Model, dims: Any) -> None:
    x = model.like("relu", Opaque(), model.input("in", *dims))
    norm = model.batch_norm("norm", x, 4, len(dims) - 1, SIGNED, rank=len(dims), shape=dims)
    model.like("out", Opaque(), model.dense("dense", norm, 3))
    assert check_same(model, RULE).count(Outcome.FOLDED) == 1


def test_a_border_is_added_where_taps_meet_padding(model: Model) -> None:
    conv = model.conv2d("conv", before(model), 4, 3, padding=1)
    model.like("out", Opaque(), conv)

    check_same(model, RULE)

    assert model.has_border()
    inner, border = (node for node in model.graph if node.name == "conv")
    assert border is conv
    assert isinstance(inner.role, Linear)
    assert inner.role.operator.bias is None
    assert isinstance(border.role, Affine)
    assert border.role.lowered
    assert border.role.map.is_shift
    assert border.role.map.shape == (1, 4, 6, 6)
    assert (inner.rank, inner.shape, inner.dtype) == (conv.rank, conv.shape, conv.dtype)
    assert model.run(*RULES).rewrites == {}, "no rule takes the border up again"


def test_a_scale_alone_leaves_no_border(model: Model) -> None:
    x = model.like("relu", Opaque(), model.input("in", "n", 4, "h", "w"))
    times = model.arithmetic("times", x, np.array([[1, -2, 0, 3]]))
    model.like("out", Opaque(), model.conv2d("conv", times, 4, 3, padding=1))
    report = check_same(model, RULE)
    assert report.count(Outcome.FOLDED, "affine") == 1
    assert not model.has_border()


def test_one_number_for_all_channels(model: Model) -> None:
    x = model.like("relu", Opaque(), model.input("in", 8, 4, 6, 6))
    scaled = model.arithmetic("scaled", x, 3.0, -0.5)
    model.like("out", Opaque(), model.conv2d("conv", scaled, 4, 3, padding=1, groups=2))
    assert check_same(model, RULE).count(Outcome.FOLDED, "affine") == 1


def test_every_reader_absorbs_the_map(model: Model) -> None:
    norm = before(model)
    for name, options in {"a": {}, "b": {"kernel": 3, "padding": 1}, "c": {"groups": 2}}.items():
        model.like(f"out_{name}", Opaque(), model.conv2d(name, norm, 4, **options))
    model.add("size", Opaque(reads_data=False), norm)
    report = check_same(model, RULE)
    (verdict,) = report.verdicts
    assert (verdict.outcome, verdict.target) == (Outcome.FOLDED, "a")
    assert {node.name for node in norm.inputs[0].users} == {"a", "b", "c", "size"}


def test_a_gamma_of_zero_makes_the_channel_constant(model: Model) -> None:
    conv = model.conv2d("conv", before(model), 4, 3)
    model.run(RULE)
    assert_array_equal(model.evaluate(conv.role.operator.weight)[:, 0], 0)
    assert np.isfinite(model.evaluate(conv.role.operator.bias)).all()


def test_what_lays_its_output_out_leaves_an_op_that_does(model: Model) -> None:
    norm = before(model)
    norm.lays_out = True
    model.like("out", Opaque(), model.conv2d("conv", norm, 4))
    report = check_same(model, RULE)
    assert norm in model.graph
    assert norm.role == Move(Identity(contiguous=True))
    (verdict,) = report.verdicts
    assert (verdict.outcome, verdict.target) == (Outcome.FOLDED, "conv")
