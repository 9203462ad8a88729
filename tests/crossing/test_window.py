"""Ops that combine positions or bring in constants: windows, pads, activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from crossing.law import blocked, check_back, check_both, check_forward
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from strategies import Parameters, applied, parameters

from bnfx.passes.algebra import BroadcastAffine, Scalar, Source
from bnfx.passes.crossing import Homogeneous, Identity, Pad, Permute, Reshape, Select, Window
from bnfx.passes.refusals import Code

some = settings(deadline=None, max_examples=12)
DIMS = (2, 3, 4, 4)


def without_sign(affine: BroadcastAffine, random: Parameters) -> BroadcastAffine:
    """The map with its scale made non-negative."""
    for source in affine.scale.sources():
        np.abs(random.arrays[source.name], out=random.arrays[source.name])
    return affine


def without_shift(affine: BroadcastAffine) -> BroadcastAffine:
    return BroadcastAffine(affine.scale, Scalar(0.0))


# Means over 4, 16 or 2 elements, and bilinear weights that are powers of 2: exact on integers.
MEANS = [
    (Window((2, 3)), lambda x: F.avg_pool2d(x, 2), DIMS),
    (Window((2, 3)), lambda x: F.adaptive_avg_pool2d(x, 1), DIMS),
    (Window((2, 3)), lambda x: x.mean((2, 3), keepdim=True), DIMS),
    (Window((1, 2)), lambda x: x.mean((1, 2), keepdim=True), (2, 4, 2, 3)),
    (Window((2, 3), keep=False), lambda x: x.mean((2, 3)), DIMS),
    (Window((3,), keep=False), lambda x: x.mean(3), DIMS),
    (Window((1, 3), keep=False), lambda x: x.mean((1, 3)), (2, 4, 3, 4)),
    (Window((0, 1, 2), keep=False), lambda x: x.mean((0, 1, 2)), (2, 2, 4, 3)),
    (Window((2, 3)), lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"), DIMS),
    (Window((2, 3)), lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), DIMS),
]
MAXIMA = [
    (Window((2, 3), by_order=True), lambda x: F.max_pool2d(x, 2), DIMS),
    (Window((2, 3), by_order=True), lambda x: F.max_pool2d(x, 3, 2, padding=1), DIMS),
    (Window((2, 3), keep=False, by_order=True), lambda x: x.amax((2, 3)), DIMS),
    (Window((2,), keep=False, by_order=True), lambda x: x.amax(2), DIMS),
]
COUNTING = [(Window((2, 3), counts_padding=True), lambda x: F.avg_pool2d(x, 2, 1, padding=1), DIMS)]


def check_window(
    case: Any, random: Parameters, change: Any = lambda affine, random: affine
) -> None:
    movement, function, dims = case
    x = random.integers(*dims)
    axes = movement.axes
    check_forward(movement, function, x, change(random.broadcast(dims, *axes), random), random)
    after = tuple(function(torch.from_numpy(x)).shape)
    fixed = axes if movement.keep else ()
    check_back(movement, function, x, change(random.broadcast(after, *fixed), random), random)


@pytest.mark.parametrize("case", MEANS)
@some
@given(random=parameters())
def test_a_mean_commutes_with_any_map_of_channels(random: Parameters, case: Any) -> None:
    assert not case[0].needs_nonnegative_scale
    assert not case[0].needs_zero_shift
    check_window(case, random)


@pytest.mark.parametrize("case", MAXIMA)
@some
@given(random=parameters())
def test_a_maximum_commutes_where_the_scale_is_not_negative(random: Parameters, case: Any) -> None:
    assert case[0].needs_nonnegative_scale
    assert not case[0].needs_zero_shift
    check_window(case, random, without_sign)


@pytest.mark.parametrize("case", COUNTING)
@some
@given(random=parameters())
def test_a_mean_over_padding_commutes_with_a_scale(random: Parameters, case: Any) -> None:
    assert case[0].needs_zero_shift
    check_window(case, random, lambda affine, random: without_shift(affine))


def test_the_conditions_are_needed() -> None:
    """Without them the law fails, on these very numbers."""
    x = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]], dtype=torch.float64)
    assert (F.max_pool2d(-x, 2) != -F.max_pool2d(x, 2)).any()
    assert (F.avg_pool2d(x + 1, 2, 2, 1) != F.avg_pool2d(x, 2, 2, 1) + 1).any()
    assert (F.relu(-x) != -F.relu(x)).any()
    assert (F.relu(x - 4) != F.relu(x) - 4).any()
    assert (F.pad(x + 1, (1, 1)) != F.pad(x, (1, 1)) + 1).any()


def along(axis: int, size: int) -> BroadcastAffine:
    return BroadcastAffine(Source("s", (*(1,) * axis, size), "float32"), Scalar(0.0))


SQUARE = (4, 4, 4, 4)  # no size tells which axis is which


@pytest.mark.parametrize("axis", [2, 3])
def test_a_window_refuses_a_map_that_varies_inside_it(axis: int) -> None:
    window = Window((2, 3))
    for way in (window.back, window.forward):
        said = blocked(Code.AXIS_MISMATCH, way, along(axis, 4), SQUARE, SQUARE)
        assert (
            said == f"it varies along axis {axis}, which is combined by a pool, a mean or a resize"
        )
    dropping = Window((2, 3), keep=False)
    blocked(Code.AXIS_MISMATCH, dropping.forward, along(axis, 4), SQUARE, (4, 4))


def test_a_window_that_drops_axes_counts_those_of_the_output() -> None:
    """Axis 1 of the mean over axes 0 and 2 of four was axis 3."""
    window = Window((0, 2), keep=False)
    assert window.back(along(1, 4), SQUARE, (4, 4)).scale.shape == (1, 1, 1, 4)
    assert window.back(along(0, 4), SQUARE, (4, 4)).axes == (1,)
    assert window.forward(along(3, 4), SQUARE, (4, 4)).axes == (1,)
    assert window.forward(along(1, 4), SQUARE, (4, 4)).axes == (0,)


SIDES = ((2, (1, 2)), (3, (0, 1)))


@pytest.mark.parametrize(
    ("pad", "mode"),
    [
        (Pad(SIDES, None), "reflect"),
        (Pad(SIDES, None), "replicate"),
        (Pad(SIDES, None), "circular"),
        (Pad(((2, (-1, 0)), (3, (-1, -2))), 0.0), "constant"),
        (Pad(((2, (-1, 0)), (3, (-1, -2))), 7.0), "constant"),
        (Pad(((2, (0, 0)),), 7.0), "constant"),
    ],
)
@some
@given(random=parameters())
def test_a_pad_that_brings_no_constant_commutes_with_any_map(
    random: Parameters, pad: Pad, mode: str
) -> None:
    sides = dict(pad.sides)
    flat = [*sides.get(3, (0, 0)), *sides.get(2, (0, 0))]
    value = pad.fill if mode == "constant" else None
    assert not pad.fills
    assert not pad.needs_zero_shift
    check_both(pad, lambda x: F.pad(x, flat, mode, value), DIMS, random, 2, 3)


@some
@given(random=parameters())
def test_a_pad_with_zeros_commutes_with_a_scale(random: Parameters) -> None:
    pad, x = Pad(SIDES, 0.0), random.integers(*DIMS)
    assert pad.needs_zero_shift
    assert not pad.needs_nonnegative_scale
    for check in (check_back, check_forward):
        affine = without_shift(random.broadcast(DIMS, 2, 3))
        check(pad, lambda x: F.pad(x, (0, 1, 1, 2)), x, affine, random)


@pytest.mark.parametrize(
    ("pad", "fills"),
    [
        (Pad(SIDES, 0.0), True),
        (Pad(SIDES, -1.0), True),
        (Pad(((2, (1, -1)),), 0.0), True),
        (Pad(((2, (-1, -1)),), 0.0), False),
        (Pad((), 0.0), False),
        (Pad(SIDES, None), False),
    ],
)
def test_whether_a_pad_fills(pad: Pad, fills: bool) -> None:
    assert pad.fills is pad.needs_zero_shift is fills


@pytest.mark.parametrize("fill", [1.0, -np.inf])
def test_a_pad_refuses_another_constant_than_zero(fill: float) -> None:
    pad = Pad(SIDES, fill)
    for way in (pad.back, pad.forward):
        said = blocked(Code.PADDING_VALUE, way, along(1, 4), SQUARE, (4, 4, 7, 5))
        assert said == f"it crosses padding with {fill}"


@pytest.mark.parametrize("fill", [None, 0.0])
@pytest.mark.parametrize("axis", [2, 3])
def test_a_pad_refuses_a_map_that_varies_along_it(fill: float | None, axis: int) -> None:
    pad = Pad(SIDES, fill)
    for way in (pad.back, pad.forward):
        said = blocked(Code.AXIS_MISMATCH, way, along(axis, 4), SQUARE, (4, 4, 7, 5))
        assert said == f"it varies along axis {axis}, which is padded"


@pytest.mark.parametrize(
    "function",
    [
        F.relu,
        lambda x: F.leaky_relu(x, 0.25),
        lambda x: F.leaky_relu(x, -0.5),
        lambda x: F.prelu(x, torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64)),
    ],
    ids=["relu", "leaky", "negative-slope", "prelu"],
)
@some
@given(random=parameters())
def test_homogeneous_functions_commute_with_scales_that_are_not_negative(
    random: Parameters, function: Any
) -> None:
    movement, x = Homogeneous(), random.integers(*DIMS)
    assert movement.needs_nonnegative_scale
    assert movement.needs_zero_shift
    for check in (check_back, check_forward):
        affine = without_shift(without_sign(random.broadcast(DIMS), random))
        check(movement, function, x, affine, random)


def test_rearranging_needs_no_condition() -> None:
    for movement in (Identity(), Permute((1, 0)), Reshape(), Select(0, 0, 1)):
        assert not movement.needs_nonnegative_scale
        assert not movement.needs_zero_shift


@settings(deadline=None, max_examples=15)
@given(parameters(), st.integers(0, 3))
def test_gamma_of_zero_crosses_a_maximum(random: Parameters, channel: int) -> None:
    scale, shift = random.source(1, 4), random.source(1, 4)
    random.arrays[scale.name] = np.abs(random.arrays[scale.name])
    random.arrays[scale.name][0, channel] = 0
    x = random.integers(2, 4, 4, 4)
    affine = BroadcastAffine(scale, shift)
    window = Window((2, 3), by_order=True)
    check_back(window, lambda t: F.max_pool2d(t, 2), x, affine, random)
    constant = applied(affine, x, random.evaluate)[:, channel]
    assert_array_equal(constant, random.arrays[shift.name][0, channel])
