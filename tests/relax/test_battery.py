"""Small graphs through the pass: each equal to the unfolded build, with stated op counts."""

from __future__ import annotations

import pytest
from relax import cases_conv, cases_merge, cases_move, cases_next, cases_structure
from relax.graphs import Case, affine_ops, count, inputs_of, outputs, relative, same, unfolded
from support import sampled
from tvm import relax
from tvm.target import Target

import bnfx.tvm
from bnfx.tvm.relax import FoldBatchNorm

# LLVM's own optimisations take three quarters of a build, and prove nothing of the fold.
TARGET = Target({"kind": "llvm", "opt-level": 0})
GROUPS = (cases_conv, cases_next, cases_move, cases_merge, cases_structure)
CASES: list[Case] = [case for group in GROUPS for case in group.CASES]
# float64 and float32 as the product promises; float16 keeps 11 bits, and each op rounds.
BOUNDS = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2}


def test_the_battery_is_large_and_names_are_unique() -> None:
    assert len(CASES) >= 120
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_folds_as_stated(case: Case) -> None:
    module = case.module()
    before = case.module()
    fold = FoldBatchNorm()
    folded = fold(module)
    report = fold.report
    assert report is not None
    assert same(module, before), "the argument was changed"

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
    assert affine_ops(folded) == case.left
    again = FoldBatchNorm()(folded)
    if case.lowered:  # a multiply-add is two ops by now, and one may go where both may not
        assert affine_ops(again) <= affine_ops(folded)
    else:
        assert same(again, folded), "not idempotent"


@pytest.mark.one_in(2)
# In the fast suite, TVM builds some; all go through the same rules as PyTorch's, which run whole.
@pytest.mark.parametrize("case", sampled([case for case in CASES if case.runs], every=3))
def test_folded_is_unfolded(case: Case) -> None:
    module = case.module()
    folded = FoldBatchNorm()(module)
    inputs = inputs_of(module)
    theirs = outputs(unfolded(module), inputs)
    if case.dtype == "float16":  # TVM computes its batch_norm in float32, and returns that
        theirs = [array.astype("float16") for array in theirs]
    lifted = relax.transform.LambdaLift()(folded)
    mine = outputs(bnfx.tvm.build(lifted, TARGET), inputs)
    assert relative(mine, theirs) < BOUNDS[case.dtype]
