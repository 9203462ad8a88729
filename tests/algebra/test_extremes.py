"""The quick look at folded weights: it may only ever say yes where the thorough one would."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from bnfx.passes.algebra.expressions.extremes import stores_plainly

SMALLEST = float(np.finfo(np.float32).smallest_normal)
LARGEST = float(np.finfo(np.float32).max)

CASES = {
    "ordinary": ([1.0, -2.0], True),
    "a zero": ([0.0, -2.0], True),
    "nothing but zeros": ([0.0, -0.0], True),
    "the smallest normal number": ([-SMALLEST, 1.0], True),
    "a subnormal number": ([SMALLEST / 2, 1.0], False),
    "a zero, and a subnormal number": ([0.0, -SMALLEST / 2], False),
    "a number that becomes zero": ([1e-60, 1.0], False),
    "a zero, and a number that becomes zero": ([0.0, -1e-60, 1.0], False),
    "the largest number": ([0.0, -LARGEST], True),
    "an overflow": ([1e39, 1.0], False),
    "infinity": ([0.0, -math.inf], False),
    "NaN": ([0.0, math.nan, 1.0], False),
}


@pytest.mark.parametrize("library", [np, torch], ids=["numpy", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_float32(case: str, library: Any) -> None:
    numbers, plain = CASES[case]
    exact: Any = np.array(numbers) if library is np else torch.tensor(numbers, dtype=torch.float64)
    with np.errstate(all="ignore"):
        stored = exact.astype(np.float32) if library is np else exact.float()
    assert stores_plainly(exact, stored, ("float32",)) is plain


def test_every_dtype_counts() -> None:
    exact = torch.tensor([1e5, 1.0], dtype=torch.float64)
    assert stores_plainly(exact, exact.float(), ("float32", "bfloat16"))
    assert not stores_plainly(exact, exact.float(), ("float32", "float16"))
