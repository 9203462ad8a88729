"""The way back over joins, parts and values of many readers: what each of their guards is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
from neutral import Model
from neutral_run import check_same
from rules.move_cases import codes_back, finish, moved

from bnfx.passes.algebra import Dense
from bnfx.passes.crossing import Homogeneous, Identity, Reshape, Window
from bnfx.passes.graph import Concat, Node, Opaque, Product
from bnfx.passes.refusals import Code
from bnfx.passes.rules.move_affine import RULE

SHIFT = np.array([[0.0, 1, 2, -3]])
SCALE = np.array([[1.0, -1, 2, -3]])


def _convs(model: Model, *names: str, dims: Any = (2, 4, 4, 4)) -> list[Node]:
    start = model.input("in", *dims)
    return [model.conv2d(name, start, 4) for name in names]


def _free(model: Model, *dims: int) -> Node:
    """A value that takes no map."""
    return model.like("free", Opaque(), model.input("in2", *(dims or (2, 4, 4, 4))))


def test_a_shift_goes_to_the_summand_that_can_take_it(model: Model) -> None:
    """The other one needs no scale, so that it may be anything."""
    (conv,) = _convs(model, "conv")
    total = model.plus("sum", _free(model), conv)
    finish(model, model.arithmetic("shift", total, 1.0, SHIFT))
    moved(model)


def test_a_shift_goes_to_no_summand_that_is_zero_times_one(model: Model) -> None:
    one, other = _convs(model, "one", "other")
    total = model.plus("sum", one, other, 0.0, 2.0)
    finish(model, model.arithmetic("shift", total, 1.0, SHIFT))
    moved(model)


def test_refuses_a_shift_where_only_zero_times_a_summand_can_take_it(model: Model) -> None:
    one, other = _convs(model, "one", "other")
    relu = model.move("relu", Homogeneous(), one)
    total = model.plus("sum", relu, other, 1.0, 0.0)
    shift = finish(model, model.arithmetic("shift", total, 1.0, SHIFT))
    assert codes_back(model, shift) == [Code.NONZERO_SHIFT]


def test_refuses_a_scale_that_zero_times_a_summand_cannot_take(model: Model) -> None:
    """It need not, but that is no case to write rules for."""
    (conv,) = _convs(model, "conv")
    total = model.plus("sum", conv, _free(model), 1.0, 0.0)
    scale = finish(model, model.arithmetic("scale", total, SCALE))
    assert codes_back(model, scale) == [Code.NO_LINEAR_BEFORE]


def test_a_summand_that_gets_the_scale_alone_gets_no_bias(model: Model) -> None:
    """The sum within could take the shift too, but the one around gives it to the other."""
    first, one, other = _convs(model, "first", "one", "other")
    total = model.plus("sum", first, model.plus("within", one, other, 2.0, 1.0))
    finish(model, model.norm("norm", total))
    moved(model)
    assert first.role.operator.bias is not None
    assert one.role.operator.bias is other.role.operator.bias is None


def test_a_shift_that_a_pool_mixes_goes_to_the_other_summand(model: Model) -> None:
    rows = np.array([[[1.0, 2, 3, -4]]])
    (conv,) = _convs(model, "conv")
    pool = model.move("pool", Window((2, 3)), conv)
    other = model.arithmetic("other", _free(model), rows, rows)
    finish(model, model.arithmetic("map", model.plus("sum", pool, other), 2.0, rows))
    check_same(model, RULE, pool=lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
    assert model.counts() == {"Opaque": 5, "Linear": 1, "Move": 1, "Lowered": 1, "Add": 1}


def test_all_is_told_of_a_summand_that_can_take_neither(model: Model) -> None:
    one, other = _convs(model, "one", "other")
    total = model.plus("sum", model.gate("square", one, one), other)
    norm = finish(model, model.norm("norm", total))
    assert codes_back(model, norm) == [Code.NONZERO_SHIFT, Code.OTHER_READERS]


def test_what_changes_nothing_moves_to_nothing(model: Model) -> None:
    relu = model.move("relu", Homogeneous(), model.input("in", 2, 4, 4, 4))
    node = finish(model, model.arithmetic("map", relu))
    assert codes_back(model, node) == [Code.NO_LINEAR_BEFORE]


def test_refuses_a_scale_of_a_product_whose_factors_meet(model: Model) -> None:
    """Both factors as scaled as the product should be would scale it twice."""
    one, other = _convs(model, "one", "other")
    product = model.gate("product", one, model.plus("sum", one, other))
    finish(model, model.arithmetic("scale", product, SCALE))
    assert check_same(model, RULE).rewrites == {}


@pytest.mark.parametrize("whole", [False, True])
def test_refuses_a_scale_of_what_is_broadcast(model: Model, whole: bool) -> None:
    """A vector's one axis is not the product's first, though it is as long."""
    x = model.input("in", 3)
    operator = Dense(model.random_source("weight", 4, 3), None)
    vector = model.linear("dense", operator, x, rank=1, shape=(4,))
    other = _free(model, *((4, 4) if whole else (4, 1)))
    product = model.like("product", Product(), vector, other, rank=2, shape=(4, 4))
    scale = finish(model, model.arithmetic("scale", product, SCALE.reshape(4, 1)))
    assert codes_back(model, scale) == [Code.NO_LINEAR_BEFORE if whole else Code.AXIS_MISMATCH]


@pytest.mark.parametrize("dims", [None, (2, "c", 4, 4)])
def test_refuses_parts_of_sizes_that_are_not_fixed(model: Model, dims: Any) -> None:
    one, other = _convs(model, "one", "other")
    norm = finish(model, model.norm("norm", model.concat("cat", 1, one, other)))
    other.shape = dims
    assert codes_back(model, norm) == [Code.DYNAMIC_SHAPE]


def test_parts_of_sizes_that_do_not_matter(model: Model) -> None:
    parts = _convs(model, "one", "other", dims=(2, 4, "h", 4))
    cat = model.like("cat", Concat(2), *parts, shape=(2, 4, "2 h", 4))
    finish(model, model.norm("norm", cat))
    moved(model)


@pytest.mark.parametrize("where", ["before", "after"])
def test_refuses_a_reshape_of_what_has_no_known_shape(model: Model, where: str) -> None:
    (conv,) = _convs(model, "conv")
    flat = model.move("flat", Reshape(), conv, 2, 4, 16)
    norm = finish(model, model.norm("norm", flat))
    {"before": conv, "after": flat}[where].shape = None
    assert codes_back(model, norm) == [Code.UNKNOWN_RANK]


def test_refuses_operators_of_no_known_rank_for_that_alone(model: Model) -> None:
    convs = _convs(model, "one", "other")
    norm = finish(model, model.norm("norm", model.plus("sum", *convs)))
    for conv in convs:
        conv.rank = None
    assert codes_back(model, norm) == [Code.UNKNOWN_RANK] * 2


def test_refuses_a_map_of_more_channels_than_the_operator_gives(model: Model) -> None:
    (conv,) = _convs(model, "conv")
    copy = model.move("copy", Identity(), conv, 2, 8, 4, 4)
    norm = finish(model, model.norm("norm", copy))
    assert codes_back(model, norm) == [Code.AXIS_MISMATCH]


def test_refuses_a_map_that_gives_another_dtype(model: Model) -> None:
    (conv,) = _convs(model, "conv")
    norm = finish(model, model.norm("norm", model.move("copy", Identity(), conv)))
    norm.dtype = "float16"
    assert codes_back(model, norm) == [Code.DTYPE_CHANGE]


@pytest.mark.parametrize(("dtype", "codes"), [("float16", [Code.OVERFLOW]), (None, [])])
def test_weights_are_looked_at_in_the_dtype_that_computes(
    model: Model, dtype: str | None, codes: list[Code]
) -> None:
    """Under autocast it is not the one that is stored."""
    (conv,) = _convs(model, "conv")
    pool = model.move("pool", Window((2, 3)), conv, 2, 4, 2, 2)
    scale = finish(model, model.arithmetic("scale", pool, SCALE * 1e6))
    conv.dtype = pool.dtype = scale.dtype = dtype
    assert codes_back(model, scale) == codes


def test_another_map_absorbs_the_map_and_is_lowered(model: Model) -> None:
    """As a BatchNorm it would be emitted with its own numbers."""
    x = model.input("in", 2, 4, 4, 4)
    x.pinned = True  # so that the first may not go on
    pool = model.move("pool", Window((2, 3)), model.norm("first", x), 2, 4, 2, 2)
    finish(model, model.norm("second", pool))
    check_same(model, RULE)
    assert model.counts() == {"Opaque": 3, "Lowered": 1, "Move": 1}


def test_nothing_else_is_told_of_a_map_that_is_not_sound(model: Model) -> None:
    relu = model.move("relu", Homogeneous(), model.input("in", 2, 4, 4, 4))
    norm = finish(model, model.norm("norm", relu, {"beta": np.nan}))
    assert set(codes_back(model, norm)) == {Code.NON_FINITE}


def test_no_shift_is_asked_of_what_stands_before_readers_that_want_two(model: Model) -> None:
    (conv,) = _convs(model, "conv")
    relu = model.move("relu", Homogeneous(), conv)
    twice = model.concat("cat", 1, relu, relu)
    shift = finish(model, model.arithmetic("shift", twice, 1.0, np.arange(8.0).reshape(1, 8)))
    assert codes_back(model, shift) == [Code.OTHER_READERS]


def test_what_takes_no_map_reads_the_value_as_it_was(model: Model) -> None:
    (conv,) = _convs(model, "conv")
    copy = model.move("copy", Identity(), conv)
    copy.pinned = True
    norm = finish(model, model.norm("norm", model.concat("cat", 2, copy, conv)))
    assert codes_back(model, norm) == [Code.MUTATED_IN_GRAPH, Code.OTHER_READERS]
