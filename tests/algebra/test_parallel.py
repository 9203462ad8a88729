"""Sums of operators against sums of matrices. Exact, on integers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from strategies import Case, Pair, Parameters, cases, parallel_convolutions, parameters

from bnfx.passes.algebra import (
    ChannelAffine,
    Conv,
    ConvTranspose,
    Dense,
    Evaluator,
    Scalar,
    Source,
    average,
    diagonal,
    regrouped,
)


@settings(deadline=None, max_examples=70)
@given(parallel_convolutions())
def test_sum_of_convolutions_is_the_sum_of_matrices(pair: Pair) -> None:
    one, other = pair.dense(pair.one), pair.dense(pair.other)
    both = pair.one + pair.other
    matrix, bias = pair.dense(both)
    assert_array_equal(matrix, one[0] + other[0])
    assert_array_equal(bias, one[1] + other[1])
    assert both.groups == math.gcd(pair.one.groups, pair.other.groups)
    assert (both.bias is None) == (pair.one.bias is pair.other.bias is None)


@settings(deadline=None, max_examples=30)
@given(cases("dense"))
def test_sum_of_dense_operators_is_the_sum_of_matrices(case: Case) -> None:
    found = case.parameters
    other = Dense(
        found.source(*case.operator.weight.shape), found.source(case.operator.out_channels)
    )
    matrix, bias = case.dense(case.operator + other)
    for value, one, two in zip((matrix, bias), case.dense(), case.dense(other), strict=True):
        assert_array_equal(value, one + two)


@settings(deadline=None, max_examples=50)
@given(cases("conv"), st.data())
def test_a_convolution_of_fewer_groups_has_the_same_matrix(case: Case, data: Any) -> None:
    divisors = [n for n in range(1, case.operator.groups + 1) if case.operator.groups % n == 0]
    groups = data.draw(st.sampled_from(divisors))
    again = regrouped(case.operator, groups)
    assert again.groups == groups
    for value, expected in zip(case.dense(again), case.dense(), strict=True):
        assert_array_equal(value, expected)


@settings(deadline=None, max_examples=40)
@given(parameters(), st.sampled_from(["dense", "conv1", "conv2"]), st.integers(1, 4))
def test_diagonal_is_a_diagonal_matrix(random: Parameters, kind: str, channels: int) -> None:
    rank = {"dense": 0, "conv1": 1, "conv2": 2}[kind]
    like: Any = Dense(random.source(channels, channels), None)
    if rank:
        weight = random.source(channels, channels, *(3,) * rank)
        like = Conv(weight, None, (2,) * rank, ((1, 0),) * rank, (2,) * rank)
    affine = random.affine(channels)
    spatial = (2, 3)[:rank]

    operator = diagonal(affine, like)

    matrix, bias = operator.dense((channels, *spatial), random.evaluate)
    scale, shift = (
        np.repeat(np.broadcast_to(random.evaluate(e), channels), math.prod(spatial))
        for e in (affine.scale, affine.shift)
    )
    assert_array_equal(matrix, np.diag(scale))
    assert_array_equal(bias, shift)
    assert operator.bias is not None


def test_a_diagonal_without_shift_has_no_bias() -> None:
    like = Conv(weight(3, 3, 3, 3), None, (1, 1), ((1, 1),) * 2, (1, 1))
    assert diagonal(ChannelAffine(weight(3), Scalar(0.0)), like).bias is None
    assert diagonal(ChannelAffine.identity(), like).groups == 3


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((2, 2), (2, 2), (0, 0)), ((4, 2), (1, 2), (2, 1)), ((1, 4), (3, 1), (0, 2))],
)
def test_average_is_torchs_that_counts_its_padding(kernel: Any, stride: Any, padding: Any) -> None:
    x = torch.arange(3 * 4 * 5, dtype=torch.float64).reshape(3, 4, 5)
    operator = average(3, kernel, stride, tuple((n, n) for n in padding))
    expected = F.avg_pool2d(x, kernel, stride, padding)
    evaluate = Evaluator(lambda source: pytest.fail("nothing to read"), np.zeros(()))
    matrix, bias = operator.dense((3, 4, 5), evaluate)
    assert tuple(expected.shape) == operator.output_shape((3, 4, 5))
    assert_array_equal(matrix @ x.numpy().ravel(), expected.numpy().ravel())
    assert not bias.any()


def weight(*shape: int) -> Source:
    return Source(f"w{shape}", shape, "float32")


PLAIN = {"stride": (1,), "padding": ((0, 0),), "dilation": (1,)}
CONV = Conv(weight(4, 4, 3), None, (1,), ((1, 1),), (1,))
POINT = Conv(weight(4, 4, 1), None, **PLAIN)
DENSE = Dense(weight(4, 4), None)
TRANSPOSED = ConvTranspose(weight(4, 4, 1), None, **PLAIN, output_padding=(0,))
FLAT = Conv(weight(4, 4, 1, 1), None, (1, 1), ((0, 0),) * 2, (1, 1))


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (DENSE, Dense(weight(3, 4), None), "4 -> 4 channels beside 4 -> 3"),
        (DENSE, Dense(weight(4, 3), None), "4 -> 4 channels beside 3 -> 4"),
        (CONV, Conv(weight(4, 4, 3), None, (1,), ((1, 1),), (1,), 2), "4 -> 4 .* beside 8 -> 4"),
        (DENSE, POINT, "Dense beside Conv"),
        (POINT, TRANSPOSED, "Conv beside ConvTranspose"),
        (TRANSPOSED, TRANSPOSED, "ConvTranspose beside ConvTranspose"),
        (POINT, FLAT, "1 spatial dimensions beside 2"),
        (POINT, replace(POINT, channels_last=True), "channels first beside channels last"),
        (CONV, replace(POINT, stride=(2,)), r"stride \(1,\) beside \(2,\)"),
        (
            CONV,
            replace(CONV, dilation=(2,), padding=((2, 2),)),
            r"dilation \(1,\) beside \(2,\)",
        ),
        (CONV, replace(POINT, padding=((0, 1),)), "their outputs have different sizes"),
        (CONV, replace(CONV, padding=((1, 0),)), "their outputs have different sizes"),
        (
            replace(CONV, dilation=(2,), padding=((2, 2),)),
            replace(CONV, dilation=(2,), padding=((1, 3),)),
            "their taps read different positions",
        ),
        (
            replace(CONV, stride=(2,)),
            replace(POINT, stride=(2,), padding=((0, 1),)),
            "their outputs have different sizes",
        ),
        (
            replace(POINT, padding=((1, -1),)),
            replace(POINT, padding=((1, -1),)),
            "the joint kernel would read past the end of the input",
        ),
    ],
)
def test_what_has_no_sum_says_why(one: Any, other: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one + other
    with pytest.raises(ValueError, match=r"beside|outputs|positions|past the end"):
        other + one


@pytest.mark.parametrize(
    ("affine", "like", "message"),
    [
        (ChannelAffine.identity(), Dense(weight(3, 4), None), "an affine map beside 4 -> 3"),
        (ChannelAffine(weight(3), weight(3)), DENSE, "an affine map beside 4 -> 4 channels"),
        (ChannelAffine.identity(), TRANSPOSED, "an affine map beside ConvTranspose"),
    ],
)
def test_what_has_no_diagonal_says_why(affine: Any, like: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diagonal(affine, like)


def test_groups_must_be_a_divisor() -> None:
    conv = Conv(weight(6, 1, 1), None, **PLAIN, groups=6)
    with pytest.raises(ValueError, match="6 groups cannot form 4"):
        regrouped(conv, 4)
    assert regrouped(conv, 6) is conv
