"""The battery through ``torch.export``: the same folds as in Dynamo's graph, exact in float64.

In the fast suite, each graph comes in by one of three ways: by one of these two, or by ``fold``.
"""

from __future__ import annotations

import pytest
import torch
from battery.conv import Case
from battery.every import CASES
from support import relative, sampled

import bnfx

EXACT = 1e-10
Counts = tuple[int, int, int, int]  # folded, merged, lowered, kept

FOLDED, LOWERED = (1, 0, 0, 0), (0, 0, 1, 0)
# Where ATen's graph is another one.
EXPORTED: dict[str, Counts] = {
    "written-between": FOLDED,  # export reads what mul_ returns, which nobody else does
}
# What torch.export's decompositions take apart into index arithmetic, or make plain.
_INDICES = [f"bn-conv{n}d-{mode}" for n in "123" for mode in ("reflect", "replicate", "circular")]
_INDICES += ["bn-reflect-conv2d", "conv-reflect-bn", "bn-reflect-conv"]
_INDICES += ["conv-bicubic-bn", "bn-bicubic-conv"]
DECOMPOSED: dict[str, Counts] = {
    **dict.fromkeys(_INDICES, LOWERED),
    "written-between": FOLDED,
    "native-batch-norm": FOLDED,
    "bn-conv-source-written": FOLDED,
    "computed-weight-written": FOLDED,
    "instance-norm": LOWERED,  # a BatchNorm of repeated statistics, on another shape
    "weight-standardisation": (0, 0, 1, 1),  # its batch_norm becomes a tuple of three
    "bn-permute-linear": LOWERED,  # the linear layer becomes a bmm with an expanded weight
    "shape-of-folded": FOLDED,  # sizes are numbers: one of the two BatchNorms is dead code
}


def check(case: Case, decomposed: bool, counts: Counts) -> None:
    x = torch.randn(case.shape, dtype=torch.float64)
    case = case.fresh()
    with torch.no_grad():
        program = torch.export.export(case.model, (x,))
        program = program.run_decompositions() if decomposed else program
        expected = case.model(x)
        folded, report = bnfx.fold(program), bnfx.explain(program)
        assert relative(folded.module()(x), expected) < EXACT
    assert tuple(map(report.count, ("folded", "merged", "lowered", "kept"))) == counts
    words = {str(node.target) for node in folded.graph.nodes if node.op == "call_function"}
    assert all(word.startswith(("aten.", "<built-in function getitem")) for word in words), words


@pytest.mark.one_in(6)
@pytest.mark.parametrize("case", sampled(CASES, always=EXPORTED, every=5, first=1))
def test_training_ir(case: Case) -> None:
    usual = (case.folded, case.merged, case.lowered, case.kept)
    check(case, False, EXPORTED.get(case.name, usual))


@pytest.mark.one_in(8)
@pytest.mark.parametrize("case", sampled(CASES, always=DECOMPOSED, every=10, first=2))
def test_decomposed_ir(case: Case) -> None:
    usual = (case.folded, case.merged, case.lowered, case.kept)
    check(case, True, DECOMPOSED.get(case.name, usual))
