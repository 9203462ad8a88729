"""Convolutions beside BatchNorm, without tolerance: folded builds answer to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from relax import cases_conv, cases_next
from relax.graphs import Case, Expr, Make, inputs_of, outputs, unfolded
from relax.test_battery import TARGET
from support import sampled
from tvm import relax

import bnfx.tvm
from bnfx.passes.relax.compat import constant
from bnfx.tvm.relax import FoldBatchNorm


class Whole(Make):
    """Constants are small integers or powers of two, and ``var + eps`` is a power of four."""

    def constant(self, *shape: int, low: float = -1.0, high: float = 1.0) -> Expr:
        if low < 0:
            return constant(self.random.integers(-3, 4, shape).astype(self.dtype))
        return constant(2.0 ** self.random.integers(-1, 3, shape).astype(self.dtype))

    def variance(self, channels: int, eps: float) -> Expr:
        return constant(4.0 ** self.random.integers(-1, 3, channels) - eps)


# Where a right answer rounds: they make statistics of their own.
ROUNDS = frozenset({"zero-gamma", "by-hand", "by-hand-reshaped"})
CASES: list[Case] = [*cases_conv.CASES, *cases_next.CASES]
EXACT = [c for c in CASES if c.runs and c.dtype == "float64" and c.name not in ROUNDS]


def differs(case: Case) -> float:
    """The largest difference between the folded build and the other."""
    module = case.module(Whole)
    random = np.random.default_rng(1)
    inputs = [
        random.integers(-4, 5, x.shape).astype(x.dtype) if x.dtype.kind == "f" else x
        for x in inputs_of(module)
    ]
    theirs = outputs(unfolded(module), inputs)
    folded = relax.transform.LambdaLift()(FoldBatchNorm()(module))
    ours = outputs(bnfx.tvm.build(folded, TARGET), inputs)
    assert any(np.std(array) > 0 for array in theirs), "a constant answer proves nothing"
    assert [array.shape for array in ours] == [array.shape for array in theirs]
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("case", sampled(EXACT, every=12))
def test_to_the_last_bit(case: Case) -> None:
    assert differs(case) == 0
