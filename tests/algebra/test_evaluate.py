"""Evaluation: one answer on every array library, in float64, in linear time."""

from __future__ import annotations

import time
import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal, assert_array_max_ulp

from bnfx.passes.algebra import ChannelAffine, Evaluator, Expression, Scalar, Source
from bnfx.passes.algebra.expressions.expression import Ones
from bnfx.passes.values import Values

NAMES = ("mean", "var", "gamma", "beta")


def chain(length: int) -> Expression:
    """A scale composed ``length`` times, alternately doubled and halved."""
    expression: Expression = Source("x", (2,), "float64")
    for step in range(length):
        expression = expression * (2.0, 0.5)[step % 2]
    return expression


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(["float16", "float32", "float64"]))
def test_numpy_and_torch_agree(seed: int, dtype: str) -> None:
    random = np.random.default_rng(seed)
    arrays = {name: random.uniform(0.1, 3, 4).astype(dtype) for name in NAMES}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    mean, var, gamma, beta = (Source(name, (4,), dtype) for name in NAMES)
    rational = ((gamma * -mean / var + beta) * Ones((2, 4)) - 0.3).reshape(4, 2)

    def both(expression: Expression) -> tuple[Any, Any]:
        by_numpy = Evaluator(lambda source: arrays[source.name], arrays["mean"])(expression)
        by_torch = Evaluator(lambda source: tensors[source.name], tensors["mean"])(expression)
        assert by_numpy.dtype == np.float64
        assert by_torch.dtype == torch.float64
        return by_numpy, by_torch.numpy()

    assert_array_equal(*both(rational))
    assert_array_max_ulp(*both((var + 1e-5).sqrt()), maxulp=1)  # torch's root may be one off


def test_arithmetic_is_in_float64_and_rounds_once() -> None:
    values = {"a": np.float16([1.0]), "b": np.float16([2.0**-11])}
    a, b = (Source(name, (1,), "float16") for name in values)
    # In float16 arithmetic, 1 + 2**-11 is 1, and the difference 0.
    difference = (a + b) - a
    stored = Values(lambda source: values[source.name], values["a"]).stored(difference, "float16")
    assert stored.dtype == np.float16
    assert stored == 2.0**-11


def test_the_computing_dtype_can_be_float32() -> None:
    values = {"a": np.float64([1.0]), "b": np.float64([2.0**-30])}
    a, b = (Source(name, (1,), "float64") for name in values)
    result = Evaluator(lambda source: values[source.name], values["a"], dtype="float32")(a + b)
    assert result.dtype == np.float32
    assert result == 1.0


def test_bfloat16_is_read_and_stored() -> None:
    tensor = torch.tensor([3.0, -0.1], dtype=torch.bfloat16)
    source = Source("a", (2,), "bfloat16")
    stored = Values(lambda _: tensor, tensor).stored(source * 0.7, "bfloat16")
    assert torch.equal(stored, (tensor.double() * 0.7).bfloat16())


def test_a_constant_takes_dtype_and_library_of_like() -> None:
    evaluate = Evaluator(lambda source: pytest.fail("nothing to read"), torch.zeros(1))
    result = evaluate(Scalar(3.0) * Ones((2,)))
    assert torch.equal(result, torch.tensor([3.0, 3.0], dtype=torch.float64))


def test_an_equal_expression_is_computed_once() -> None:
    reads: Counter[str] = Counter()

    def read(source: Source) -> Any:
        reads[source.name] += 1
        return np.ones(2)

    evaluate = Evaluator(read, np.ones(2))
    first = evaluate(Source("x", (2,), "float64") + 1)
    again = evaluate(Source("x", (2,), "float64") + 1)
    assert again is first
    assert reads == {"x": 1}


def test_shared_parts_are_not_unfolded() -> None:
    expression: Expression = Source("x", (2,), "float64")
    for _ in range(60):  # 2**60 paths
        expression = expression + expression
    assert_array_equal(Evaluator(lambda _: np.ones(2), np.ones(2))(expression), [2.0**60] * 2)


@pytest.mark.parametrize("length", [2000, 20_000])
def test_a_deep_chain_is_evaluated_without_recursion(length: int) -> None:
    x = np.array([1.0, -3.0])
    assert_array_equal(Evaluator(lambda _: x, x)(chain(length)), x)


def test_a_deep_chain_names_its_sources_and_hashes() -> None:
    expression = chain(2000)
    assert [source.name for source in expression.sources()] == ["x"]
    assert hash(expression) == hash(chain(2000))


@pytest.mark.slow
def test_a_deep_chain_of_maps_takes_linear_time() -> None:
    step = ChannelAffine(Source("a", (2,), "float64"), Source("b", (2,), "float64"))
    affine = ChannelAffine.identity()
    for _ in range(20_000):
        affine = step @ affine
    arrays = {"a": np.array([-1.0, 1.0]), "b": np.array([0.0, 1.0])}
    start = time.process_time()
    shift = Evaluator(lambda source: arrays[source.name], arrays["a"])(affine.shift)
    assert_array_equal(shift, [0.0, 20_000.0])
    assert time.process_time() - start < 20  # linear: 0.5 s; quadratic: several minutes


def test_what_the_ir_computes_is_read_and_not_what_it_is_computed_from() -> None:
    reads: list[str] = []

    def read(source: Source) -> Any:
        reads.append(source.name)
        return np.ones(2)

    computed = Source("computed", (2,), "float64", (Source("base", (2,), "float64"),))
    Evaluator(read, np.ones(2))(computed * 2.0)
    assert reads == ["computed"]


def test_a_source_in_the_computing_dtype_is_not_copied() -> None:
    x = np.ones(2)
    assert np.shares_memory(Evaluator(lambda _: x, x)(Source("x", (2,), "float64")), x)


def test_a_large_value_is_let_go_before_one_that_does_not_build_on_it() -> None:
    """So that there is never room for two."""
    a, b = (Source(name, (3, 3), "float64") for name in "ab")
    last: list[Any] = []
    alive: list[bool] = []

    def read(source: Source) -> Any:
        alive.extend(each() is not None for each in last)
        return np.ones((3, 3))

    evaluate = Evaluator(read, np.zeros(()), keeps=4)
    last.append(weakref.ref(evaluate(a + b)))
    assert_array_equal(evaluate(-(a + b + 1.0)), np.full((3, 3), -3.0))
    assert alive == [], "it was built on, two steps away"
    last[:] = [weakref.ref(evaluate(a * b))]
    evaluate(b - a)
    assert alive[-2:] == [False, False]


def test_an_expression_that_is_not_known_is_named() -> None:
    class Other(Expression):
        shape = (2,)

    with pytest.raises(TypeError, match="no evaluation is defined for Other"):
        Evaluator(lambda _: pytest.fail("nothing to read"), np.zeros(()))(Other())
