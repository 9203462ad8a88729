"""BroadcastAffine: a monoid whose axes are positions, held against NumPy. Exact, on integers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from strategies import Array, Parameters, applied, parameters

from bnfx.passes.algebra import BroadcastAffine, ChannelAffine, Scalar, Source

# Equal sizes are frequent: an axis that is taken for another of its size must show.
DIMS = st.lists(st.sampled_from([1, 2, 3, 3, 3]), min_size=1, max_size=4).map(tuple)
some = settings(deadline=None, max_examples=50)


def written_out(affine: BroadcastAffine, dims: tuple[int, ...], random: Parameters) -> Array:
    """Scale and shift at each position."""
    zero, one = np.zeros(dims), np.ones(dims)
    shift = applied(affine, zero, random.evaluate)
    return np.stack([applied(affine, one, random.evaluate) - shift, shift])


@some
@given(parameters(), DIMS)
def test_composition_is_associative(random: Parameters, dims: tuple[int, ...]) -> None:
    a, b, c = (random.broadcast(dims) for _ in range(3))
    left = written_out((a @ b) @ c, dims, random)
    assert_array_equal(left, written_out(a @ (b @ c), dims, random))


@some
@given(parameters(), DIMS)
def test_identity_is_neutral_on_both_sides(random: Parameters, dims: tuple[int, ...]) -> None:
    a, unit = random.broadcast(dims), BroadcastAffine.identity()
    expected = written_out(a, dims, random)
    assert_array_equal(written_out(a @ unit, dims, random), expected)
    assert_array_equal(written_out(unit @ a, dims, random), expected)
    assert unit @ unit == unit


@some
@given(parameters(), DIMS)
def test_product_is_composition_of_functions(random: Parameters, dims: tuple[int, ...]) -> None:
    a, b, x = random.broadcast(dims), random.broadcast(dims), random.integers(*dims)
    evaluate = random.evaluate
    expected = applied(a, applied(b, x, evaluate), evaluate)
    assert_array_equal(applied(a @ b, x, evaluate), expected)
    assert (a @ b).is_scale == (a.is_scale and b.is_scale)
    assert (a @ b).is_shift == (a.is_shift and b.is_shift)


@some
@given(parameters(), DIMS, st.data())
def test_permuted(random: Parameters, dims: tuple[int, ...], data: st.DataObject) -> None:
    a, x, evaluate = random.broadcast(dims), random.integers(*dims), random.evaluate
    order = data.draw(st.permutations(range(len(dims))))
    expected = applied(a, x, evaluate).transpose(order)
    assert_array_equal(applied(a.permuted(order), x.transpose(order), evaluate), expected)


@some
@given(parameters(), DIMS, st.integers(0, 3))
def test_regrouped(random: Parameters, dims: tuple[int, ...], at: int) -> None:
    """The axes from ``at`` on become one, written out; those before stay as they are."""
    at = min(at, len(dims) - 1)
    a, x, evaluate = random.broadcast(dims), random.integers(*dims), random.evaluate
    front = tuple(n if axis in a.axes else 1 for axis, n in enumerate(dims[:at]))
    regrouped = a.regrouped((*front, *dims[at:]), (*front, math.prod(dims[at:])))
    shape = (*dims[:at], -1)
    expected = applied(a, x, evaluate).reshape(shape)
    assert_array_equal(applied(regrouped, x.reshape(shape), evaluate), expected)


@some
@given(parameters(), DIMS, st.data())
def test_sliced(random: Parameters, dims: tuple[int, ...], data: st.DataObject) -> None:
    a, x, evaluate = random.broadcast(dims), random.integers(*dims), random.evaluate
    axis = data.draw(st.integers(0, len(dims) - 1))
    start = data.draw(st.integers(0, dims[axis] - 1))
    stop = data.draw(st.integers(start + 1, dims[axis]))
    place = (*(slice(None),) * axis, slice(start, stop))
    expected = applied(a, x, evaluate)[place]
    assert_array_equal(applied(a.sliced(axis, start, stop), x[place], evaluate), expected)
    dropped = a.sliced(axis, start, start + 1, keep=False)
    place = (*place[:-1], start)
    expected = applied(a, x, evaluate)[place]
    assert_array_equal(applied(dropped, x[place], evaluate), expected)


@some
@given(parameters(), DIMS, st.data())
def test_embedded(random: Parameters, dims: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(dims) - 1))
    before, after = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
    a, evaluate = random.broadcast(dims), random.evaluate
    whole = [*dims]
    whole[axis] += before + after
    x = random.integers(*whole)
    place = (*(slice(None),) * axis, slice(before, before + dims[axis]))
    expected = x.copy()
    expected[place] = applied(a, x[place], evaluate)

    embedded = a.embedded(axis, before, dims[axis], whole[axis])

    assert_array_equal(applied(embedded, x, evaluate), expected)
    assert (embedded.is_scale, embedded.is_shift) == (a.is_scale, a.is_shift)


@some
@given(parameters(), DIMS, st.data())
def test_inserted(random: Parameters, dims: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(dims)))
    a, x, evaluate = random.broadcast(dims), random.integers(*dims), random.evaluate
    expected = np.expand_dims(applied(a, x, evaluate), axis)
    assert_array_equal(applied(a.inserted(axis), np.expand_dims(x, axis), evaluate), expected)


@some
@given(parameters(), DIMS, st.integers(0, 4))
def test_along_is_the_map_where_it_varies_along_that_axis_alone(
    random: Parameters, dims: tuple[int, ...], axis: int
) -> None:
    a, x, evaluate = random.broadcast(dims), random.integers(*dims), random.evaluate
    channels = a.along(axis)
    assert (channels is None) == bool(set(a.axes) - {axis})
    if channels is not None:
        again = BroadcastAffine.of_channels(channels, axis)
        assert channels.channels == (dims[axis] if axis in a.axes else None)
        if axis < len(dims):
            assert_array_equal(applied(again, x, evaluate), applied(a, x, evaluate))


@some
@given(parameters(), st.integers(1, 4), st.integers(0, 3))
def test_of_channels_and_along_undo_one_another(
    random: Parameters, channels: int, axis: int
) -> None:
    a = random.affine(channels)
    back = BroadcastAffine.of_channels(a, axis).along(axis)
    assert back is not None
    for one, other in ((a.scale, back.scale), (a.shift, back.shift)):
        expected = np.broadcast_to(random.evaluate(one), channels)
        assert_array_equal(np.broadcast_to(random.evaluate(other), channels), expected)


def source(*shape: int, **fields: Any) -> Source:
    return Source("s", shape, "float32", **fields)


def test_along_no_known_axis_takes_one_number_for_all_only() -> None:
    one, many = source(), source(1, 3)
    assert BroadcastAffine(one, one).along(None) == ChannelAffine(one, one)
    assert BroadcastAffine(source(1, 1), one).along(None) == ChannelAffine(
        source(1, 1).reshape(), one
    )
    assert BroadcastAffine(many, one).along(None) is None


def test_shape_is_counted_from_the_front() -> None:
    a = BroadcastAffine(source(1, 3), source(2, 1, 4))
    assert a.shape == (2, 3, 4)
    assert a.axes == (0, 1, 2)
    assert BroadcastAffine(source(), source(1, 3)).axes == (1,)
    assert BroadcastAffine.identity().shape == ()


def test_what_is_said_by_construction() -> None:
    one, zero, s = Scalar(1.0), Scalar(0.0), source(1, 3)
    computed = Source("c", (3,), "float32", bases=(Source("base", (3,), "float32"),))
    flags = {
        (one, zero): (True, True, False),
        (s, zero): (True, False, False),
        (one, s): (False, True, False),
        (s, s): (False, False, False),
        (one, computed.reshape(1, 3) * 2): (False, True, True),
    }
    for (scale, shift), expected in flags.items():
        a = BroadcastAffine(scale, shift)
        assert (a.is_scale, a.is_shift, a.is_computed) == expected
    assert list(BroadcastAffine(s, s).sources()) == [s]
    assert [x.name for x in BroadcastAffine(s, computed).sources()] == ["s", "base"]


def test_sizes_that_disagree_do_not_compose() -> None:
    with pytest.raises(ValueError, match="shape mismatch"):
        BroadcastAffine(source(1, 3), source()) @ BroadcastAffine(source(1, 2), source())


@pytest.mark.parametrize("more", [(2,), (1, 2)])
def test_a_map_of_more_axes_than_the_tensor_is_refused(more: tuple[int, ...]) -> None:
    a = BroadcastAffine(source(1, 3, 1), source(1, 3, *more))
    with pytest.raises(ValueError, match=r"a map of shape \(1, 3, .*\) on a tensor of 2 dim"):
        a.permuted((1, 0))


def test_what_fits_a_tensor_of_fewer_axes() -> None:
    assert BroadcastAffine(source(1, 3, 1), source(1, 3)).permuted((1, 0)).axes == (0,)


def test_what_is_said_of_channels_is_said_of_the_tensor() -> None:
    scale, shift = ChannelAffine(source(3), Scalar(0.0)), ChannelAffine(Scalar(1.0), source(3))
    assert BroadcastAffine.of_channels(scale, 2).is_scale
    assert BroadcastAffine.of_channels(shift, 2).is_shift


def test_what_a_scale_comes_before_keeps_its_shift() -> None:
    scale, map_ = (
        BroadcastAffine(source(1, 3), Scalar(0.0)),
        BroadcastAffine(source(), source(1, 3)),
    )
    assert (scale @ scale).is_scale
    assert (map_ @ scale).shift == map_.shift


def test_maps_of_parts_are_joined_along_an_axis_that_none_of_them_has() -> None:
    two, three = (BroadcastAffine(Scalar(1.0), Scalar(number)) for number in (2.0, 3.0))
    whole = BroadcastAffine.joined([two, three], [1, 4], 2)
    assert whole.is_shift
    assert whole.shift.shape == (1, 1, 5)
