"""The laws: affine maps are a monoid that acts on linear operators. Exact, on integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from strategies import Parameters, cases, parameters

from bnfx.passes.algebra import BroadcastAffine, ChannelAffine, Evaluator

KINDS = ["dense", "conv", "transposed"]
CHANNELS = st.integers(1, 5)


def table(affine: ChannelAffine, evaluate: Evaluator, channels: int) -> Any:
    """Scale and shift of each channel, as the rows of one array."""
    return np.stack([np.broadcast_to(evaluate(e), channels) for e in (affine.scale, affine.shift)])


@settings(deadline=None, max_examples=60)
@given(parameters(), CHANNELS)
def test_composition_is_associative(random: Parameters, channels: int) -> None:
    a, b, c = (random.affine(channels) for _ in range(3))
    left = table((a @ b) @ c, random.evaluate, channels)
    assert_array_equal(left, table(a @ (b @ c), random.evaluate, channels))


@settings(deadline=None, max_examples=40)
@given(parameters(), CHANNELS)
def test_identity_is_neutral_on_both_sides(random: Parameters, channels: int) -> None:
    a = random.affine(channels)
    expected = table(a, random.evaluate, channels)
    unit = ChannelAffine.identity()
    assert_array_equal(table(unit @ a, random.evaluate, channels), expected)
    assert_array_equal(table(a @ unit, random.evaluate, channels), expected)


@settings(deadline=None, max_examples=60)
@given(parameters(), CHANNELS)
def test_product_is_composition_of_functions(random: Parameters, channels: int) -> None:
    a, b = random.affine(channels), random.affine(channels)
    x = random.integers(channels)

    def apply(affine: ChannelAffine, value: Any) -> Any:
        scale, shift = table(affine, random.evaluate, channels)
        return scale * value + shift

    assert_array_equal(apply(a @ b, x), apply(a, apply(b, x)))


@settings(deadline=None, max_examples=60)
@given(parameters(), CHANNELS)
def test_sum_is_the_sum_of_functions(random: Parameters, channels: int) -> None:
    a, b, c = (random.affine(channels) for _ in range(3))
    tables = [table(affine, random.evaluate, channels) for affine in (a, b, a + b)]
    assert_array_equal(tables[0] + tables[1], tables[2])
    left, right = (a + b) @ c, (a @ c) + (b @ c)
    assert_array_equal(
        table(left, random.evaluate, channels), table(right, random.evaluate, channels)
    )
    wide = BroadcastAffine.of_channels(a, 1) + BroadcastAffine.of_channels(b, 1)
    along = wide.along(1)
    assert along is not None
    assert_array_equal(table(along, random.evaluate, channels), tables[2])


@pytest.mark.parametrize("kind", ["dense", "conv"])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_maps_are_distributed_over_sums_of_operators(data: st.DataObject, kind: str) -> None:
    """``a @ (L + L) == a @ L + (a's scale) @ L``."""
    case = data.draw(cases(kind))
    a = case.parameters.affine(case.operator.out_channels)
    scale = ChannelAffine(a.scale, ChannelAffine.identity().shift)
    left = case.dense(a @ (case.operator + case.operator))
    right = case.dense(a @ case.operator + scale @ case.operator)
    for one, other in zip(left, right, strict=True):
        assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_map_after_operator_is_scaled_matrix(data: st.DataObject, kind: str) -> None:
    case = data.draw(cases(kind))
    channels = case.operator.out_channels
    affine = case.parameters.affine(channels)
    matrix, bias = case.dense()
    positions = matrix.shape[0] // channels
    scale, shift = np.repeat(table(affine, case.parameters.evaluate, channels), positions, axis=1)

    folded_matrix, folded_bias = case.dense(affine @ case.operator)

    assert_array_equal(folded_matrix, np.diag(scale) @ matrix)
    assert_array_equal(folded_bias, scale * bias + shift)


@settings(deadline=None, max_examples=60)
@given(cases(*KINDS))
def test_action_on_operators_is_compatible_with_composition(case: Any) -> None:
    a, b = (case.parameters.affine(case.operator.out_channels) for _ in range(2))
    matrix, bias = case.dense(a @ (b @ case.operator))
    composed_matrix, composed_bias = case.dense((a @ b) @ case.operator)
    assert_array_equal(matrix, composed_matrix)
    assert_array_equal(bias, composed_bias)


@settings(deadline=None, max_examples=60)
@given(cases(*KINDS))
def test_identity_acts_as_nothing(case: Any) -> None:
    for before, after in zip(
        case.dense(), case.dense(ChannelAffine.identity() @ case.operator), strict=True
    ):
        assert_array_equal(before, after)


@settings(deadline=None, max_examples=60)
@given(cases(*KINDS))
def test_a_fold_keeps_all_but_weight_and_bias(case: Any) -> None:
    folded = case.parameters.affine(case.operator.out_channels) @ case.operator
    attributes = {**vars(case.operator), "weight": None, "bias": None}
    assert type(folded) is type(case.operator)
    assert {**vars(folded), "weight": None, "bias": None} == attributes
    assert folded.weight.shape == case.operator.weight.shape
    assert folded.bias.shape == (case.operator.out_channels,)
