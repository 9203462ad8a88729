"""What holds of networks in two writings, in each IR: one answer, and as few ops left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from seeds import FIRST, FUZZ

from tvm_random.equivalents import LINEAR, NORM, SHAPES, left

COUNT = FUZZ or 8
SOME = [(linear, norm) for linear in LINEAR for norm in NORM if "plain" in (linear, norm)]
OTHERS = [(linear, norm) for linear in LINEAR for norm in NORM if "plain" not in (linear, norm)]


def check_networks(ir: Any, fold_batch_norm: Callable[[], Any]) -> None:
    """Random networks of ``ir``, the module of a writer, and the same in another writing."""
    folded = 0
    for seed in range(FIRST, FIRST + COUNT):
        module, shape, _ = ir.random_module(seed)
        other, _, _ = ir.random_module(seed, ir.Equivalent(seed, other=seed))
        x = np.random.default_rng(seed).normal(size=shape)
        theirs = ir.run(module, x.copy())
        size = max(float(np.abs(theirs).max()), 1.0)
        again = ir.run(other, x.copy())
        assert np.abs(again - theirs).max() < 1e-10 * size, "the generator is wrong"
        fold = fold_batch_norm()
        ours = ir.run(fold(other), x.copy())
        assert np.abs(ours - theirs).max() < 1e-9 * size, f"seed {seed}\n{fold.report}"
        assert fold.report is not None
        folded += fold.report.count("folded")
    assert folded >= COUNT // 3, "too little was folded"


def check_pair(
    ir: Any, module: Any, folded: Any, kind: str, ways: tuple[str, str], ops: Mapping[str, int]
) -> None:
    """A layer and its BatchNorm, written in these ways: ``ops`` are those of ``folded``."""
    x = np.random.default_rng(1).normal(size=SHAPES[kind])
    assert np.abs(ir.run(folded, x) - ir.run(module, x)).max() < 1e-13
    assert sum(ops.values()) == left(*ways), ops
