"""``bnfx.explain``: what becomes of each BatchNorm of a model, and why."""

from __future__ import annotations

import contextvars
import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from bnfx.capture import trace, unwrap
from bnfx.passes.fx import rewrite
from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.passes.report import GraphReport
from bnfx.report import Report

_collected: contextvars.ContextVar[list[GraphReport] | None] = contextvars.ContextVar(
    "bnfx_explain", default=None
)


def explain(model: nn.Module, *example_inputs: Any) -> Report:
    """What bnfx would do with each BatchNorm of ``model``: folded where, or left alone why.

    With example inputs, the model runs once, in eager mode under ``torch.no_grad()``, and is
    captured as ``torch.compile`` captures it: a graph break gives two graphs. Without, it is traced
    by ``torch.fx``, which knows no shapes. The model is not changed.

    Args:
        model: in evaluation mode, or each BatchNorm's verdict will be ``training-mode``.
        example_inputs: inputs that ``model`` accepts.

    Raises:
        CaptureError: without example inputs, if ``torch.fx`` cannot trace the model.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"bnfx.explain takes an nn.Module, not {type(model).__name__}")
    model = unwrap(model)
    if not example_inputs:
        return Report((rewrite(trace(model), {}, form="attributes").report,))
    if any(module.training for module in model.modules()):
        model = copy.deepcopy(model)  # running it moves its running statistics
    collected: list[GraphReport] = []
    token = _collected.set(collected)
    try:
        with torch.no_grad():
            torch.compile(model, backend=_explaining)(*example_inputs)
    finally:
        _collected.reset(token)
    return Report(tuple(collected))


def _explaining(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """A backend that looks at the graph each time it runs, so a cached one is explained too."""

    def run(*args: Any) -> Any:
        collected = _collected.get()
        if collected is not None:
            inputs = GraphInputs.of(module, args)
            rewritten = rewrite(
                module, inputs.parameters, form="placeholders", scalars=inputs.scalars
            )
            collected.append(rewritten.report)
        return module(*args)

    return run
