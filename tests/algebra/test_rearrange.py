"""Expressions that rearrange, join and contract: shapes, refusals, structure, evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from bnfx.passes.algebra import Evaluator, Expression, Scalar, Source
from bnfx.passes.algebra.expressions.building import (
    apart,
    broadcast_to,
    concat,
    embed,
    every,
    pad,
    size_of,
    take,
    total,
    zeros,
)
from bnfx.passes.algebra.expressions.expression import Ones
from bnfx.passes.algebra.expressions.rearrange import (
    Eye,
    Joined,
    MatMul,
    Permuted,
    Slice,
    Sum,
    Table,
    permute,
)

W = Source("w", (2, 3, 4), "float64")
V = Source("v", (2, 4, 5), "float64")
S = Source("s", (), "float64")
ARRAYS = {
    "w": np.arange(24.0).reshape(2, 3, 4) - 11,
    "v": np.arange(40.0).reshape(2, 4, 5) % 7 - 3,
    "s": np.asarray(-5.0),
}
w, v = ARRAYS["w"], ARRAYS["v"]

CASES: list[tuple[Expression, Any]] = [
    (Permuted(W, (2, 0, 1)), w.transpose(2, 0, 1)),
    (permute(W, [1, 0, 2]), w.transpose(1, 0, 2)),
    (Joined((W, W * 2, W), 1), np.concatenate([w, w * 2, w], axis=1)),
    (Joined((permute(W, (0, 2, 1)), V), 2), np.concatenate([w.transpose(0, 2, 1), v], axis=2)),
    (Slice(W, 2, 1, 3), w[:, :, 1:3]),
    (Slice(W, 0, 1, 1), w[1:1]),
    (Sum(W, (0, 2)), w.sum(axis=(0, 2))),
    (Sum(W, (0, 1, 2)), w.sum()),
    (total(W, ()), w),
    (total(W, range(1, 3)), w.sum(axis=(1, 2))),
    (MatMul(W, V), w @ v),
    (Eye(3), np.eye(3)),
    (Table(((1.0, 0.0), (2.0, 5.0), (0.0, 1.0))), np.array([[1, 0], [2, 5], [0, 1]])),
    (broadcast_to(S, (2, 3)), np.full((2, 3), -5.0)),
    (broadcast_to(Scalar(1.0), (2,)), np.ones(2)),
    (broadcast_to(Scalar(0.0), (2,)), np.zeros(2)),
    (broadcast_to(Slice(W, 1, 0, 1), (2, 3, 4)), np.broadcast_to(w[:, :1], (2, 3, 4))),
    (concat([zeros((2, 0, 4)), W], 1), w),
    (concat([zeros((2, 0, 4)), zeros((2, 0, 4))], 1), np.zeros((2, 0, 4))),
    (concat([W, W], 0), np.concatenate([w, w])),
    (zeros((3, 2)), np.zeros((3, 2))),
    (pad(W, [(0, 0), (2, 0), (1, 3)]), np.pad(w, [(0, 0), (2, 0), (1, 3)])),
    (
        embed(W, 1, 2, 6, 7.0),
        np.pad(w, [(0, 0), (2, 1), (0, 0)], constant_values=7),
    ),
    (embed(W, 2, 0, 5, 1.0), np.pad(w, [(0, 0), (0, 0), (0, 1)], constant_values=1)),
    (embed(W, 2, 0, 4, 1.0), w),
]


@pytest.mark.parametrize(("expression", "expected"), CASES)
def test_value_and_shape_in_numpy_and_torch(expression: Expression, expected: Any) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    by_numpy = Evaluator(lambda source: ARRAYS[source.name], w)(expression)
    by_torch = Evaluator(lambda source: tensors[source.name], tensors["w"])(expression)
    assert expression.shape == np.shape(expected)
    assert by_torch.dtype == torch.float64
    for value in (by_numpy, by_torch.numpy()):
        assert value.shape == expression.shape
        assert_array_equal(value, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Permuted(W, (0, 1)), r"\(0, 1\) does not permute the axes of \(2, 3, 4\)"),
        (lambda: Permuted(W, (0, 1, 1)), "does not permute"),
        (lambda: Permuted(W, (1, 2, 3)), "does not permute"),
        (lambda: Joined((W, V), 1), r"cannot join \(2, 3, 4\), \(2, 4, 5\) along axis 1"),
        (lambda: Joined((), 0), "cannot join"),
        (lambda: Slice(W, 1, 0, 4), r"no 0:4 on axis 1 of \(2, 3, 4\)"),
        (lambda: Slice(W, 1, -1, 2), "no -1:2 on axis 1"),
        (lambda: Slice(W, 1, 2, 1), "no 2:1 on axis 1"),
        (lambda: MatMul(V, W), r"cannot multiply \(2, 4, 5\) by \(2, 3, 4\)"),
        (lambda: MatMul(W, Slice(V, 0, 0, 1)), "cannot multiply"),
        (lambda: MatMul(Source("u", (4,), "float64"), V), "cannot multiply"),
        (lambda: MatMul(Source("u", (3,), "float64"), Slice(W, 0, 0, 1).reshape(3, 4)), "cannot"),
        (lambda: broadcast_to(W, (2, 1, 4)), r"cannot broadcast \(2, 3, 4\) to \(2, 1, 4\)"),
        (lambda: broadcast_to(W, (3, 4)), "cannot broadcast"),
    ],
)
def test_bad_shapes_are_refused_when_built(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_equality_and_hash_are_structural() -> None:
    def build(name: str = "w") -> list[Expression]:
        one = Source(name, (2, 3, 4), "float64")
        return [
            Permuted(one, (1, 0, 2)),
            Permuted(one, (0, 2, 1)),
            Joined((one, one), 0),
            Joined((one, one), 1),
            Joined((one, one, one), 0),
            Slice(one, 1, 0, 2),
            Slice(one, 1, 1, 3),
            Slice(one, 2, 0, 2),
            Sum(one, (0,)),
            Sum(one, (1,)),
            MatMul(one, V),
        ]

    assert build() == build()
    assert list(map(hash, build())) == list(map(hash, build()))
    assert len({*build(), *build(), *build("u")}) == 2 * len(build())


def test_constants_compare_by_value() -> None:
    assert Eye(2) == Eye(2) != Eye(3)
    assert Table(((1.0,),)) == Table(((1.0,),)) != Table(((2.0,),))
    assert not {*Eye(2).sources(), *Table(((1.0,),)).sources()}


def test_what_changes_nothing_is_nothing() -> None:
    assert permute(W, (0, 1, 2)) is W
    assert broadcast_to(W, (2, 3, 4)) is W
    assert total(W, ()) is W
    assert pad(W, [(0, 0)] * 3) is W
    assert concat([W], 1) is W
    assert broadcast_to(Scalar(1.0), (2, 2)) == Ones((2, 2))
    assert every(W, 1, 1) is apart(W, 1, 1, 0.0) is W


def test_what_is_empty() -> None:
    assert concat([zeros((2, 0, 4))] * 2, 1).shape == (2, 0, 4)
    assert take(Joined((W, -W), 1), 1, 6, 6).shape == (2, 0, 4)
    assert Table(()).shape == (0, 0)


def test_slices_are_put_together_where_they_were_beside_one_another_alone() -> None:
    parts = [take(W, 2, 0, 2), take(W, 2, 2, 4)]
    assert concat(parts, 2) is W
    assert concat(parts, 1) == Joined(tuple(parts), 1)
    assert concat([parts[0], take(-W, 2, 2, 4)], 2) == Joined((parts[0], take(-W, 2, 2, 4)), 2)


def test_a_slice_of_what_is_joined_along_another_axis_is_one_of_all() -> None:
    assert take(Joined((W, -W), 0), 1, 0, 2).shape == (4, 2, 4)


def test_sources_are_found_through_all_of_them() -> None:
    joined = Joined((Slice(Sum(permute(W, (1, 0, 2)), (0,)), 1, 0, 1), broadcast_to(S, (2, 1))), 1)
    assert list(MatMul(joined, Eye(2)).sources()) == [W, S]


def test_size_of() -> None:
    assert [size_of(e) for e in (W, S, Eye(3), zeros((2, 0)))] == [24, 1, 9, 0]
