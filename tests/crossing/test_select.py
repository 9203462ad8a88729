"""A part of a tensor: slices and indexing."""

from __future__ import annotations

from typing import Any

import pytest
from crossing.law import blocked, check_back, check_forward, run
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Parameters, applied, parameters

from bnfx.passes.algebra import BroadcastAffine, Scalar, Source
from bnfx.passes.crossing import Chain, Permute, Reshape, Select
from bnfx.passes.refusals import Code

DIMS = st.lists(st.sampled_from([1, 2, 3, 7]), min_size=1, max_size=4).map(tuple)


@settings(deadline=None, max_examples=60)
@given(parameters(), DIMS, st.booleans(), st.data())
def test_select(random: Parameters, dims: tuple[int, ...], keep: bool, data: st.DataObject) -> None:
    axis, step = data.draw(st.integers(0, len(dims) - 1)), data.draw(st.integers(1, 3))
    start = data.draw(st.integers(0, dims[axis] - 1))
    stop = data.draw(st.integers(start + 1, dims[axis])) if keep else start + 1

    def function(x: Any) -> Any:
        index = slice(start, stop, step) if keep else start
        return x[(*(slice(None),) * axis, index)]

    movement, x = Select(axis, start, stop, keep, step), random.integers(*dims)
    check_forward(movement, function, x, random.broadcast(dims), random)
    rest = [len(range(start, stop, step))] if keep else []
    after = (*dims[:axis], *rest, *dims[axis + 1 :])
    affine = random.broadcast(after)
    moved = check_back(movement, function, x, affine, random)
    # The other positions stay as they are.
    evaluate = random.evaluate
    for expression, unit in ((moved.scale, 1.0), (moved.shift, 0.0)):
        value = evaluate(expression)
        if value.ndim > axis and value.shape[axis] > 1:
            outside = [i for i in range(dims[axis]) if i not in range(start, stop, step)]
            assert (value.take(outside, axis=axis) == unit).all()
    assert (moved.is_scale, moved.is_shift) == (affine.is_scale, affine.is_shift)
    alone = movement.back_alone(affine, dims, after)
    expected = applied(affine, run(function, x), evaluate)
    assert (run(function, applied(alone, x, evaluate)) == expected).all()


@settings(deadline=None, max_examples=25)
@given(parameters(), st.data())
def test_a_chain_of_selects(random: Parameters, data: st.DataObject) -> None:
    """``x[a:b:c, i, d:e:f]``, alone and beside other readers."""
    dims = tuple(data.draw(st.integers(1, 7)) for _ in range(3))
    a, i, d = (data.draw(st.integers(0, size - 1)) for size in dims)
    b, e = (data.draw(st.integers(from_ + 1, dims[n])) for n, from_ in ((0, a), (2, d)))
    steps = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    first, last = Select(0, a, b, step=steps[0]), Select(2, d, e, step=steps[1])

    def function(x: Any) -> Any:
        return x[a : b : steps[0], i, d : e : steps[1]]

    x = random.integers(*dims)
    count, rest = len(first.positions), len(last.positions)
    chain = Chain(
        (
            (last, (dims[0], dims[1], rest)),
            (Select(1, i, i + 1, keep=False), (dims[0], rest)),
            (first, (count, rest)),
        )
    )
    check_forward(chain, function, x, random.broadcast(dims), random)
    affine = random.broadcast((count, rest))
    check_back(chain, function, x, affine, random)
    alone = chain.back_alone(affine, dims, (count, rest))
    expected = applied(affine, run(function, x), random.evaluate)
    assert (run(function, applied(alone, x, random.evaluate)) == expected).all()
    # A map that does not vary along an axis does not vary along a slice of it, if nobody looks.
    assert set(alone.axes) <= {{0: 0, 1: 2}[axis] for axis in affine.axes}


def channels(*shape: int) -> BroadcastAffine:
    return BroadcastAffine(Source("s", shape, "float32"), Scalar(0.0))


def test_refuses_to_go_back_along_an_axis_of_no_fixed_size() -> None:
    select = Select(1, 0, 2)
    said = blocked(Code.DYNAMIC_SHAPE, select.back, channels(1, 2), ("s0", "s1", 4), ("s0", 2, 4))
    assert said == "axis 1, which is split, has no fixed size"
    assert select.back(channels(1, 2), ("s0", 5, "s1"), ("s0", 2, "s1")).scale.shape == (1, 5)
    assert select.forward(channels(1, 5), ("s0", "s1"), ("s0", 2)).scale.shape == (1, 2)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Select(1, 0, 2), True),
        (Select(1, 1, 3), True),
        (Select(1, 3, 5), True),
        (Select(1, 2, 3, keep=False), True),
        (Select(1, 0, 9), True),
        (Select(1, 4, 6), False),
        (Select(1, 0, 1), False),
        (Select(1, 0, 1, keep=False), False),
        (Select(2, 4, 6), True),
        (Select(1, 0, 9, step=4), False),
        (Select(1, 0, 9, step=3), True),
        (Reshape(), True),
        (Permute((0, 1)), True),
    ],
)
def test_overlaps(other: Any, expected: bool) -> None:
    assert Select(1, 1, 4).overlaps(other) is expected
    if isinstance(other, Select):
        assert other.overlaps(Select(1, 1, 4)) is expected
