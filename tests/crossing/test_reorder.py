"""Identity, permute, reshape and chains of these: what moves which element where."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from crossing.law import blocked, check_back, check_both, check_forward
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Draw, Parameters, parameters

from bnfx.passes.algebra import BroadcastAffine, Scalar, Source
from bnfx.passes.crossing import Chain, Dims, Identity, Movement, Permute, Reshape
from bnfx.passes.refusals import Code

some = settings(deadline=None, max_examples=40)
SIZES = st.sampled_from([1, 2, 2, 3])


@st.composite
def reshapes(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of as many elements: merged, split, squeezed, or cut anew altogether."""
    before = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    after: list[int] = []
    for size in before:
        if after and draw(st.booleans()):
            after[-1] *= size
        else:
            after.append(size)
    if draw(st.booleans()):
        after = draw(st.permutations(after))
    for _ in range(draw(st.integers(0, 2))):
        after.insert(draw(st.integers(0, len(after))), 1)
    after = tuple(after)
    return (after, before) if draw(st.booleans()) else (before, after)


@settings(deadline=None, max_examples=100)
@given(parameters(), reshapes())
def test_reshape(random: Parameters, shapes: Any) -> None:
    before, after = shapes
    check_both(Reshape(), lambda x: x.reshape(after), before, random)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, 3, 4, 5), (2, 60)),
        ((2, 60), (2, 3, 4, 5)),
        ((2, 3, 4, 5), (120,)),
        ((2, 3), (2, 3, 1, 1)),
        ((2, 3, 1, 1), (2, 3)),
        ((1, 3, 1), (3,)),
        ((3,), (1, 3, 1)),
        ((3, 3, 3), (3, 9)),
        ((3, 3, 3), (9, 3)),
        ((2, 6, 2, 2), (2, 2, 3, 2, 2)),
        ((4, 6), (6, 4)),
        ((2, 3, 4), (4, 3, 2)),
        ((2, 2, 1, 2), (2, 1, 2, 2)),
        ((2, 2, 3), (2, 2, 3)),
        ((1,), ()),
    ],
)
@settings(deadline=None, max_examples=8)
@given(random=parameters())
def test_reshape_of_these(random: Parameters, before: Any, after: Any) -> None:
    check_both(Reshape(), lambda x: x.reshape(after), before, random)


def along(*shape: int) -> BroadcastAffine:
    return BroadcastAffine(Source("s", shape, "float32"), Scalar(0.0))


@pytest.mark.parametrize(
    ("before", "after", "shape", "expected"),
    [
        ((2, 3, 4, 4), (2, 3, 16), (1, 3), (1, 3, 1)),
        ((2, 3, 4, 4), (2, 48), (1, 3), (1, 48)),
        ((2, 3, 4, 4), (6, 16), (1, 3), (6, 1)),
        ((2, 12, 4, 4), (2, 3, 4, 4, 4), (1, 12), (1, 3, 4, 1, 1)),
        ((4, 4, 4), (16, 4), (1, 1, 4), (1, 4)),
        ((4, 4, 4), (16, 4), (1, 4), (16, 1)),
    ],
)
def test_a_map_is_written_out_no_further_than_it_must(
    before: Any, after: Any, shape: Any, expected: Any
) -> None:
    assert Reshape().forward(along(*shape), before, after).scale.shape == expected


@pytest.mark.parametrize(
    ("before", "after", "shape", "expected"),
    [
        (("s0", 6, 4), ("s0", 2, 3, 4), (1, 6), (1, 2, 3, 1)),
        (("s0", 3, "s1", "s2"), ("s0", 3, "s1*s2"), (1, 3), (1, 3, 1)),
        (("s0", "s1", 4), ("s0*s1", 4), (1, 1, 4), (1, 4)),
        (("s0", 3, 1, 1), ("s0", 3), (1, 3), (1, 3)),
        (("s0", 3), ("s0", 3, 1), (1, 3), (1, 3, 1)),
        (("s0", 8, "s1"), (8, "s0*s1"), (), ()),
        (
            ("s0", 6, "s1"),
            ("s0", 2, 3, "s1"),
            (1, 1, 4),
            (1, 1, 1, 4),
        ),  # along the open axis itself
        (("s0", 6, "s1"), ("s0", 2, 3, "s1"), (5, 6), (5, 2, 3, 1)),
    ],
)
def test_a_reshape_of_unknown_sizes_passes_what_varies_elsewhere(
    before: Dims, after: Dims, shape: Any, expected: Any
) -> None:
    assert Reshape().forward(along(*shape), before, after).scale.shape == expected
    assert Reshape().back(along(*shape), after, before).scale.shape == expected


