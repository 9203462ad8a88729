"""Takes a graph apart: stages of TVM's operators and of PyTorch's, in turn.

Even stages are TVM's, odd ones PyTorch's. A call stands in the first stage of its kind that is not
before those of what it reads, so no stage reads a later one.

Views are both: where PyTorch or the graph's output reads a view, PyTorch makes it, of the very
tensor that it is a view of in the graph. So what TVM hands over is never a view of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import fx, nn

from bnfx.inner.tvm.extract import extracted
from bnfx.inner.tvm.placement import Placement
from bnfx.inner.tvm.views import FOR_TORCH, give_views, is_view
from bnfx.inner.tvm.write import Mismatch
from bnfx.tvm.ops import TABLE, OpCall
from bnfx.tvm.ops.constant_nodes import CONSTANT
from bnfx.tvm.settings import Settings

_RANDOM = torch.Tag.nondeterministic_seeded
MakePart = Callable[..., nn.Module]


def staged(
    module: fx.GraphModule, settings: Settings, placement: Placement, make_part: MakePart
) -> fx.GraphModule:
    """The graph with its TVM parts as submodules.

    Args:
        module: of :func:`bnfx.inner.tvm.specialise.specialised`.
        placement: is filled.
        make_part: ``(module, which outputs leave the graph, placement) -> nn.Module``; may raise
            :class:`Mismatch` for a call that it cannot make after all.
    """
    denied: dict[str, str] = {}
    while True:
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        result = graph.graph_copy(module.graph, copies)
        graph.output(result)
        reasons = _refusals(graph, str(settings.target.kind.name), denied)
        give_views(graph, reasons)
        stages = _stages(graph, reasons)
        try:
            parts = extracted(module, graph, stages, make_part, placement)
        except Mismatch as error:
            denied[error.name] = error.reason
            continue
        _count(graph, reasons, placement)
        return parts


def name_of(node: fx.Node) -> str:
    """An operator's name, as the table has it."""
    return str(getattr(node.target, "__name__", node.target))


def is_getitem(node: fx.Node) -> bool:
    return node.op == "call_function" and name_of(node) == "getitem"


def is_random(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and _RANDOM in node.target.tags


def _refusals(graph: fx.Graph, device: str, denied: Mapping[str, str]) -> dict[fx.Node, str | None]:
    """For each call that is no constant: why TVM does not run it; ``None`` if it does."""
    reasons: dict[fx.Node, str | None] = {}
    for node in graph.nodes:
        if node.op == "call_function" and CONSTANT not in node.meta:
            if is_getitem(node):
                reasons[node] = reasons[node.args[0]]
            else:
                reasons[node] = denied.get(node.name) or _refusal(node, device)
    return reasons


def _refusal(node: fx.Node, device: str) -> str | None:
    if not isinstance(node.target, torch._ops.OpOverload):
        return "it is no ATen operator"
    if is_random(node):
        return "random"
    row = TABLE.get(name_of(node)) if node.target.namespace == "aten" else None
    if row is None:
        return "not in the table of what TVM gets right"
    call = OpCall(node)
    where = {"llvm": "cpu"}.get(device, device)
    if any(tensor.device.type != where for tensor in (call.output, *call.tensors())):
        return f"not on {where}"
    return row.refusal(call)


def _stages(graph: fx.Graph, reasons: dict[fx.Node, str | None]) -> dict[fx.Node, int]:
    """The stage of each call; a stage of TVM's that computes nothing is left to PyTorch."""
    while True:
        stages: dict[fx.Node, int] = {}
        drawn = 1  # random operators keep their order
        for node, reason in reasons.items():
            if is_getitem(node):
                stages[node] = stages[node.args[0]]  # type: ignore[index]
                continue
            first = max((stages.get(source, 0) for source in node.all_input_nodes), default=0)
            if is_random(node):
                drawn = first = max(first, drawn)
            stages[node] = first + (first % 2 != (reason is not None))
            if is_random(node):
                drawn = stages[node]
        idle = _idle(stages, reasons)
        if not idle:
            return stages
        for node in idle:
            reasons[node] = "nothing is computed around it"


def _idle(stages: Mapping[fx.Node, int], reasons: Mapping[fx.Node, str | None]) -> list[fx.Node]:
    ours = [node for node in stages if reasons[node] is None]
    busy = {stages[n] for n in ours if not is_getitem(n) and not TABLE[name_of(n)].moves}
    return [node for node in ours if stages[node] not in busy]


def _count(graph: fx.Graph, reasons: Mapping[fx.Node, str | None], placement: Placement) -> None:
    for node, reason in reasons.items():
        name = name_of(node)
        if is_getitem(node):
            continue
        if reason is None:
            placement.tvm[name] += 1
        elif not is_view(node) and reason != FOR_TORCH:
            placement.torch[name] += 1
            placement.reasons.setdefault(name, reason)
