"""Products of operators against products of matrices. Exact, on integers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_array_equal
from strategies import Case, Pair, cases, serial_convolutions

from bnfx.passes.algebra import Conv, ConvTranspose, Dense, Evaluator, Source


@settings(deadline=None, max_examples=70)
@given(serial_convolutions())
def test_product_of_convolutions_is_the_product_of_matrices(pair: Pair) -> None:
    inner, outer = pair.one, pair.other
    middle = inner.output_shape(pair.input_shape)
    evaluate = pair.parameters.evaluate
    first, first_bias = pair.dense(inner)
    second, second_bias = outer.dense(middle, evaluate)

    product = outer @ inner

    shape = outer.output_shape(middle)
    assert product.operator.output_shape(pair.input_shape) == shape
    matrix, bias = product.dense(pair.input_shape, evaluate)
    assert_array_equal(matrix, second @ first)
    assert_array_equal(bias, second @ first_bias + second_bias)
    border = product.border(middle[1:])
    assert product.operator.groups == math.gcd(inner.groups, outer.groups)
    assert product.has_border == (inner.bias is not None and not outer.is_uniform)
    assert (border is not None) == product.has_border
    assert border is None or border.shape == shape


@settings(deadline=None, max_examples=30)
@given(cases("dense"), cases("dense"))
def test_product_of_dense_operators_is_the_product_of_matrices(case: Case, seed: Case) -> None:
    found, inner = case.parameters, case.operator
    out = seed.operator.out_channels
    bias = None if seed.operator.bias is None else found.source(out)
    outer = Dense(found.source(out, inner.out_channels), bias)
    first, first_bias = case.dense()
    second, second_bias = outer.dense((inner.out_channels,), found.evaluate)

    product = outer @ inner

    assert not product.has_border
    matrix, shift = product.dense(case.input_shape, found.evaluate)
    assert_array_equal(matrix, second @ first)
    assert_array_equal(shift, second @ first_bias + second_bias)
    assert (product.operator.bias is None) == (inner.bias is bias is None)


def weight(*shape: int) -> Source:
    return Source(f"w{shape}", shape, "float32")


PLAIN = {"stride": (1,), "padding": ((0, 0),), "dilation": (1,)}
CONV = Conv(weight(4, 4, 3), None, (1,), ((1, 1),), (1,))
POINT = Conv(weight(4, 4, 1), None, **PLAIN)
BIASED = replace(POINT, bias=weight(4))
DENSE = Dense(weight(4, 4), None)
TRANSPOSED = ConvTranspose(weight(4, 4, 1), None, **PLAIN, output_padding=(0,))
NO_TAP = "neither of the two convolutions has a kernel of one tap"


@pytest.mark.parametrize(
    ("outer", "inner", "message"),
    [
        (DENSE, Dense(weight(3, 4), None), "3 channels into 4"),
        (Conv(weight(4, 3, 1), None, **PLAIN), POINT, "4 channels into 3"),
        (DENSE, POINT, "Dense after Conv"),
        (POINT, DENSE, "Conv after Dense"),
        (POINT, TRANSPOSED, "Conv after ConvTranspose"),
        (TRANSPOSED, POINT, "ConvTranspose after Conv"),
        (POINT, replace(POINT, channels_last=True), "channels first after channels last"),
        (CONV, CONV, NO_TAP),
        (CONV, replace(POINT, stride=(2,)), NO_TAP),
        (CONV, replace(POINT, padding=((1, 0),)), NO_TAP),
        (replace(POINT, padding=((0, 1),)), CONV, NO_TAP),
    ],
)
def test_what_has_no_product_says_why(outer: Any, inner: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        outer @ inner


def test_a_padding_outer_kernel_has_a_border_only_for_a_bias() -> None:
    assert (CONV @ POINT).border((5,)) is None
    assert (POINT @ BIASED).border((5,)) is None
    border = (CONV @ BIASED).border((5,))
    assert border is not None
    assert border.shape == (4, 5)


def test_strides_multiply() -> None:
    product = replace(POINT, stride=(3,)) @ replace(CONV, stride=(2,))
    assert (product.operator.stride, product.operator.padding) == ((6,), ((1, 1),))


def test_kernel_of_a_depthwise_separable_pair_is_an_outer_product() -> None:
    depthwise = Conv(weight(2, 1, 3), None, **PLAIN, groups=2)
    pointwise = Conv(weight(3, 2, 1), None, **PLAIN)
    taps, mixing = np.arange(6.0).reshape(2, 1, 3), np.arange(6.0).reshape(3, 2, 1) - 2
    arrays = {"w(2, 1, 3)": taps, "w(3, 2, 1)": mixing}
    evaluate = Evaluator(lambda source: arrays[source.name], np.zeros(()))
    kernel = evaluate((pointwise @ depthwise).operator.weight)
    assert_array_equal(kernel, mixing * taps.reshape(1, 2, 3))
