"""Expressions deeper than Python recurses: built, compared, hashed, printed, evaluated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bnfx.passes.algebra import ChannelAffine, Conv, Evaluator, Expression, Source
from bnfx.passes.algebra.building import concat, take
from bnfx.passes.algebra.rearrange import permute
from bnfx.passes.algebra.structural import written

DEPTH = 5000
W = Source("w", (2, 2, 1), "float64")
S, T = (Source(name, (2,), "float64") for name in "st")
ARRAYS = {
    "w": np.array([[[1.0], [2]], [[3], [4]]]),
    "s": np.array([1.0, -1]),
    "t": np.array([0.5, 0.25]),
}


def evaluate(expression: Expression) -> np.ndarray:
    return np.asarray(Evaluator(lambda source: ARRAYS[source.name], np.zeros(()))(expression))


def merged() -> Expression:
    """The shift of ``DEPTH`` affine maps, one after the other."""
    whole = affine = ChannelAffine(S, T)
    for _ in range(DEPTH - 1):
        whole = affine @ whole
    return whole.shift


def turned() -> Expression:
    expression: Expression = W
    for _ in range(DEPTH):
        expression = concat([take(expression, 0, 0, 1), take(-expression, 0, 1, 2)], 0)
    return expression


@pytest.mark.parametrize("make", [merged, turned])
def test_a_deep_expression_is_as_good_as_any(make: Callable[[], Expression]) -> None:
    one, other = make(), make()
    assert one is not other
    assert one == other
    assert hash(one) == hash(other)
    assert one != -other
    assert len({one, other, -one}) == 2
    assert repr(one) == repr(other)
    assert len(repr(one)) < 20_000
    assert repr(one).endswith("...")
    assert len(list(one.sources())) == (2 if make is merged else 1)


def test_merged_maps_have_the_value_of_their_sum() -> None:
    shift = np.array([DEPTH * 0.5, 0.0])  # the second channel changes sign at each step
    assert np.array_equal(evaluate(merged()), shift)


def test_operators_on_deep_expressions_are_compared_and_printed() -> None:
    def folded() -> Conv:
        operator = Conv(W, None, (1,), ((0, 0),), (1,))
        for _ in range(DEPTH // 5):
            operator = ChannelAffine(S, T) @ operator
        return operator

    one, other = folded(), folded()
    assert one == other
    assert hash(one) == hash(other)
    assert "Conv(weight=Elementwise(" in repr(one)
    assert np.array_equal(evaluate(one.weight), ARRAYS["w"])  # an even number of signs
    assert one.weight.children[0] is W, "however often it was scaled, the weight is scaled once"


def test_an_expression_is_written_as_it_is_built() -> None:
    text = written((S + T).reshape(1, 2))
    s, t = repr(S), repr(T)
    assert text == f"Reshaped(Elementwise({s}, {t}, add), (1, 2))"
    assert written(S + T, limit=3) == f"Elementwise({s}, ..."


def test_rearrangements_cancel_out() -> None:
    x = Source("x", (4, 6), "float64")
    assert permute(permute(x, (1, 0)), (1, 0)) is x
    assert x.reshape(24).reshape(2, 12) == x.reshape(2, 12)
    assert x.reshape(24).reshape(4, 6) is x
    assert take(x, 1, 0, 6) is x
    assert take(take(x, 1, 1, 5), 1, 2, 3) == take(x, 1, 3, 4)
    assert concat([take(x, 1, 0, 2), take(x, 1, 2, 6)], 1) is x
    assert concat([take(x, 1, 2, 6), take(x, 1, 0, 2)], 1) != x
    both = concat([x, -x], 0)
    assert take(both, 0, 0, 4) is x
    assert take(both, 0, 5, 7) == take(-x, 0, 1, 3)
    assert take(both, 0, 3, 5).shape == (2, 6)
    assert take(take(both, 1, 1, 3), 0, 0, 4).shape == (4, 2)
