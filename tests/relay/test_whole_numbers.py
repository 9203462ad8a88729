"""The battery with whole numbers, without tolerance: folded modules answer to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from graphs import Case, Expr, Make, count, inputs_of, relative, tensor
from op_counts import CASES
from test_battery import as_bnfx_builds_it, as_it_is, flat, interpreted
from tvm_random import relay_writer as interpreter

from bnfx.tvm.relay import FoldBatchNorm


class Whole(Make):
    """Constants are small integers or powers of two, and ``var + eps`` is a power of four."""

    def constant(self, *shape: int, low: float = -1.0, high: float = 1.0) -> Expr:
        if low < 0:
            return tensor(self.random.integers(-3, 4, shape).astype(self.dtype))
        return tensor(2.0 ** self.random.integers(-1, 3, shape).astype(self.dtype))

    def batch_norm_call(
        self, x: Expr, channels: int, positive: bool = False, **options: Any
    ) -> Any:
        # Not the default, of which TVM's own builds make float32 and back.
        options.setdefault("epsilon", 2.0**-6)
        return super().batch_norm_call(x, channels, positive, **options)

    def variance(self, channels: int, eps: float) -> Expr:
        return tensor(4.0 ** self.random.integers(-1, 3, channels) - eps)


# Where a right answer rounds, whole numbers or not.
ROUNDS = {
    "bn-relu-conv": "a variance of its own",
    "by-hand": "a root of a variance of its own",
    "behind-mean": "a mean of 42 positions",
    "behind-mean-dropped": "a mean of 42 positions",
    "concat-dead-arm": "the logistic function of the input, then a map",
}
# What NumPy's interpreter does not know, and a build cannot show.
NOT_BUILT = {
    "behind-global-avg": "a mean of 42 positions",
    "behind-max-dilated-past-the-input": "one number everywhere",
}
EXACT = [case for case in CASES if case.dtype == "float64" and case.name not in ROUNDS]


def whole_inputs(module: tvm.IRModule) -> dict[str, Any]:
    random = np.random.default_rng(1)
    return {
        name: random.integers(-4, 5, x.shape).astype(x.dtype)
        for name, x in inputs_of(module).items()
    }


def assert_equal(mine: list[Any], theirs: list[Any]) -> None:
    assert any(np.std(array) > 0 for array in theirs), "a constant answer proves nothing"
    for one, other in zip(mine, theirs, strict=True):
        assert np.isfinite(other).all()
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert np.array_equal(one, other)


@pytest.mark.parametrize("case", filter(interpreted, EXACT), ids=lambda case: case.name)
def test_to_the_last_bit(case: Case) -> None:
    """In NumPy, in which a case takes 0.03 s."""
    module = case.module(Whole)
    inputs = whole_inputs(module)
    ours = flat(interpreter.run(FoldBatchNorm()(module), *inputs.values()))
    assert_equal(ours, as_it_is(case, module, inputs))


@pytest.mark.parametrize("name", ROUNDS)
def test_what_rounds_is_right_but_for_that(name: str) -> None:
    """So none is excused that no longer rounds, or that is wrong."""
    case = next(case for case in CASES if case.name == name)
    module = case.module(Whole)
    inputs = whole_inputs(module)
    ours = flat(interpreter.run(FoldBatchNorm()(module), *inputs.values()))
    assert 0 < relative(ours, as_it_is(case, module, inputs)) < 1e-14


@pytest.mark.heavy
@pytest.mark.parametrize(
    "case", [c for c in EXACT if c.name not in NOT_BUILT], ids=lambda case: case.name
)
def test_built_to_the_last_bit(case: Case) -> None:
    module = case.module(Whole)
    inputs = whole_inputs(module)
    mine, theirs = as_bnfx_builds_it(case, module, inputs), as_it_is(case, module, inputs)
    if count(module)["sigmoid"]:  # TVM approximates it, and otherwise where it is vectorised
        assert relative(mine, theirs) < 1e-12
    else:
        assert_equal(mine, theirs)
