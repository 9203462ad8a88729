"""What a report of fixed sizes says of open ones, which ``bnfx.fold`` leaves where it can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from torch import fx, nn

from bnfx.errors import CaptureError
from bnfx.folding.capturing.argument_checks import without_checks
from bnfx.folding.capturing.capture import capture
from bnfx.folding.given import ExampleInputs, check_traceable, copied
from bnfx.passes.fx import rewrite
from bnfx.passes.report import GraphReport, Outcome, Verdict

_GONE = (Outcome.FOLDED, Outcome.MERGED)
# What these do to a layer and the BatchNorm behind it holds for any size.
_WHATEVER_SIZES = ("fold-affine-into-linear", "lower-batch-norm")
# A fold may cross these, and where they cut may be computed from sizes.
_CUTS = ("getitem", "narrow", "split", "chunk", "pad", "interpolate")


def fixed_only(
    model: nn.Module, inputs: ExampleInputs, fixed: Sequence[GraphReport]
) -> Iterator[GraphReport]:
    """A note on the BatchNorms that fold only with the sizes of the example.

    Args:
        model: a copy.
        inputs: that it takes.
        fixed: what becomes of its BatchNorms with these sizes.
    """
    folded = _folded(v for graph in fixed for v in graph.verdicts)
    args, kwargs = inputs.copied()
    try:
        check_traceable(model)
        graph, _ = without_checks(capture(copied(model), args, kwargs))
    except CaptureError:
        return  # then bnfx.fold gives no graph, and what a class folds holds for any size
    report = rewrite(graph, {}, form="attributes").report
    more = folded - _folded(report.verdicts)
    left = [v for v in report.verdicts if v.outcome is not Outcome.FOLDED and v.site.name in more]
    if left:
        yield GraphReport(
            notes=(
                "folded for inputs of these sizes only; bnfx.fold and torch.compile(dynamic=True) "
                f"leave sizes open and fold all but {', '.join(map(_why, left))}; "
                'bnfx.fold(..., sizes="example") folds as above',
            )
        )


def _folded(verdicts: Iterable[Verdict]) -> Counter[str]:
    """How often what is called so is folded: a module that is called twice is two sites."""
    return Counter(v.site.name for v in verdicts if v.outcome is Outcome.FOLDED)


def may_rest_on_sizes(graphs: Sequence[tuple[GraphReport, fx.GraphModule]]) -> bool:
    """Whether anything may have been folded for the sizes of the example only.

    Args:
        graphs: reports of fixed sizes, each with the graph that it is about.
    """
    for report, module in graphs:
        if any(n for rule, n in report.rewrites.items() if rule not in _WHATEVER_SIZES):
            return True
        if any(v.site.kind != "batch_norm" and v.outcome in _GONE for v in report.verdicts):
            return True  # numbers that may be sizes
        if any(
            getattr(node.target, "__name__", node.target) in _CUTS for node in module.graph.nodes
        ):
            return True
    return False


def _why(verdict: Verdict) -> str:
    if verdict.outcome is Outcome.MERGED:
        return f"{verdict.site.name} (merged with {verdict.target})"
    reasons = dict.fromkeys(str(refusal) for refusal in verdict.refusals)
    return f"{verdict.site.name} ({'; '.join(reasons)})"
