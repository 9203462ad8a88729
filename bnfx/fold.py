"""``bnfx.fold``: the folded model as a graph."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from bnfx.capture import (
    check_traceable,
    copied,
    is_training,
    trace,
    unwrap,
)
from bnfx.errors import (
    CaptureError,
    FoldWarning,
    NotYetError,
    OptionError,
    TrainingModeError,
    VerificationError,
)
from bnfx.options import check_verify, nearest, parse_rules
from bnfx.passes.fx import rewrite
from bnfx.passes.fx.bind import fill
from bnfx.passes.fx.rewrite import is_meta, survey_shapeless
from bnfx.passes.refusals import Code
from bnfx.passes.report import Outcome, Verdict
from bnfx.shapes import check_shapes, describe_shapes
from bnfx.verify import allowed, relative_error


def fold(
    model: nn.Module,
    *example_inputs: Any,
    keep: str = "auto",
    rules: str | Sequence[str] = "all",
    verify: bool | float = False,
) -> fx.GraphModule:
    """A copy of ``model`` in evaluation with its BatchNorms folded into neighbouring weights.

    ``y = gamma * (W x + b - mean) / sqrt(var + eps) + beta`` becomes ``y = W' x + b'``, evaluated
    in float64 and rounded once to the weights' dtype. What cannot be proved exact is left as it is;
    :func:`bnfx.explain` says why.

    Args:
        model: an ``nn.Module`` that ``torch.fx.symbolic_trace`` can trace, or a ``GraphModule``; in
            evaluation mode. It is not changed, and shares nothing with the result.
        example_inputs: inputs that ``model`` accepts. Needed where ranks matter and modules do not
            tell them (``BatchNorm1d``, ``F.batch_norm``), and for ``verify``.
        keep: ``"auto"`` or ``"graph"``: a ``GraphModule``.
        rules: ``"all"``, ``"none"`` or rule names.
        verify: compare both models on ``example_inputs``: ``True`` allows what rounding
            explains, a float sets the bound on the relative error.

    Returns:
        A ``GraphModule``. Where shapes mattered, it asserts the ranks of the example inputs, and
        those sizes that the graph fixes.
        Folded layers keep their path (``layer1.0.conv1``), and their parameters the
        ``requires_grad`` that they had.

    Raises:
        TrainingModeError: if ``model`` is in training mode.
        CaptureError: if ``model`` cannot be traced or copied, or a graph cannot say what it does.
        OptionError: for an option that is not valid.
        FoldWarning: (a warning) if example inputs would let more be folded.
        VerificationError: if ``verify`` finds a larger error.
    """
    if keep == "module":
        raise NotYetError('keep="module" is not offered yet; use keep="graph"')
    if keep not in ("auto", "graph"):
        raise OptionError(f"keep={keep!r} is not valid{nearest(keep, ('auto', 'graph'))}")
    chosen = parse_rules(rules)
    check_verify(verify)
    if verify and not example_inputs:
        raise OptionError("verify compares answers on example inputs; pass some after the model")
    if not isinstance(model, nn.Module):
        raise TypeError(f"bnfx.fold takes an nn.Module, not {type(model).__name__}")
    model = unwrap(model)
    if is_training(model):
        raise TrainingModeError("the model is in training mode; call model.eval() first")

    # A copy first: whatever tracing and shape propagation leave behind, they leave it there.
    if any(map(is_meta, (*model.parameters(), *model.buffers()))):
        raise CaptureError("the model is on the meta device, so its weights hold no numbers")
    check_traceable(model)
    traced = trace(copied(model))
    shapeless = survey_shapeless(traced, chosen) if example_inputs else None
    fixed = describe_shapes(traced, example_inputs) if example_inputs else frozenset()
    rewritten = rewrite(traced, {}, form="attributes", rules=chosen)
    folded = rewritten.module
    shapes_matter = shapeless is not None and not shapeless.agrees(rewritten.report)
    if rewritten.slots and shapes_matter:
        check_shapes(folded, example_inputs, fixed)  # what folded rests on them
    weights = rewritten.evaluate() if rewritten.slots else []
    assert weights is not None, "a module's own parameters are no fake tensors"
    fill(folded, {slot.name: weight for slot, weight in zip(rewritten.slots, weights, strict=True)})
    if verify:
        _verify(model, folded, example_inputs, verify)
    kept = sum(map(_lacks_rank, rewritten.report.verdicts))
    if kept and not example_inputs:
        message = f"{kept} BatchNorms were kept, since ranks are not known; pass example inputs"
        warnings.warn(message, FoldWarning, stacklevel=2)
    return folded


def _lacks_rank(verdict: Verdict) -> bool:
    """Whether the BatchNorm was kept, and its rank would have helped."""
    codes = [refusal.code for refusal in verdict.refusals]
    return verdict.outcome is Outcome.KEPT and Code.UNKNOWN_RANK in codes


def _verify(
    model: nn.Module, folded: nn.Module, example_inputs: Sequence[Any], verify: bool | float
) -> None:
    with torch.no_grad(), torch.random.fork_rng():
        state = torch.random.get_rng_state()
        expected = copied(model)(*copy.deepcopy(example_inputs))
        torch.random.set_rng_state(state)
        actual = folded(*copy.deepcopy(example_inputs))
    error, bound = relative_error(actual, expected), allowed(verify, expected)
    if not error <= bound:
        raise VerificationError(
            f"the folded model's answer differs by {error:.1e}, more than {bound:.1e}; "
            "raise verify= if the model amplifies rounding, else please report it"
        )
