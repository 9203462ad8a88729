"""What a report of fixed sizes says of open ones, which ``bnfx.fold`` leaves where it can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from bnfx.errors import CaptureError
from bnfx.folding.capturing.argument_checks import without_checks
from bnfx.folding.capturing.capture import capture
from bnfx.folding.given import ExampleInputs, check_traceable, copied
from bnfx.passes.fx import rewrite
from bnfx.passes.report import GraphReport, Outcome, Verdict

_GONE = (Outcome.FOLDED, Outcome.MERGED)
# What these do to a layer and the BatchNorm behind it holds for any size.
_WHATEVER_SIZES = ("fold-affine-into-linear", "lower-batch-norm")


def fixed_only(
    model: nn.Module, inputs: ExampleInputs, fixed: Sequence[GraphReport]
) -> Iterator[GraphReport]:
    """A note on the BatchNorms that fold only with the sizes of the example.

    Args:
        model: a copy.
        inputs: that it takes.
        fixed: what becomes of its BatchNorms with these sizes.
    """
    gone = {v.site.name for graph in fixed for v in graph.verdicts if v.outcome in _GONE}
    if not gone or not any(_may_rest_on_sizes(graph) for graph in fixed):
        return
    args, kwargs = inputs.copied()
    try:
        check_traceable(model)
        graph, _ = without_checks(capture(copied(model), args, kwargs))
    except CaptureError:
        return  # then bnfx.fold gives no graph, and what a class folds holds for any size
    report = rewrite(graph, {}, form="attributes").report
    left = [v for v in report.verdicts if v.outcome not in _GONE and v.site.name in gone]
    if left:
        yield GraphReport(
            notes=(
                "folded for inputs of these sizes only; bnfx.fold and torch.compile(dynamic=True) "
                f"leave sizes open and fold all but {', '.join(map(_why, left))}; "
                'bnfx.fold(..., sizes="example") folds as above',
            )
        )


def _may_rest_on_sizes(graph: GraphReport) -> bool:
    if any(count for rule, count in graph.rewrites.items() if rule not in _WHATEVER_SIZES):
        return True
    return any(v.site.kind != "batch_norm" and v.outcome in _GONE for v in graph.verdicts)


def _why(verdict: Verdict) -> str:
    reasons = dict.fromkeys(str(refusal) for refusal in verdict.refusals)
    return f"{verdict.site.name} ({'; '.join(reasons)})"
