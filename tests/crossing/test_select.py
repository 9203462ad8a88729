"""A part of a tensor: slices and indexing."""

from __future__ import annotations

from typing import Any

import pytest
from crossing.law import blocked, check_back, check_forward
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Parameters, parameters

from bnfx.passes.algebra import BroadcastAffine, Scalar, Source
from bnfx.passes.crossing import Permute, Reshape, Select
from bnfx.passes.refusals import Code

DIMS = st.lists(st.sampled_from([1, 2, 3, 3]), min_size=1, max_size=4).map(tuple)


@settings(deadline=None, max_examples=60)
@given(parameters(), DIMS, st.booleans(), st.data())
def test_select(random: Parameters, dims: tuple[int, ...], keep: bool, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(dims) - 1))
    start = data.draw(st.integers(0, dims[axis] - 1))
    stop = data.draw(st.integers(start + 1, dims[axis])) if keep else start + 1

    def function(x: Any) -> Any:
        return x.narrow(axis, start, stop - start) if keep else x.select(axis, start)

    movement, x = Select(axis, start, stop, keep), random.integers(*dims)
    check_forward(movement, function, x, random.broadcast(dims), random)
    rest = [stop - start] if keep else []
    after = (*dims[:axis], *rest, *dims[axis + 1 :])
    affine = random.broadcast(after)
    moved = check_back(movement, function, x, affine, random)
    # The other positions stay as they are.
    evaluate = random.evaluate
    for expression, unit in ((moved.scale, 1.0), (moved.shift, 0.0)):
        value = evaluate(expression)
        if value.ndim > axis and value.shape[axis] > 1:
            outside = [i for i in range(dims[axis]) if not start <= i < stop]
            assert (value.take(outside, axis=axis) == unit).all()
    assert (moved.is_scale, moved.is_shift) == (affine.is_scale, affine.is_shift)


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
        (Reshape(), True),
        (Permute((0, 1)), True),
    ],
)
def test_overlaps(other: Any, expected: bool) -> None:
    assert Select(1, 1, 4).overlaps(other) is expected
    if isinstance(other, Select):
        assert other.overlaps(Select(1, 1, 4)) is expected
