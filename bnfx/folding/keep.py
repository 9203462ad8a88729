"""In which form a folded module comes back, and what is said about it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from torch import fx, nn

from bnfx.errors import CaptureError, FoldWarning
from bnfx.folding.given import ASSUMES, WAY_OUT, ExampleInputs, check_own_forward
from bnfx.folding.graph_form import fold_graph, survey
from bnfx.folding.modules.same_class import SameClass, fold_modules, graph_only
from bnfx.folding.modules.seen import seen_running
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import GraphReport, Outcome, Verdict
from bnfx.passes.rules.rule import Rule
from bnfx.passes.user_warnings import warn
from bnfx.report.wording import counted

_SHOWN = 3  # reasons in a warning


def fold_kept(
    model: nn.Module, inputs: ExampleInputs, rules: Sequence[Rule], keep: str, assume: str | None
) -> nn.Module:
    """The folded model in the form asked for.

    Args:
        model: in evaluation mode.
        inputs: examples, which the model takes.
        rules: those to apply.
        keep: ``"module"``, ``"graph"`` or ``"auto"``.
        assume: see :func:`bnfx.fold`.

    Raises:
        CaptureError: if it cannot be captured or copied.
    """
    folded, report = _fold(model, inputs, rules, keep, assume)
    if report is not None and not inputs:
        _warn_of_ranks(report)
    return folded


def _fold(
    model: nn.Module, inputs: ExampleInputs, rules: Sequence[Rule], keep: str, assume: str | None
) -> tuple[nn.Module, GraphReport | None]:
    """The model, and the graph's report if there is one."""
    if keep == "graph" or isinstance(model, fx.GraphModule):
        return fold_graph(model, inputs, rules)
    if keep == "module":
        same = fold_modules(model, inputs, rules, assume)
        _warn_of_left(model, same, inputs, rules)
        if assume is not None:
            vars(same.model)[ASSUMES] = assume
        return same.model, None if inputs else _survey(model, inputs, rules)
    check_own_forward(model)
    same = fold_modules(model, inputs, rules)
    if not same.left() and not _merges(model, inputs, rules):
        return same.model, None
    try:
        folded, report = fold_graph(model, inputs, rules)
    except CaptureError as error:
        if not same.folded:
            if WAY_OUT in str(error):
                raise
            raise CaptureError(f"{error}; {WAY_OUT}") from error
        _warn_of_refused(same, seen_running(model, inputs, same.left()))
        return same.model, None
    if rules_at_work := graph_only(report):
        _warn_of_graph(model, f"{' and '.join(rules_at_work)} made layers that it does not have")
        return folded, report
    if not (missing := same.missing(report)):
        return same.model, report
    _warn_of_graph(model, f"{missing[0]}: {_why(same, missing[0])}")
    return folded, report


def _merges(model: nn.Module, inputs: ExampleInputs, rules: Sequence[Rule]) -> bool:
    """Whether a graph would have layers that the model does not."""
    report = _survey(model, inputs, rules)
    return report is not None and bool(graph_only(report))


def _survey(model: nn.Module, inputs: ExampleInputs, rules: Sequence[Rule]) -> GraphReport | None:
    """What a graph would report, if there can be one."""
    with contextlib.suppress(CaptureError):
        return survey(model, inputs, rules)
    return None


def _why(same: SameClass, path: str) -> Refusal:
    why = same.refused.get(path, "no layer of its own is proved to run right before or behind it")
    return Refusal(Code.OTHER_MODULES, why)


def _warn_of_graph(model: nn.Module, why: str) -> None:
    kind = type(model).__name__
    warn(
        f"the result is a GraphModule, since {kind} is not proved to hold every fold ({why}); "
        f'keep="graph" says that this is fine, keep="module" asks for {kind} with fewer folds',
        FoldWarning,
    )


def _warn_of_left(
    model: nn.Module, same: SameClass, inputs: ExampleInputs, rules: Sequence[Rule]
) -> None:
    """Name the BatchNorms that the class keeps and a graph would fold."""
    left = missing = same.left()
    if left and rules:
        with contextlib.suppress(CaptureError):
            missing = same.missing(fold_graph(model, inputs, rules)[1])
    _warn_of_refused(same, missing, others=len(left) - len(missing))


def _warn_of_refused(same: SameClass, left: Sequence[str], others: int = 0) -> None:
    """Say why those ``left`` are; ``others`` are left in a graph too."""
    whys = [f"{path}: {_why(same, path)}" for path in left]
    if whys:
        shown = "; ".join(whys[:_SHOWN]) + ("; ..." if len(whys) > _SHOWN else "")
        norms = counted(len(whys), "BatchNorm")
        besides = (
            f" ({others} more {'is' if others == 1 else 'are'} left, in a graph too)"
            if others
            else ""
        )
        warn(f"{norms} left, as folds do not map onto modules: {shown}{besides}", FoldWarning)


def _warn_of_ranks(report: GraphReport) -> None:
    kept = sum(map(_lacks_rank, report.verdicts))
    if kept:
        message = f"{counted(kept, 'BatchNorm')} kept, as ranks are not known; pass example inputs"
        warn(message, FoldWarning)


def _lacks_rank(verdict: Verdict) -> bool:
    """Whether the BatchNorm was kept, and its rank would have helped."""
    codes = [refusal.code for refusal in verdict.refusals]
    return verdict.outcome is Outcome.KEPT and Code.UNKNOWN_RANK in codes
