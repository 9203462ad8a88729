"""L2(L1 x) -> L x."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from neutral import Model
from neutral_run import check_same

from bnfx.passes.algebra import ConvTranspose
from bnfx.passes.graph import Affine, Linear, Node, Opaque
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.rules.merge_serial_linear import RULE


def two(
    model: Model, inner: dict[str, Any] | None = None, outer: dict[str, Any] | None = None
) -> Node:
    """A 1x1 convolution to twice the channels, and a 3x3 one back, which shrink; gives the last."""
    x = model.input("in", 2, 4, 6, 6)
    first = model.conv2d("inner", x, **{"out": 8, "bias": True, **(inner or {})})
    last = model.conv2d("outer", first, **{"out": 4, "kernel": 3, "bias": True, **(outer or {})})
    model.like("out", Opaque(), last)
    return last


def test_golden(model: Model) -> None:
    outer = two(model)
    inner = outer.inputs[0]
    product = outer.role.operator @ inner.role.operator
    assert not product.has_border
    assert model.counts() == {"Opaque": 3, "Linear": 2}

    report = check_same(model, RULE)

    assert [node.name for node in model.graph] == ["x", "in", "outer", "out"]
    assert outer.role == Linear(product.operator, "float32")
    assert [node.name for node in outer.inputs] == ["in"]
    assert report.rewrites == {"merge-serial-linear": 1}
    assert not model.has_border()


def test_second_run_changes_nothing(model: Model) -> None:
    two(model, outer={"padding": 1})
    model.run(RULE)
    before = model.picture()
    assert model.run(RULE).rewrites == {}
    assert model.picture() == before


def test_without_numbers_it_merges_all_the_same(model: Model) -> None:
    two(model)
    check_same(model, RULE, numbers=False)
    assert model.counts() == {"Opaque": 3, "Linear": 1}


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ({"bias": False}, {"bias": False}),
        ({"bias": False}, {"padding": 1, "stride": 2, "dilation": 2}),
        ({"groups": 2}, {"groups": 4}),
        ({"kernel": 3, "padding": 1, "stride": 2}, {"kernel": 1, "out": 2}),
        ({"kernel": 3, "padding": 1, "groups": 4}, {"kernel": 1, "out": 2}),
        ({"stride": 2}, {"kernel": 1, "stride": 2}),
    ],
)
def test_any_two_that_have_a_product(model: Model, inner: Any, outer: Any) -> None:
    two(model, inner, outer)
    check_same(model, RULE)
    assert model.counts() == {"Opaque": 3, "Linear": 1}


def test_dense_operators_on_a_sequence(model: Model) -> None:
    x = model.input("in", 2, 5, 4)
    model.like("out", Opaque(), model.dense("outer", model.dense("inner", x, 32), 3))
    check_same(model, RULE)
    assert model.counts() == {"Opaque": 3, "Linear": 1}


def test_a_chain_becomes_one(model: Model) -> None:
    node = model.input("in", 2, 4)
    for name in "abcd":
        node = model.dense(name, node, 4)
    model.like("out", Opaque(), node)
    assert check_same(model, RULE).rewrites == {"merge-serial-linear": 3}
    assert [n.name for n in model.graph] == ["x", "in", "d", "out"]


def test_an_inner_bias_makes_a_border_where_the_outer_kernel_pads(model: Model) -> None:
    outer = two(model, outer={"padding": 1})

    check_same(model, RULE)

    assert model.has_border()
    conv, border = (n for n in model.graph if n.name == "outer")
    assert border is outer
    assert isinstance(conv.role, Linear)
    assert isinstance(border.role, Affine)
    assert border.role.lowered
    assert border.role.map.is_shift
    assert border.role.map.shape == (1, 4, 6, 6)
    assert (conv.inputs[0].name, border.inputs) == ("in", [conv])
    assert (conv.rank, conv.shape, conv.dtype) == (4, (2, 4, 6, 6), "float32")
    assert conv.origin is outer.origin


def test_refuses_other_readers(model: Model) -> None:
    outer = two(model)
    model.like("also", Opaque(), outer.inputs[0])
    assert model.reasons(RULE, outer) == [
        Refusal(Code.OTHER_READERS, "inner is read by others too")
    ]


@pytest.mark.parametrize("which", ["inner", "in"])
def test_refuses_what_is_written_to(model: Model, which: str) -> None:
    outer = two(model)
    inner = outer.inputs[0]
    {"inner": inner, "in": inner.inputs[0]}[which].pinned = True
    assert model.reasons(RULE, outer) == [
        Refusal(Code.MUTATED_IN_GRAPH, "the graph may write to what inner reads")
    ]


@pytest.mark.parametrize("which", ["inner", "outer"])
def test_refuses_padding_that_the_operator_does_not_tell(model: Model, which: str) -> None:
    outer = two(model)
    node = {"inner": outer.inputs[0], "outer": outer}[which]
    node.role = replace(node.role, hides_padding=True)
    assert model.reasons(RULE, outer) == [
        Refusal(Code.UNSUPPORTED_FORM, "one of them pads its input by other than zeros")
    ]


@pytest.mark.parametrize("which", ["inner", "outer", "weights"])
def test_refuses_a_change_of_dtype(model: Model, which: str) -> None:
    outer = two(model)
    inner = outer.inputs[0]
    if which == "weights":
        inner.role = replace(inner.role, dtype="float16")
    else:
        {"inner": inner, "outer": outer}[which].dtype = "float16"
    assert model.reasons(RULE, outer) == [
        Refusal(Code.DTYPE_CHANGE, "they compute in ['float16', 'float32']")
    ]


@pytest.mark.parametrize(
    ("inner", "outer"),
    [({"kernel": 3}, {}), ({"stride": 2}, {}), ({"padding": 1}, {})],
)
def test_refuses_two_kernels_of_several_taps(model: Model, inner: Any, outer: Any) -> None:
    assert model.reasons(RULE, two(model, inner, outer)) == [
        Refusal(Code.UNSUPPORTED_FORM, "neither of the two convolutions has a kernel of one tap")
    ]


def test_refuses_a_transposed_convolution(model: Model) -> None:
    inner = model.conv2d("inner", model.input("in", 2, 4, 6, 6), 4)
    weight = model.random_source("t", 4, 4, 1, 1)
    operator = ConvTranspose(weight, None, (1, 1), ((0, 0),) * 2, (0, 0), (1, 1))
    outer = model.linear("outer", operator, inner, shape=inner.shape)
    (refusal,) = model.reasons(RULE, outer)
    assert refusal == Refusal(Code.UNSUPPORTED_FORM, "ConvTranspose after Conv")


@pytest.mark.parametrize("dims", [(2, 4, "h", 6), None])
def test_refuses_a_border_of_unknown_size(model: Model, dims: Any) -> None:
    x = model.input("in", 2, 4, 6, 6)
    inner = model.conv2d("inner", x, 8, bias=True)
    outer = model.conv2d("outer", inner, 4, 3, padding=1)
    inner.shape = None if dims is None else (2, 8, *dims[2:])
    assert model.reasons(RULE, outer) == [
        Refusal(Code.UNSUPPORTED_FORM, "the size of what stands between them is not known")
    ]


def test_sizes_do_not_matter_without_a_border(model: Model) -> None:
    x = model.input("in", "n", 4, "h", "w")
    outer = model.conv2d("outer", model.conv2d("inner", x, 8), 4, 3, padding=1, bias=True)
    model.like("out", Opaque(), outer)
    check_same(model, RULE)
    assert model.counts() == {"Opaque": 3, "Linear": 1}


def test_refuses_to_undo_a_bottleneck(model: Model) -> None:
    x = model.input("in", 2, 64, 8, 8)
    outer = model.conv2d("outer", model.conv2d("inner", x, 2), 64)
    (refusal,) = model.reasons(RULE, outer)
    assert refusal.code is Code.COSTS_MORE
    assert refusal.reason.startswith("their product costs ")


def test_a_border_counts_as_work(model: Model) -> None:
    """What is saved is less than what a map of 1 x 64 x 32 x 32 constants costs."""
    for bias, refused in ((False, False), (True, True)):
        fresh = Model()
        x = fresh.input("in", 1, 4, 32, 32)
        inner = fresh.conv2d("inner", x, 4, bias=bias)
        outer = fresh.conv2d("outer", inner, 64, 3, padding=1)
        reasons = list(RULE.refuse(outer, fresh.values))
        assert [r.code for r in reasons] == ([Code.COSTS_MORE] if refused else [])


@pytest.mark.parametrize(
    ("value", "code"), [(np.nan, Code.NON_FINITE), (3e38, Code.OVERFLOW), (1e-38, Code.UNDERFLOW)]
)
def test_refuses_weights_that_cannot_be_stored(model: Model, value: float, code: Code) -> None:
    outer = two(model, {"bias": False}, {"bias": False})
    model.arrays["inner.weight"][:] = value
    model.arrays["outer.weight"][:] *= 1e-3 if code is Code.UNDERFLOW else 1e3
    assert [refusal.code for refusal in model.reasons(RULE, outer)] == [code]


def test_refuses_a_border_that_cannot_be_stored(model: Model) -> None:
    outer = two(model, outer={"padding": 1})
    model.arrays["inner.bias"][:] = 3e38
    model.arrays["outer.weight"][:] = 10
    (refusal,) = model.reasons(RULE, outer)
    assert refusal == Refusal(Code.OVERFLOW, "its shift overflows float32")


def test_every_reason_is_given(model: Model) -> None:
    outer = two(model, {"kernel": 3})
    inner = outer.inputs[0]
    model.like("also", Opaque(), inner)
    inner.pinned = True
    inner.role = replace(inner.role, hides_padding=True, dtype="float64")
    assert [refusal.code for refusal in model.reasons(RULE, outer)] == [
        Code.OTHER_READERS,
        Code.MUTATED_IN_GRAPH,
        Code.UNSUPPORTED_FORM,
        Code.DTYPE_CHANGE,
        Code.UNSUPPORTED_FORM,
    ]
