"""Copies between the linear operators of a sum or a chain, and branches that are no operator."""

from __future__ import annotations

import pytest
from neutral import Model
from neutral_run import check_same

from bnfx.passes.crossing import Homogeneous, Identity, Movement, Window
from bnfx.passes.graph import Node, Opaque
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.rules import merge_parallel_linear, merge_serial_linear


def _sum_of_copy(model: Model) -> tuple[Node, Node]:
    """``copy(conv x) + conv x``; gives the sum and what is copied."""
    x = model.input("in", 2, 4, 6, 6)
    one, other = model.conv2d("one", x, 4, 3, padding=1), model.conv2d("other", x, 4)
    return model.plus("add", model.move("copy", Identity(), one), other), one


def test_a_branch_may_be_a_copy(model: Model) -> None:
    add, _ = _sum_of_copy(model)
    model.like("out", Opaque(), add)
    check_same(model, merge_parallel_linear.RULE)
    assert model.counts() == {"Opaque": 3, "Linear": 1}


def test_a_copy_of_what_others_read_is_no_branch(model: Model) -> None:
    add, one = _sum_of_copy(model)
    model.like("also", Opaque(), one)
    assert not merge_parallel_linear.match(add)


def test_a_copy_of_the_input_itself_goes(model: Model) -> None:
    x = model.input("in", 2, 4, 6, 6)
    copy = model.move("copy", Identity(), x)
    model.like("out", Opaque(), model.plus("add", model.conv2d("conv", x, 4), copy))
    check_same(model, merge_parallel_linear.RULE)
    assert [node.name for node in model.graph] == ["x", "in", "conv", "out"]


@pytest.mark.parametrize(
    "movement",
    [Window((2, 3)), Window((2, 3), by_order=True), Homogeneous(), Identity(contiguous=True)],
)
def test_what_moves_and_is_no_convolution_is_no_branch(model: Model, movement: Movement) -> None:
    x = model.input("in", 2, 4, 6, 6)
    moved = model.move("moved", movement, x)
    assert not merge_parallel_linear.match(model.plus("add", model.conv2d("conv", x, 4), moved))


def _chain_of_copy(model: Model) -> tuple[Node, Node]:
    """Two convolutions with a copy between; gives the last and the first."""
    inner = model.conv2d("inner", model.input("in", 2, 4, 6, 6), 8, bias=True)
    outer = model.conv2d("outer", model.move("copy", Identity(), inner), 4, 3)
    model.like("out", Opaque(), outer)
    return outer, inner


def test_a_chain_may_have_a_copy_between(model: Model) -> None:
    _chain_of_copy(model)
    check_same(model, merge_serial_linear.RULE)
    assert model.counts() == {"Opaque": 3, "Linear": 1}


def test_refuses_a_chain_whose_first_is_read_beside_its_copy(model: Model) -> None:
    """It would have to be computed all the same."""
    outer, inner = _chain_of_copy(model)
    model.like("also", Opaque(), inner)
    assert model.reasons(merge_serial_linear.RULE, outer) == [
        Refusal(Code.OTHER_READERS, "inner is read by others too")
    ]
