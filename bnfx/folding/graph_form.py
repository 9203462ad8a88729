"""The folded model as a graph: trace, rewrite, fill in the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from bnfx.folding.capture import check_traceable, copied, trace
from bnfx.folding.example_shapes import check_shapes, describe_shapes
from bnfx.passes.fx import rewrite
from bnfx.passes.fx.lowering.bind import fill
from bnfx.passes.fx.rewrite import given_up, survey_shapeless
from bnfx.passes.report import GraphReport
from bnfx.passes.rules.rule import Rule


def fold_graph(
    model: nn.Module, example_inputs: Sequence[Any], rules: Sequence[Rule]
) -> tuple[fx.GraphModule, GraphReport]:
    """A folded ``GraphModule``, and what became of each BatchNorm.

    Args:
        model: a module that ``torch.fx`` can trace, or a ``GraphModule``; it is not changed.
        example_inputs: for shapes, where there are any.
        rules: those to apply.

    Raises:
        CaptureError: if ``model`` cannot be traced or copied.
    """
    check_traceable(model)
    # A copy first: whatever tracing and shape propagation leave behind, they leave it there.
    traced = trace(copied(model))
    shapeless = survey_shapeless(traced, rules) if example_inputs else None
    fixed = describe_shapes(traced, example_inputs) if example_inputs else frozenset()
    rewritten = rewrite(traced, {}, form="attributes", rules=rules)
    folded = rewritten.module
    shapes_matter = shapeless is not None and not shapeless.agrees(rewritten.report)
    if rewritten.slots and shapes_matter:
        check_shapes(folded, example_inputs, fixed)  # what folded rests on them
    try:
        weights = rewritten.evaluate() if rewritten.slots else []
        assert weights is not None, "a module's own parameters are no fake tensors"
        named = {slot.name: weight for slot, weight in zip(rewritten.slots, weights, strict=True)}
        fill(folded, named)
    except Exception as error:
        return traced, given_up(traced, error, "computing the folded weights")
    return folded, rewritten.report
