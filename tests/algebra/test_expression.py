"""Weight expressions: shapes, structure, sources."""

from __future__ import annotations

from typing import Any

import pytest

from bnfx.passes.algebra import Expression, Scalar, Source
from bnfx.passes.algebra.expressions.expression import Elementwise, Ones, Reshaped, as_expression
from bnfx.passes.algebra.expressions.rearrange import Joined, Permuted, Sum

W = Source("w", (4, 3), "float32")
V = Source("v", (3,), "float32")
S = Source("s", (), "float32")


def fold(weight: Source) -> Expression:
    return weight * (V / (S + 1e-5).sqrt()).reshape(1, 3) - (-V)


@pytest.mark.parametrize(
    ("expression", "shape"),
    [
        (W + V, (4, 3)),
        (V * W, (4, 3)),
        (W - S, (4, 3)),
        (2 / W, (4, 3)),
        (1.5 - V, (3,)),
        (3 * S, ()),
        (1 + S, ()),
        (-W, (4, 3)),
        (V.sqrt(), (3,)),
        (W.reshape(2, 6), (2, 6)),
        (V.reshape(3, 1) + V, (3, 3)),
        (Ones((5,)) * S, (5,)),
    ],
)
def test_shapes_follow_broadcasting(expression: Expression, shape: tuple[int, ...]) -> None:
    assert expression.shape == shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: W + Source("u", (4,), "float32"), r"\(4, 3\).*\(4,\)"),
        (lambda: W.reshape(5, 2), r"cannot reshape \(4, 3\) to \(5, 2\)"),
        (lambda: Elementwise("modulo", (W, V)), "'modulo' with 2 operands is no elementwise op"),
        (lambda: Elementwise("sqrt", (W, V)), "'sqrt' with 2 operands is no elementwise op"),
        (lambda: Elementwise("add", (W,)), "'add' with 1 operands is no elementwise op"),
    ],
)
def test_bad_expressions_are_refused_when_built(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_equality_and_hash_are_structural() -> None:
    again = Source("w", (4, 3), "float32")
    assert again is not W
    assert fold(again) == fold(W)
    assert hash(fold(again)) == hash(fold(W))
    assert len({fold(again), fold(W)}) == 1


@pytest.mark.parametrize(
    "other",
    [
        Source("u", (4, 3), "float32"),
        Source("w", (4, 3), "float16"),
        Source("w", (2, 3), "float32"),
    ],
)
def test_another_source_makes_another_expression(other: Source) -> None:
    assert fold(other) != fold(W)


def test_operator_and_order_make_another_expression() -> None:
    assert len({W + V, V + W, W - V, W * V, W / V, -W, W.sqrt(), W.reshape(3, 4)}) == 8
    assert Scalar(1.0) != Ones(())
    assert Reshaped(V, (3, 1)) != Reshaped(V, (1, 3))


def test_reshape_to_the_same_shape_is_nothing() -> None:
    assert W.reshape(4, 3) is W


def test_numbers_become_scalars() -> None:
    assert as_expression(2) == Scalar(2.0)
    assert as_expression(W) is W
    assert (W + 2).children == (W, Scalar(2.0))
    assert (2 - W).children == (Scalar(2.0), W)


def test_sources_come_each_once_in_first_use_order() -> None:
    assert list(fold(W).sources()) == [W, V, S]
    assert list((S * V + (W + S)).sources()) == [S, V, W]
    assert list(Scalar(1.0).sources()) == []
    assert list(W.sources()) == [W]


def test_sources_of_the_same_name_but_another_dtype_are_two() -> None:
    half = Source("w", (4, 3), "float16")
    assert list((W + half).sources()) == [W, half]


def test_equality_is_structural_and_takes_linear_time() -> None:
    def shared(levels: int, name: str = "x") -> Expression:
        expression: Expression = Source(name, (2,), "float32")
        for _ in range(levels):
            expression = expression + expression
        return expression

    assert shared(60) == shared(60)
    assert shared(60) != shared(60, "y")
    assert shared(3) != shared(4)
    assert shared(3).reshape(2, 1) == shared(3).reshape(2, 1)
    assert shared(3).reshape(2, 1) != shared(3).reshape(1, 2)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (W * -1.0, W * -2.0),
        (V.sqrt(), -V),
        (Reshaped(V, (3, 1)), Reshaped(V, (1, 3))),
        (Sum(V, (0,)), Permuted(V, (0,))),
        (Joined((V, V), 0), Joined((V, V, V), 0)),
    ],
)
def test_equal_hashes_prove_nothing(one: Expression, other: Expression) -> None:
    """Those of -1 and -2 are equal in Python."""
    for each in (one, other):
        vars(each)["_hash"] = 0
    assert one != other


def test_what_reads_the_first_source_is_known_behind_a_number() -> None:
    assert (2.0 * V).reads == (V, False)


def test_a_weight_that_is_scaled_again_is_multiplied_once() -> None:
    again = (W * V) * (V + S)
    assert again.children == (W, V * (V + S))
    rows = Source("rows", (4, 1), "float32")
    assert ((W * V) * rows).children == (W * V, rows), "their product would be as large as W"
