"""The cost function: what a rewrite is worth, in floating-point operations and bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from neutral import Model

from bnfx.passes.algebra import BroadcastAffine, ConvTranspose, Scalar, Source
from bnfx.passes.graph import Opaque
from bnfx.passes.rules import cost

ONE, ZERO = Scalar(1.0), Scalar(0.0)
C = Source("c", (1, 4), "float32")


@pytest.mark.parametrize(
    ("affine", "steps", "constants"),
    [
        (BroadcastAffine(C, C), 2, 8),
        (BroadcastAffine(C, ZERO), 1, 4 + 1),
        (BroadcastAffine(ONE, C), 1, 1 + 4),
        (BroadcastAffine(Scalar(2.0), Scalar(3.0)), 2, 2),
        (BroadcastAffine.identity(), 0, 2),
    ],
)
def test_an_affine_map_by_itself_and_behind_an_operator(
    model: Model, affine: BroadcastAffine, steps: int, constants: int
) -> None:
    node = model.input("in", 2, 4, 3, 5)
    size = 2 * 4 * 3 * 5
    assert cost.elementwise(node, affine) == steps * size + 10 * 4 * (2 * size + constants)
    assert cost.epilogue(node, affine) == steps * size + 10 * 4 * constants


@pytest.mark.parametrize(
    ("dtype", "bytes_"),
    [("float64", 8), ("float32", 4), ("float16", 2), ("bfloat16", 2), (None, 4)],
)
def test_bytes_of_a_dtype(model: Model, dtype: str | None, bytes_: int) -> None:
    node = model.input("in", 3, 7, dtype=dtype)
    assert cost.addition(node) == 21 + 10 * bytes_ * 3 * 21


@pytest.mark.parametrize(
    ("dims", "size"), [((2, "h", 3), 2 * 32 * 3), (("n",), 32), ((), 1), (None, 32**4)]
)
def test_a_size_that_is_not_known_is_nominal(model: Model, dims: Any, size: int) -> None:
    node = model.add("in", Opaque(), shape=dims)
    assert cost.addition(node) == size + 10 * 4 * 3 * size


def test_a_convolution(model: Model) -> None:
    x = model.input("in", 2, 4, 6, 6)
    conv = model.conv2d("conv", x, 8, 3, padding=1, stride=2, groups=2)
    weights, places = 8 * 2 * 9, 2 * 3 * 3
    moved = x_size(2, 4, 6, 6) + x_size(2, 8, 3, 3) + weights
    assert conv.shape == (2, 8, 3, 3)
    assert cost.linear(conv.role.operator, x, conv) == 2 * weights * places + 10 * 4 * moved


def test_a_dense_operator(model: Model) -> None:
    x = model.input("in", 2, 5, 4)
    dense = model.dense("dense", x, 3)
    moved = 2 * 5 * 4 + 2 * 5 * 3 + 12
    assert cost.linear(dense.role.operator, x, dense) == 2 * 12 * 10 + 10 * 4 * moved


def test_a_transposed_convolution_works_at_each_input(model: Model) -> None:
    x = model.input("in", 2, 4, 3, 3)
    weight = model.random_source("w", 4, 8, 2, 2)
    operator = ConvTranspose(weight, None, (2, 2), ((0, 0),) * 2, (0, 0), (1, 1))
    up = model.linear("up", operator, x, shape=(2, 8, 6, 6))
    weights = 4 * 8 * 4
    moved = x_size(2, 4, 3, 3) + x_size(2, 8, 6, 6) + weights
    assert cost.linear(operator, x, up) == 2 * weights * 2 * 9 + 10 * 4 * moved


def test_an_operator_of_unknown_sizes(model: Model) -> None:
    conv = model.conv("conv", model.x)
    moved = 2 * 32**4 + 9
    expected = 2 * 9 * 32**3 + 10 * 4 * moved
    assert cost.linear(conv.role.operator, model.x, conv) == expected


def test_more_work_costs_more(model: Model) -> None:
    x = model.input("in", 2, 8, 6, 6)
    prices = [
        cost.linear(node.role.operator, x, node)
        for node in (
            model.conv2d("point", x, 8),
            model.conv2d("depthwise", x, 8, 3, padding=1, groups=8),
            model.conv2d("full", x, 8, 3, padding=1),
            model.conv2d("wide", x, 16, 3, padding=1),
        )
    ]
    assert prices == sorted(set(prices))


def x_size(*dims: int) -> int:
    return int(np.prod(dims))
