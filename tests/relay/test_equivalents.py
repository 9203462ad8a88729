"""Networks in two writings: one answer, and as few ops left."""

from __future__ import annotations

import os

import numpy as np
import pytest
from graphs import count
from tvm_random.equivalents import LINEAR, NORM, SHAPES, left
from tvm_random.relay_writer import Equivalent, random_module, run, written

from bnfx.tvm.relay import FoldBatchNorm

COUNT = int(os.environ.get("BNFX_FUZZ", "8"))


def test_rewritten_networks_answer_alike() -> None:
    folded = 0
    for seed in range(COUNT):
        module, shape, _ = random_module(seed)
        other, _, _ = random_module(seed, Equivalent(seed, other=seed))
        x = np.random.default_rng(seed).normal(size=shape)
        theirs = run(module, x.copy())
        size = max(float(np.abs(theirs).max()), 1.0)
        assert np.abs(run(other, x.copy()) - theirs).max() < 1e-10 * size, "the generator is wrong"
        fold = FoldBatchNorm()
        ours = run(fold(other), x.copy())
        assert np.abs(ours - theirs).max() < 1e-9 * size, f"seed {seed}\n{fold.report}"
        assert fold.report is not None
        folded += fold.report.count("folded")
    assert folded >= COUNT // 3, "too little was folded"


SOME = [(linear, norm) for linear in LINEAR for norm in NORM if "plain" in (linear, norm)]
OTHERS = [(linear, norm) for linear in LINEAR for norm in NORM if "plain" not in (linear, norm)]


def _check(kind: str, linear: str, norm: str) -> None:
    writer = Equivalent(7)
    module = written(SHAPES[kind], lambda x: writer.pair(x, kind, linear, norm))
    x = np.random.default_rng(1).normal(size=SHAPES[kind])
    folded = FoldBatchNorm()(module)
    assert np.abs(run(folded, x) - run(module, x)).max() < 1e-13
    assert sum(count(folded).values()) == left(linear, norm), count(folded)


@pytest.mark.parametrize("kind", SHAPES)
def test_as_few_ops_are_left(kind: str) -> None:
    for linear, norm in SOME:
        _check(kind, linear, norm)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHAPES)
def test_as_few_ops_are_left_where_both_are_rewritten(kind: str) -> None:
    for linear, norm in OTHERS:
        _check(kind, linear, norm)
