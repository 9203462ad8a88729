"""Small graphs through the pass: each equal to the unfolded build, and never more ops."""

from __future__ import annotations

import re
from typing import Any

import op_counts
import pytest
import tvm
from graphs import TARGET, Case, affine_ops, count, inputs_of, optimised, relative, run, run_vm
from tvm import relay
from tvm_random import relay_writer as interpreter

import bnfx.tvm
from bnfx.tvm.relay import FoldBatchNorm

CASES = op_counts.CASES
ROW = re.compile(r"^\| (\S+) \| (\d+) \| (\d+) \|$", re.MULTILINE)
OP_COUNTS = {
    name: (int(tvm), int(ours)) for name, tvm, ours in ROW.findall(op_counts.PAGE.read_text())
}
# float64 and float32 as the product promises; float16 keeps 11 bits, and each op rounds.
BOUNDS = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2}


def test_the_battery_is_large_and_names_are_unique() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@tvm.instrument.pass_instrument
class Optimised:
    """The graph that a build makes kernels of; optimising once more takes as long as the build."""

    module: tvm.IRModule

    def run_after_pass(self, module: tvm.IRModule, info: tvm.transform.PassInfo) -> None:
        if info.name == "FuseOps":
            self.module = module


def listed(case: Case) -> tuple[int, int]:
    """Affine ops that TVM's own pipeline leaves, and bnfx, as the page has them."""
    return OP_COUNTS[case.name]


@pytest.mark.heavy
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tvm_leaves_what_the_page_says(case: Case) -> None:
    assert affine_ops(optimised(case.module())) == listed(case)[0], "run `make docs-relay`"


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
    assert case.left <= listed(case)[0]
    assert case.left == listed(case)[1], "run `make docs-relay`"

    if interpreted(case):
        inputs = inputs_of(module).values()
        ours, theirs = (flat(interpreter.run(one, *inputs)) for one in (folded, module))
        assert relative(ours, theirs) < BOUNDS[case.dtype]


def interpreted(case: Case) -> bool:
    """Whether NumPy shows what a build would: TVM's own part in it is shown by a few."""
    return case.executor == "graph" and interpreter.knows(case.module())


def flat(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]


def as_it_is(
    case: Case, module: tvm.IRModule, inputs: dict[str, Any], target: str = TARGET
) -> list[Any]:
    """What a module computes without bnfx, and without rewrites of TVM's, which may be wrong."""
    if interpreted(case):
        return flat(interpreter.run(module, *inputs.values()))
    with tvm.transform.PassContext(opt_level=1 if case.executor == "vm" else 0):
        if case.executor == "vm":
            return run_vm(relay.vm.compile(module, target), inputs)
        return run(relay.build(module, target), inputs)


def as_bnfx_builds_it(
    case: Case, module: tvm.IRModule, inputs: dict[str, Any], target: str = TARGET
) -> list[Any]:
    if case.executor == "vm":
        return run_vm(bnfx.tvm.build(module, target, executor="vm"), inputs)
    return run(bnfx.tvm.build(module, target), inputs)


def _marks(at: int, case: Case) -> Any:
    return () if at % 4 == 0 or not interpreted(case) else pytest.mark.heavy


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=_marks(at, c)) for at, c in enumerate(CASES)]
)
def test_built_is_unfolded(case: Case) -> None:
    """In a build as well, and TVM's passes leave as many ops as the page says."""
    module = case.module()
    inputs = inputs_of(module)
    target = f"{TARGET} -opt-level=0"  # of LLVM: built in half the time
    theirs = as_it_is(case, module, inputs, target)
    last = Optimised()
    with tvm.transform.PassContext(opt_level=3, instruments=[last]):
        mine = as_bnfx_builds_it(case, module, inputs, target)
    graph = case.executor == "graph"
    last_one = last.module if graph else optimised(FoldBatchNorm()(module))
    assert affine_ops(last_one) == case.left
    assert relative(mine, theirs) < BOUNDS[case.dtype]
