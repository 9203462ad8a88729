"""Each operator against torch, and the matrix oracle ``dense()`` with it. Exact, on integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from strategies import cases

from bnfx.passes.algebra import Conv, ConvTranspose, LinearOperator, same_padding

KINDS = ["dense", "conv", "transposed"]
CONV = (F.conv1d, F.conv2d, F.conv3d)
TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def pad_argument(padding: tuple[tuple[int, int], ...]) -> list[int]:
    """Padding as ``F.pad`` takes it: the last dimension first."""
    return [side for pads in reversed(padding) for side in pads]


def by_torch(operator: LinearOperator, x: Any, weight: Any, bias: Any) -> Any:
    """torch's own answer, by its own padding arguments where it has them."""
    if isinstance(operator, Conv):
        conv = CONV[len(operator.kernel) - 1]
        rest = {"stride": operator.stride, "dilation": operator.dilation, "groups": operator.groups}
        symmetric = all(before == after for before, after in operator.padding)
        same = operator.padding == same_padding(operator.kernel, operator.dilation)
        if same and set(operator.stride) == {1}:
            return conv(x, weight, bias, padding="same", **rest)
        if symmetric:
            return conv(x, weight, bias, padding=[pads[0] for pads in operator.padding], **rest)
        return conv(F.pad(x, pad_argument(operator.padding)), weight, bias, **rest)
    if isinstance(operator, ConvTranspose):
        conv = TRANSPOSED[len(operator.kernel) - 1]
        rest = {"stride": operator.stride, "dilation": operator.dilation, "groups": operator.groups}
        extra = operator.output_padding
        if all(before == after for before, after in operator.padding):
            sides = [pads[0] for pads in operator.padding]
            return conv(x, weight, bias, padding=sides, output_padding=extra, **rest)
        cut = tuple((-b, more - a) for (b, a), more in zip(operator.padding, extra, strict=True))
        y = F.pad(conv(x, weight, **rest), pad_argument(cut))
        return y if bias is None else y + bias.reshape(-1, *(1 for _ in operator.kernel))
    return F.linear(x, weight, bias)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=120)
@given(data=st.data())
def test_dense_is_what_torch_computes(data: st.DataObject, kind: str) -> None:
    case = data.draw(cases(kind))
    operator, parameters = case.operator, case.parameters
    x = parameters.integers(2, *case.input_shape)
    weight, bias = (
        None if part is None else torch.from_numpy(parameters.arrays[part.name])
        for part in (operator.weight, operator.bias)
    )
    matrix, shift = case.dense()

    expected = by_torch(operator, torch.from_numpy(x), weight, bias)

    assert tuple(expected.shape[1:]) == operator.output_shape(case.input_shape)
    assert expected.shape[operator.channel_axis] == operator.out_channels
    assert_array_equal(x.reshape(2, -1) @ matrix.T + shift, expected.reshape(2, -1).numpy())


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_same_padding_is_torchs(kernel: int, dilation: int) -> None:
    x, weight = torch.arange(1.0, 6.0).reshape(1, 1, 5), torch.arange(1.0, kernel + 1)[None, None]
    ((before, after),) = same_padding((kernel,), (dilation,))
    expected = F.conv1d(x, weight, padding="same", dilation=dilation)
    assert torch.equal(F.conv1d(F.pad(x, (before, after)), weight, dilation=dilation), expected)


@settings(deadline=None, max_examples=120)
@given(data=st.data())
def test_row_of_a_channel_is_what_its_scale_multiplies(data: st.DataObject) -> None:
    case = data.draw(cases(*KINDS))
    operator, parameters = case.operator, case.parameters
    channel = data.draw(st.integers(0, operator.out_channels - 1))
    scale = parameters.source(operator.out_channels)
    parameters.arrays[scale.name][:] = np.where(np.arange(operator.out_channels) == channel, 7, 1)
    parameters.arrays[operator.weight.name][:] = 1  # so that "multiplied" shows in every element

    rows = operator.rows(parameters.evaluate(operator.scale_out(scale)))

    assert (len(rows), rows.size) == (operator.out_channels, np.prod(operator.weight.shape))
    assert (rows[channel] == 7).all()
    assert (np.delete(rows, channel, axis=0) == 1).all()


@settings(deadline=None, max_examples=40)
@given(cases(*KINDS))
def test_rows_agree_between_numpy_and_torch(case: Any) -> None:
    weight = case.parameters.arrays[case.operator.weight.name]
    rows = case.operator.rows(torch.from_numpy(weight))
    assert_array_equal(case.operator.rows(weight), rows.numpy())
