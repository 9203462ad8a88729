"""Small graphs through both ways in: each exact in float64, or refused with the right code.

The cases stand in ``tests/battery``.
"""

from __future__ import annotations

import copy

import pytest
import torch
from battery.conv import Case
from battery.every import CASES
from support import Capture, count_batch_norms, relative, sampled
from torch import fx

import bnfx

EXACT = 1e-10


def test_the_battery_is_large_and_names_are_unique() -> None:
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)


def _check(case: Case, report: bnfx.Report, left: int) -> None:
    expected = {
        "folded": case.folded,
        "merged": case.merged,
        "lowered": case.lowered,
        "kept": case.kept,
    }
    assert {name: report.count(name) for name in expected} == expected
    norms = [verdict for verdict in report.verdicts if verdict.site.kind == "batch_norm"]
    codes = {refusal.code for verdict in norms for refusal in verdict.refusals}
    assert codes == set(case.codes)
    assert left == case.left
    assert report.rewrites.keys() >= set(case.rules)


def _ops(module: fx.GraphModule) -> int:
    """Ops that compute something; not the checks of inputs that ``fold`` adds."""
    checks: set[fx.Node] = set()
    for node in reversed(module.graph.nodes):
        name = getattr(node.target, "__name__", str(node.target))
        if name == "_assert" or (node.users and checks.issuperset(node.users)):
            checks.add(node)
    calls = (node for node in module.graph.nodes if node.op.startswith("call_"))
    return sum(node not in checks for node in calls)


every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.mark.one_in(8)
@every_case
def test_backend_is_exact(case: Case) -> None:
    case = case.fresh()
    x = torch.randn(case.shape, dtype=torch.float64)
    capture = Capture()
    expected = case.model(x)
    compiled = torch.compile(case.model, backend="bnfx", options=capture.options)
    with torch.no_grad():
        assert relative(compiled(x), expected) < EXACT
    (report,) = capture.reports
    _check(case, report, capture.batch_norms())
    if case.ops is not None:
        assert _ops(capture.graphs[0]) == case.ops


@pytest.mark.one_in(3)
@pytest.mark.parametrize("case", sampled(CASES, every=8))
def test_fold_is_exact(case: Case) -> None:
    case = case.fresh()
    x = torch.randn(case.shape, dtype=torch.float64)
    before = copy.deepcopy(case.model.state_dict())
    folded = bnfx.fold(case.model, x, keep="graph")
    with torch.no_grad():
        assert relative(folded(x), case.model(x)) < EXACT
    assert count_batch_norms(folded) == case.left
    if case.ops is not None:  # a border fits one size, and what fold returns takes any
        assert _ops(folded) == case.ops + case.border
    for name, tensor in case.model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("case", sampled(CASES, every=12, first=2))
def test_explain_says_the_same(case: Case) -> None:
    case = case.fresh()
    x = torch.randn(case.shape, dtype=torch.float64)
    _check(case, bnfx.explain(case.model, x), case.left)