@pytest.mark.parametrize(
    ("before", "after", "shape"),
    [
        (("s0", 3, "s1"), ("s0", "3*s1"), (1, 3)),
        (("s0", 3), ("3*s0",), (1, 3)),
        (("s0", 3, 2), ("s1", 3), (1, 3)),
        (("s0", 3, 4), (3, "s0", 4), (1, 3)),
        ((2, "s0", 4), (2, 3, "s1", 4), (1, 6)),  # of one axis, of which two are made
    ],
)
def test_refuses_to_cross_sizes_that_are_not_fixed(before: Dims, after: Dims, shape: Any) -> None:
    for way, sizes in ((Reshape().forward, (before, after)), (Reshape().back, (after, before))):
        said = blocked(Code.DYNAMIC_SHAPE, way, along(*shape), *sizes)
        assert said == "it crosses a reshape of sizes that are not fixed"


@pytest.mark.parametrize("shapes", [((0, 3), (0, 3, 1)), ((2, 3), (2, 0)), (("s0", 0), (0,))])
def test_refuses_an_empty_tensor(shapes: Any) -> None:
    for way in (Reshape().forward, Reshape().back):
        said = blocked(Code.UNSUPPORTED_FORM, way, along(1, 3), *shapes)
        assert said == "it crosses a reshape of an empty tensor"


@pytest.mark.parametrize(
    ("before", "after"), [((2, 3), (2, 4)), ((2, 3, 5), (7, 5)), ((6,), (6, 2))]
)
def test_refuses_shapes_of_other_sizes(before: Any, after: Any) -> None:
    said = blocked(Code.UNSUPPORTED_FORM, Reshape().forward, along(1, 3), before, after)
    assert said == f"no reshape takes {before} to {after}"


@some
@given(parameters(), st.lists(SIZES, min_size=1, max_size=4).map(tuple), st.data())
def test_permute(random: Parameters, dims: tuple[int, ...], data: st.DataObject) -> None:
    order = tuple(data.draw(st.permutations(range(len(dims)))))
    check_both(Permute(order), lambda x: x.permute(order), dims, random)


@settings(deadline=None, max_examples=10)
@given(parameters(), st.booleans())
def test_identity(random: Parameters, contiguous: bool) -> None:
    check_both(Identity(contiguous), lambda x: x, (2, 3, 3), random)
    a = random.broadcast((2, 3, 3))
    assert Identity(contiguous).back(a, (), ()) is Identity(contiguous).forward(a, (), ()) is a
    assert Identity() == Identity(contiguous=False) != Identity(contiguous=True)


N, C, H, W, R = 2, 2, 3, 2, 2
SHUFFLE: Movement = Chain(
    (
        (Reshape(), (N, C, R, R, H, W)),
        (Permute((0, 1, 4, 2, 5, 3)), (N, C, H, R, W, R)),
        (Reshape(), (N, C, H * R, W * R)),
    )
)
UNSHUFFLE: Movement = Chain(
    (
        (Reshape(), (N, C, H, R, W, R)),
        (Permute((0, 1, 3, 5, 2, 4)), (N, C, R, R, H, W)),
        (Reshape(), (N, C * R * R, H, W)),
    )
)
CHANNELS: Movement = Chain(
    (
        (Reshape(), (N, 3, 2, H, W)),
        (Permute((0, 2, 1, 3, 4)), (N, 2, 3, H, W)),
        (Reshape(), (N, 6, H, W)),
    )
)


@pytest.mark.parametrize(
    ("movement", "function", "dims"),
    [
        (SHUFFLE, lambda x: F.pixel_shuffle(x, R), (N, C * R * R, H, W)),
        (UNSHUFFLE, lambda x: F.pixel_unshuffle(x, R), (N, C, H * R, W * R)),
        (CHANNELS, lambda x: F.channel_shuffle(x, 3), (N, 6, H, W)),
        (Chain(()), lambda x: x, (2, 3)),
    ],
    ids=["pixel-shuffle", "pixel-unshuffle", "channel-shuffle", "nothing"],
)
@settings(deadline=None, max_examples=12)
@given(random=parameters())
def test_sequence(random: Parameters, movement: Movement, function: Any, dims: Any) -> None:
    check_both(movement, function, dims, random)


@settings(deadline=None, max_examples=10)
@given(random=parameters())
def test_a_channel_map_after_an_unshuffle_varies_over_pixels_before(random: Parameters) -> None:
    """``C * R * R`` channels of the output are ``C`` channels at ``R * R`` places of the input."""
    x = random.integers(N, C, H * R, W * R)
    channels = BroadcastAffine(random.source(1, C * R * R), random.source(1, C * R * R))
    moved = check_back(UNSHUFFLE, lambda t: F.pixel_unshuffle(t, R), x, channels, random)
    assert moved.axes == (1, 2, 3)
    few = BroadcastAffine(random.source(1, C), random.source(1, C))
    moved = check_forward(UNSHUFFLE, lambda t: F.pixel_unshuffle(t, R), x, few, random)
    assert moved.axes == (1,)
    assert math.prod(moved.scale.shape) == C * R * R


def test_torch_agrees_that_reshape_is_row_major() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert np.array_equal(x.reshape(3, 2).numpy(), x.numpy().reshape(3, 2))
