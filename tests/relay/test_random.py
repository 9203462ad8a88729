"""Random Relay modules: folded and unfolded in an interpreter, and some of them built."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from graphs import TARGET, relative, run_vm
from seeds import FIRST, FUZZ
from tvm import relay
from tvm_random.relay_writer import random_module, run

from bnfx.tvm.relay import FoldBatchNorm

COUNT = FUZZ or 40


def test_folded_is_unfolded() -> None:
    folded = 0
    for seed in range(FIRST, FIRST + COUNT):
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
        ours, theirs = run(result, x), run(module, x)
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        assert error < 1e-9, f"seed {seed}: {error}\n{report}"
        folded += report.count("folded")
    assert folded >= COUNT // 2, "too little was folded"


@pytest.mark.heavy
def test_the_interpreter_is_tvm() -> None:
    """What TVM builds, folded, is what the interpreter says of the unfolded module."""
    built = 0
    for seed in range(12):
        module, shape, _ = random_module(seed)
        x = np.random.default_rng(seed).normal(size=shape)
        try:
            with tvm.transform.PassContext(opt_level=1):
                relay.vm.compile(module, TARGET)
        except Exception:  # TVM has no schedule for every layout
            continue
        with tvm.transform.PassContext(opt_level=1):
            ours = run_vm(relay.vm.compile(FoldBatchNorm()(module), TARGET), {"x": x})
        assert relative(ours, [run(module, x)]) < 1e-9, f"seed {seed}"
        built += 1
        if built == 5:
            return
    raise AssertionError(f"TVM builds {built} of the modules")
