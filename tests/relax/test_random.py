"""Random Relax modules in an interpreter: writes, views, dead code, branches, functions."""

from __future__ import annotations

import numpy as np
import pytest
from seeds import FIRST, FUZZ
from tvm_random.relax_writer import random_module, run

from bnfx.tvm.relax import FoldBatchNorm

COUNT = FUZZ or 100


@pytest.mark.parametrize("block", range(4))
def test_folded_is_unfolded(block: int) -> None:
    folded = 0
    for seed in range(FIRST + block, FIRST + COUNT, 4):
        module, shape, norms = random_module(seed)
        x = np.random.default_rng(seed).normal(size=shape)
        fold = FoldBatchNorm()
        result = fold(module)
        report = fold.report
        assert report is not None
        verdicts = [v for v in report.verdicts if v.site.kind == "batch_norm"]
        assert len(verdicts) == norms, f"seed {seed}: not one verdict each"
        names = [verdict.site.name for verdict in report.verdicts]
        assert len(set(names)) == len(names), f"seed {seed}: {names}"
        assert not any(graph.notes for graph in report.graphs), f"seed {seed}"
        ours, theirs = run(result, x.copy()), run(module, x.copy())
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        assert error < 1e-9, f"seed {seed}: {error}\n{report}"
        folded += report.count("folded")
    assert folded, "nothing was folded"
