"""Small graphs through the pass: each equal to the unfolded build, and never more ops."""

from __future__ import annotations

import op_counts
import pytest
import tvm
from graphs import TARGET, Case, affine_ops, count, inputs_of, optimised, relative, run, run_vm
from tvm import relay

import bnfx.tvm
from bnfx.tvm.relay import FoldBatchNorm

CASES = op_counts.CASES
OP_COUNTS = op_counts.PAGE.read_text().splitlines()
# float64 and float32 as the product promises; float16 keeps 11 bits, and each op rounds.
BOUNDS = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2}


def test_the_battery_is_large_and_names_are_unique() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_folded_is_unfolded(case: Case) -> None:
    module = case.module()
    before = tvm.ir.structural_hash(module)
    fold = FoldBatchNorm()
    folded = fold(module)
    report = fold.report
    assert report is not None
    assert tvm.ir.structural_hash(module) == before, "the argument was changed"

    expected = {name: getattr(case, name) for name in ("folded", "lowered", "kept", "merged")}
    assert {name: report.count(name) for name in expected} == expected, str(report)
    codes = {
        refusal.code
        for verdict in report.verdicts
        for refusal in verdict.refusals
        if verdict.site.kind == "batch_norm"
    }
    assert codes == set(case.codes)
    assert count(folded)["nn.batch_norm"] == case.kept

    if not case.lowered:  # the halves of a multiply-add may go further than the whole
        assert tvm.ir.structural_equal(FoldBatchNorm()(folded), folded), "not idempotent"
    ours, default = affine_ops(optimised(folded)), affine_ops(optimised(module))
    assert ours == case.left
    assert ours <= default
    assert op_counts.row(case.name, default, ours) in OP_COUNTS, "run `make docs-relay`"

    inputs = inputs_of(module)
    plain = 1 if case.executor == "vm" else 0  # no rewrite of TVM's, which may be wrong
    with tvm.transform.PassContext(opt_level=plain):
        if case.executor == "vm":
            theirs = run_vm(relay.vm.compile(module, TARGET), inputs)
        else:
            theirs = run(relay.build(module, TARGET), inputs)
    with tvm.transform.PassContext(opt_level=3):
        if case.executor == "vm":
            mine = run_vm(bnfx.tvm.build(module, TARGET, executor="vm"), inputs)
        else:
            mine = run(bnfx.tvm.build(module, TARGET), inputs)
    assert relative(mine, theirs) < BOUNDS[case.dtype]
