"""The law of every movement, checked element by element on integers in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from strategies import Parameters, applied

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing import BlockedError, Dims, Movement
from bnfx.passes.refusals import Code

Function = Callable[[torch.Tensor], torch.Tensor]


def run(function: Function, x: Any) -> Any:
    """The op itself, by torch."""
    return function(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def check_back(
    movement: Movement, function: Function, x: Any, affine: BroadcastAffine, random: Parameters
) -> BroadcastAffine:
    """``a(T x) == T(a' x)``, with ``a'`` what the movement makes of ``a``."""
    y = run(function, x)
    moved = movement.back(affine, x.shape, y.shape)
    expected = applied(affine, y, random.evaluate)
    assert_array_equal(run(function, applied(moved, x, random.evaluate)), expected)
    return moved


def check_forward(
    movement: Movement, function: Function, x: Any, affine: BroadcastAffine, random: Parameters
) -> BroadcastAffine:
    """``T(a x) == a'(T x)``, with ``a'`` what the movement makes of ``a``."""
    y = run(function, x)
    moved = movement.forward(affine, x.shape, y.shape)
    expected = run(function, applied(affine, x, random.evaluate))
    assert_array_equal(applied(moved, y, random.evaluate), expected)
    return moved


def check_both(
    movement: Movement, function: Function, dims: tuple[int, ...], random: Parameters, *fixed: int
) -> None:
    """Both laws, for maps that vary along any axes but the ``fixed`` ones (axes of the input)."""
    x = random.integers(*dims)
    check_forward(movement, function, x, random.broadcast(dims, *fixed), random)
    after = run(function, x).shape
    check_back(movement, function, x, random.broadcast(after, *fixed), random)


def blocked(
    code: Code, way: Callable[..., Any], affine: BroadcastAffine, before: Dims, after: Dims
) -> str:
    """The sentence with which ``way`` refuses, after checking its code."""
    with pytest.raises(BlockedError) as caught:
        way(affine, before, after)
    assert caught.value.refusal.code is code
    assert caught.value.refusal.reason == str(caught.value)
    return caught.value.refusal.reason
