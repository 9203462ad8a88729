"""Measures one model of the zoo: whether the answer is right, and what became of everything.

A model is compiled with bnfx and an inner compiler that runs the graph as it is, so what differs
from the model itself differs by bnfx. Every graph is counted as Dynamo captured it, before bnfx
sees it, and as bnfx hands it on, whatever the report says; the report is held against the counts.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from bnfx.backend import bnfx
from bnfx.bench.zoo.random_norms import randomise
from bnfx.bench.zoo.row import Counts, Outcomes, ZooRow
from bnfx.folding.verify import relative_error
from bnfx.passes.report import Outcome, RewriteWarning
from bnfx.report import Report

# Relative: room for rounding only.
MAX_ERROR = {"float64": 1e-10, "float32": 1e-4}
# Share of the answer that must change when the picture is mirrored; below it, a right answer proves
# nothing.
MIN_SENSITIVITY = {"float64": 1e-6, "float32": 1e-2}
KINDS = ("batch_norm", "affine")

Inner = Callable[[fx.GraphModule, Sequence[Any]], Callable[..., Any]]


def as_it_is(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """The inner compiler that compiles nothing."""
    return module.forward


class _Watch:
    """A backend that counts each graph on its way into bnfx, and on its way out."""

    def __init__(self, inner: Inner) -> None:
        self.before: list[Counts] = []
        self.after: list[Counts] = []
        self.reports: list[Report] = []
        self._inner = inner

    def __call__(self, module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        self.before.append(Counts.of(module))
        options = {"inner": self._count, "report": self.reports.append}
        return bnfx(module, example_inputs, options=options)

    def _count(self, module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        self.after.append(Counts.of(module))
        return self._inner(module, example_inputs)


def measure(name: str, model: nn.Module, x: torch.Tensor, *, inner: Inner = as_it_is) -> ZooRow:
    """Randomise ``model``, compile it with bnfx, and compare with the model itself.

    Args:
        name: what the row calls it.
        model: in evaluation mode, of the dtype of ``x``; its BatchNorms are overwritten.
        x: its input.
        inner: the compiler that bnfx hands the graph to.
    """
    start = time.perf_counter()
    watch = _Watch(inner)
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        randomise(model, x)
        expected = model(x.clone())
        sensitivity = relative_error(model(x.flip(-1)), expected)
        actual = torch.compile(model, backend=watch, dynamic=False)(x.clone())
    error = relative_error(actual, expected)
    dtype = str(x.dtype).removeprefix("torch.")
    report = Report.merge(watch.reports)
    before, after = sum(watch.before, Counts()), sum(watch.after, Counts())
    problems = [
        *(str(w.message) for w in caught if issubclass(w.category, RewriteWarning)),
        *_wrong_answers(expected, error, sensitivity, dtype),
        *_wrong_counts(watch, report, before, after),
        *_without_reason(report),
    ]
    refusals, reasons = _refusals(report)
    return ZooRow(
        model=name,
        shape=tuple(x.shape),
        dtype=dtype,
        graphs=len(watch.before),
        batch_norms=_outcomes(report, "batch_norm"),
        affines=_outcomes(report, "affine"),
        before=before,
        after=after,
        error=error,
        rewrites=report.rewrites,
        refusals=refusals,
        reasons=reasons,
        seconds=time.perf_counter() - start,
        problems=tuple(problems),
    )


def _outcomes(report: Report, kind: str) -> Outcomes:
    names = [field.name for field in fields(Outcomes)]
    return Outcomes(**{name: report.count(name, kind) for name in names})


def _refusals(report: Report) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    reasons: dict[str, str] = {}
    for verdict in report.verdicts:
        for refusal in verdict.refusals:
            counts[verdict.site.kind][refusal.code.value] += 1
            reasons.setdefault(refusal.code.value, refusal.reason)
    return {kind: dict(count.most_common()) for kind, count in counts.items()}, reasons


def _wrong_answers(expected: Any, error: float, sensitivity: float, dtype: str) -> list[str]:
    problems = []
    outputs = [leaf for leaf in pytree.tree_leaves(expected) if isinstance(leaf, torch.Tensor)]
    if not all(torch.isfinite(output).all() for output in outputs):
        problems.append("the model's own answer is not finite")
    if not error <= MAX_ERROR[dtype]:
        problems.append(f"the {dtype} error {error:.1e} is above {MAX_ERROR[dtype]:.0e}")
    if not sensitivity >= MIN_SENSITIVITY[dtype]:
        problems.append(f"the answer hardly depends on the picture ({sensitivity:.1e})")
    return problems


def _wrong_counts(watch: _Watch, report: Report, before: Counts, after: Counts) -> list[str]:
    """Where the report disagrees with the graphs, or a graph was compiled again or grew."""
    norms = _outcomes(report, "batch_norm")
    compared = (
        ("graphs", len(watch.reports), len(watch.before)),
        ("graphs", len(watch.reports), len(watch.after)),
        ("BatchNorms", norms.total, before.batch_norms),
        ("kept BatchNorms", norms.kept, after.batch_norms),
    )
    problems = [
        f"the report says {said} {what}, there are {found}"
        for what, said, found in compared
        if said != found
    ]
    # A BatchNorm is one op, the multiply-add that it becomes two.
    if after.ops > before.ops + norms.lowered:
        problems.append(f"the graph grew from {before.ops} to {after.ops} ops")
    return problems


def _without_reason(report: Report) -> list[str]:
    return [
        f"{verdict.site.name} was {verdict.outcome.value} without a reason"
        for verdict in report.verdicts
        if verdict.outcome in (Outcome.LOWERED, Outcome.KEPT) and not verdict.refusals
    ]
