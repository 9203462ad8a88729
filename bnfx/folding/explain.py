"""``bnfx.explain``: what becomes of each BatchNorm of a model, and why."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from bnfx.folding.capturing.symbolic import trace
from bnfx.folding.given import (
    ASSUMES,
    ExampleInputs,
    check_no_scripted,
    check_scripted,
    copied,
    untouched,
    unwrap,
)
from bnfx.folding.global_state import generators_kept, state_kept
from bnfx.folding.open_sizes import fixed_only, may_rest_on_sizes
from bnfx.folding.programs.exported import survey_exported
from bnfx.folding.verify import run_once
from bnfx.passes.fx import rewrite
from bnfx.passes.fx.calls.modules import is_batch_norm
from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.passes.fx.rewrite import rewrite_captured
from bnfx.passes.report import GraphReport
from bnfx.report import Report

_Graph = tuple[GraphReport, fx.GraphModule]
_collected: contextvars.ContextVar[list[_Graph] | None] = contextvars.ContextVar(
    "bnfx_explain", default=None
)
# Dynamo stops compiling code that it has compiled too often, and would show nothing from then on.
_NO_LIMIT = {"recompile_limit": 2**20, "accumulated_recompile_limit": 2**20, "allow_rnn": True}


def explain(
    model: nn.Module | ExportedProgram, *example_args: Any, **example_kwargs: Any
) -> Report:
    """Report what bnfx would do with each BatchNorm of ``model``, and why.

    With example inputs, a copy of the model runs once, in eager mode under ``torch.no_grad()``, and
    is captured as ``torch.compile`` captures it the first time, with the sizes of these inputs: a
    graph break gives two graphs. Where :func:`bnfx.fold`, which leaves sizes open, folds less, a
    note says so. Without inputs, the model is traced by ``torch.fx``, which knows no shapes.
    Neither model nor inputs are changed.

    Args:
        model: in evaluation mode; otherwise each BatchNorm's verdict will be ``training-mode``.
            The graph of an ``ExportedProgram`` is read as it is, and inputs are not needed.
        example_args, example_kwargs: inputs that ``model`` accepts.

    Returns:
        The report. Its notes name each BatchNorm module that no captured graph runs, and each that
        is folded for these sizes only.

    Raises:
        CaptureError: if the model cannot be copied, fails on the inputs, or is TorchScript; or,
            without inputs, if it cannot be traced, or if a branch in it depends on an argument.
    """
    if isinstance(model, ExportedProgram):
        return Report((_counted(survey_exported(model), model.state_dict),))
    if not isinstance(model, nn.Module):
        raise TypeError(f"bnfx.explain takes an nn.Module, not {type(model).__name__}")
    check_scripted(unwrap(model))
    inputs = ExampleInputs(example_args, example_kwargs)
    with untouched(unwrap(model)):
        return _explained(copied(unwrap(model)), inputs)


def _explained(module: nn.Module, inputs: ExampleInputs) -> Report:
    """Of a copy, which runs."""
    buffers = dict(module.named_buffers())
    if not inputs:
        check_no_scripted(module)
        graph = rewrite(trace(module), {}, form="attributes", detailed=True).report
        return Report((_counted(graph, buffers), *_assumed(module)))
    run_once(module, inputs)
    args, kwargs = inputs.copied()
    collected: list[_Graph] = []
    token = _collected.set(collected)
    try:
        with (
            torch.no_grad(),
            generators_kept(),
            state_kept(),
            torch._dynamo.config.patch(_NO_LIMIT),
        ):
            # Sizes are those of these inputs: Dynamo would open one that it has seen to vary, so
            # that the answer would depend on what was explained before.
            torch.compile(module, backend=_explaining, dynamic=False)(*args, **kwargs)
    finally:
        _collected.reset(token)
    graphs = [_counted(graph, buffers) for graph, _ in collected]
    notes = [*_unseen(module, graphs), *_assumed(module)]
    if may_rest_on_sizes(collected):
        notes += fixed_only(module, inputs, graphs)
    return Report((*graphs, *notes))


def _explaining(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """A backend that explains a graph each time it runs, so that a cached one is explained too."""

    def run(*args: Any) -> Any:
        collected = _collected.get()
        if collected is not None:
            inputs = GraphInputs.of(module, args)
            report = rewrite_captured(module, inputs, detailed=True).report
            collected.append((report, module))
        return module(*args)

    return run


def _counted(graph: GraphReport, state: Mapping[str, torch.Tensor]) -> GraphReport:
    """With the batches that each BatchNorm has seen, which no graph of evaluation reads."""
    if graph.details is None:
        return graph
    norms = {}
    for at, norm in graph.details.norms.items():
        count = state.get(f"{graph.verdicts[at].site.name}.num_batches_tracked")
        norms[at] = norm if count is None else replace(norm, tracked=int(count))
    return replace(graph, details=replace(graph.details, norms=norms))


def _assumed(model: nn.Module) -> Iterator[GraphReport]:
    """A note on folds that hold only on the user's assurance."""
    if ASSUMES in vars(model):
        yield GraphReport(
            notes=(
                f'folded with assume="{vars(model)[ASSUMES]}": right where the model is called as '
                "in that example, not proved elsewhere",
            )
        )


def _is_scripted_norm(module: nn.Module) -> bool:
    name = getattr(module, "original_name", "")
    return isinstance(module, torch.jit.ScriptModule) and "BatchNorm" in name


def _unseen(model: nn.Module, graphs: Sequence[GraphReport]) -> Iterator[GraphReport]:
    """Notes on the BatchNorm modules that are in no graph."""
    seen = {verdict.site.name.split(":")[0] for graph in graphs for verdict in graph.verdicts}
    missing = [
        name for name, module in model.named_modules() if is_batch_norm(module) and name not in seen
    ]
    scripted = [name for name, module in model.named_modules() if _is_scripted_norm(module)]
    if scripted:
        yield GraphReport(
            notes=(
                "TorchScript, whose code no capture reads, so that they stay as they are: "
                f"{', '.join(scripted)}; fold the Python model, and script or trace the result",
            )
        )
    if missing:
        yield GraphReport(
            notes=(
                "in no captured graph, because these inputs do not reach it or because Dynamo "
                f"runs the code around it uncompiled: {', '.join(missing)}",
            )
        )
