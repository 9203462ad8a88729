"""What operators do to the map before them: ``after``, ``response``, ``columns``. Exact."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from strategies import Case, cases

from bnfx.passes.algebra import ChannelAffine, Conv, ConvTranspose, Dense, Source

KINDS = ["dense", "conv", "transposed"]


def at_each_position(case: Case, values: Any) -> Any:
    """A number for each input channel, as one for each element of a sample."""
    positions = math.prod(case.input_shape[1:])
    return np.repeat(np.broadcast_to(values, case.operator.in_channels), positions)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_operator_after_a_scale_is_the_matrix_scaled_by_column(
    data: st.DataObject, kind: str
) -> None:
    case = data.draw(cases(kind))
    scale = case.parameters.affine(case.operator.in_channels).scale
    matrix, bias = case.dense()

    changed, same = case.dense(case.operator.after(scale))

    assert case.input_shape[0] == case.operator.in_channels
    column = at_each_position(case, case.parameters.evaluate(scale))
    assert_array_equal(changed, matrix @ np.diag(column))
    assert_array_equal(same, bias)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=70)
@given(data=st.data())
def test_response_is_the_matrix_times_the_shift(data: st.DataObject, kind: str) -> None:
    case = data.draw(cases(kind))
    operator, evaluate = case.operator, case.parameters.evaluate
    shift = case.parameters.affine(operator.in_channels).shift
    matrix, _ = case.dense()
    expected = matrix @ at_each_position(case, evaluate(shift))

    response = operator.response(shift, case.input_shape[1:])

    shape = operator.output_shape(case.input_shape)
    expected = expected.reshape(shape)
    if operator.is_uniform:
        assert response.shape == (operator.out_channels,)
        assert response == operator.response(shift, None)
        value = evaluate(response).reshape(-1, *(1 for _ in shape[1:]))
        assert_array_equal(np.broadcast_to(value, shape), expected)
    else:
        assert response.shape == shape
        assert_array_equal(evaluate(response), expected)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_affine_before_the_operator(data: st.DataObject, kind: str) -> None:
    """``L(s x + t) = (L s) x + L t + b``, the law that fold-affine-into-next-linear stands on."""
    case = data.draw(cases(kind))
    operator, evaluate = case.operator, case.parameters.evaluate
    affine = case.parameters.affine(operator.in_channels)
    x = case.parameters.integers(math.prod(case.input_shape))
    scale, shift = (at_each_position(case, evaluate(e)) for e in (affine.scale, affine.shift))
    matrix, bias = case.dense()
    scaled, _ = case.dense(operator.after(affine.scale))
    response = evaluate(operator.response(affine.shift, case.input_shape[1:]))
    shape = operator.output_shape(case.input_shape)
    border = np.broadcast_to(
        response.reshape(*response.shape, *(1,) * (len(shape) - response.ndim)), shape
    )
    assert_array_equal(scaled @ x + border.ravel() + bias, matrix @ (scale * x + shift) + bias)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_column_of_a_channel_is_what_its_scale_multiplies(data: st.DataObject) -> None:
    case = data.draw(cases(*KINDS))
    operator, parameters = case.operator, case.parameters
    channels = operator.in_channels
    channel = data.draw(st.integers(0, channels - 1))
    scale = parameters.source(channels)
    parameters.arrays[scale.name][:] = np.where(np.arange(channels) == channel, 7, 1)
    parameters.arrays[operator.weight.name][:] = 1

    columns = operator.columns(parameters.evaluate(operator.scale_in(scale)))

    assert (len(columns), columns.size) == (channels, np.prod(operator.weight.shape))
    assert (columns[channel] == 7).all()
    assert (np.delete(columns, channel, axis=0) == 1).all()


@settings(deadline=None, max_examples=40)
@given(cases(*KINDS))
def test_identity_before_is_nothing(case: Case) -> None:
    unit = ChannelAffine.identity()
    assert case.operator.after(unit.scale) == case.operator


@settings(deadline=None, max_examples=40)
@given(cases(*KINDS))
def test_a_scale_keeps_all_but_the_weight(case: Case) -> None:
    changed = case.operator.after(case.parameters.source(case.operator.in_channels))
    assert {**vars(changed), "weight": None} == {**vars(case.operator), "weight": None}
    assert changed.weight.shape == case.operator.weight.shape


def weight(*shape: int) -> Source:
    return Source("w", shape, "float32")


PLAIN = {"stride": (1, 1), "padding": ((0, 0),) * 2, "dilation": (1, 1)}
MORE = {**PLAIN, "output_padding": (0, 0)}
ONE, THREE = weight(4, 4, 1, 1), weight(4, 4, 3, 3)


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (Dense(weight(3, 3), None), True),
        (Conv(THREE, None, **PLAIN), True),
        (Conv(THREE, None, **{**PLAIN, "stride": (2, 3), "dilation": (2, 2)}), True),
        (Conv(THREE, None, **{**PLAIN, "padding": ((0, 0), (0, 1))}), False),
        (Conv(ONE, None, **{**PLAIN, "padding": ((1, 0), (0, 0))}), False),
        (ConvTranspose(ONE, None, **MORE), True),
        (ConvTranspose(THREE, None, **MORE), False),
        (ConvTranspose(ONE, None, **{**MORE, "stride": (1, 2)}), False),
        (ConvTranspose(ONE, None, **{**MORE, "padding": ((0, 0), (1, 0))}), False),
        (ConvTranspose(ONE, None, **{**MORE, "output_padding": (0, 1)}), False),
    ],
)
def test_an_operator_is_uniform_only_where_no_tap_meets_padding(
    operator: Any, expected: bool
) -> None:
    assert operator.is_uniform is expected


def test_a_border_needs_a_size() -> None:
    conv = Conv(THREE, None, **{**PLAIN, "padding": ((1, 1), (1, 1))})
    with pytest.raises(AssertionError, match="depends on the size of the input"):
        conv.response(weight(4), None)


def test_reach_is_a_table_of_which_tap_meets_the_input() -> None:
    conv = Conv(weight(1, 1, 3), None, (2,), ((2, 1),), (1,))
    (table,) = conv.reach((4,))
    assert_array_equal(table.array, [[0, 1, 1], [0, 1, 1], [1, 1, 0]])
    transposed = ConvTranspose(weight(1, 1, 3), None, (2,), ((1, 0),), (1,), (1,))
    (table,) = transposed.reach((2,))
    # outputs: y[2 q + k - 1] += w[k] x[q], q in {0, 1}
    assert_array_equal(table.array, [[0, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 1, 0, 1, 0]])


@pytest.mark.parametrize(("last", "shape"), [(False, (4, 5, 6)), (True, (5, 6, 4))])
def test_a_border_is_placed_as_the_output_is_laid_out(last: bool, shape: Any) -> None:
    conv = Conv(THREE, None, **{**PLAIN, "padding": ((1, 1), (1, 1))}, channels_last=last)
    assert conv.placed(conv.response(weight(4), (5, 6))).shape == shape
    dense = Dense(weight(4, 4), None)
    assert dense.placed(dense.response(weight(4), None)).shape == (4,)


@pytest.mark.parametrize(
    ("last", "channels", "spatial"), [(False, -3, (-2, -1)), (True, -1, (-3, -2))]
)
def test_where_the_channels_are(last: bool, channels: int, spatial: Any) -> None:
    conv = Conv(THREE, None, **PLAIN, channels_last=last)
    assert (conv.channel_axis, conv.spatial_axes) == (channels, spatial)
