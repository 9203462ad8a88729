"""In which form a folded module comes back, and what is said about it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from bnfx.errors import CaptureError, FoldWarning
from bnfx.folding.capture import copied, trace
from bnfx.folding.graph_form import fold_graph
from bnfx.folding.modules.same_class import SameClass, fold_modules, graph_only
from bnfx.passes.fx.rewrite import survey_shapeless
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import GraphReport, Outcome, Verdict
from bnfx.passes.rules.rule import Rule
from bnfx.passes.user_warnings import warn
from bnfx.report.wording import counted

_SHOWN = 3  # reasons in a warning


def fold_kept(
    model: nn.Module, inputs: Sequence[Any], rules: Sequence[Rule], keep: str
) -> nn.Module:
    """The folded model in the form asked for.

    Args:
        model: in evaluation mode.
        inputs: examples, for shapes.
        rules: those to apply.
        keep: ``"module"``, ``"graph"`` or ``"auto"``.

    Raises:
        CaptureError: if it cannot be traced or copied.
    """
    folded, report = _fold(model, inputs, rules, keep)
    if report is not None and not inputs:
        _warn_of_ranks(report)
    return folded


def _fold(
    model: nn.Module, inputs: Sequence[Any], rules: Sequence[Rule], keep: str
) -> tuple[nn.Module, GraphReport | None]:
    """The model, and the graph's report if there is one."""
    if keep == "graph" or isinstance(model, fx.GraphModule):
        return fold_graph(model, inputs, rules)
    if keep == "module":
        same = fold_modules(model, inputs, rules)
        _warn_of_refused(same)
        return same.model, None if inputs else _survey(model, rules)
    try:
        folded, report = fold_graph(model, inputs, rules)
    except CaptureError:
        same = fold_modules(model, inputs, rules)
        if not same.folded:
            raise
        _warn_of_refused(same)
        return same.model, None
    if rules_at_work := graph_only(report):
        _warn_of_graph(model, f"{' and '.join(rules_at_work)} made layers that it does not have")
        return folded, report
    same = fold_modules(model, inputs, rules)
    missing = same.missing(report)
    if not missing:
        return same.model, report
    why = same.refused.get(missing[0], "it folds across other ops")
    _warn_of_graph(model, f"{missing[0]}: {Refusal(Code.OTHER_MODULES, why)}")
    return folded, report


def _survey(model: nn.Module, rules: Sequence[Rule]) -> GraphReport | None:
    """What a graph would report that knows no shapes, if there can be one."""
    with contextlib.suppress(CaptureError):
        return survey_shapeless(trace(copied(model)), rules)
    return None


def _warn_of_graph(model: nn.Module, why: str) -> None:
    kind = type(model).__name__
    message = (
        f"the result is a GraphModule, since {kind} cannot hold every fold ({why}); "
        f'keep="graph" says that this is fine, keep="module" asks for {kind} with fewer folds'
    )
    warn(message, FoldWarning)


def _warn_of_refused(same: SameClass) -> None:
    refused = same.refused_norms().items()
    whys = [f"{path}: {Refusal(Code.OTHER_MODULES, why)}" for path, why in refused]
    if whys:
        shown = "; ".join(whys[:_SHOWN]) + ("; ..." if len(whys) > _SHOWN else "")
        left = counted(len(whys), "BatchNorm")
        message = f"{left} left, as folds do not map onto modules: {shown}"
        warn(message, FoldWarning)


def _warn_of_ranks(report: GraphReport) -> None:
    kept = sum(map(_lacks_rank, report.verdicts))
    if kept:
        message = f"{counted(kept, 'BatchNorm')} kept, as ranks are not known; pass example inputs"
        warn(message, FoldWarning)


def _lacks_rank(verdict: Verdict) -> bool:
    """Whether the BatchNorm was kept, and its rank would have helped."""
    codes = [refusal.code for refusal in verdict.refusals]
    return verdict.outcome is Outcome.KEPT and Code.UNKNOWN_RANK in codes
