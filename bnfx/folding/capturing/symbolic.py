"""A graph without example inputs: symbolic tracing, if nothing looks at an argument."""

from __future__ import annotations

import contextlib
import inspect
import operator
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import fx, nn

from bnfx.errors import CaptureError
from bnfx.folding.capturing.argument_checks import assert_constant
from bnfx.folding.capturing.asking.decisions import Decisions
from bnfx.folding.capturing.state_changes import Watch
from bnfx.folding.capturing.tracing_twice import trace_twice
from bnfx.folding.given import check_names
from bnfx.passes.fx.calls.modules import is_registered

_IN_PLACE = "iadd isub imul itruediv ifloordiv imod ipow iand ior ixor"


class _Proxy(fx.Proxy):
    """A proxy that knows ``x *= 2`` for a write; torch's own records ``x = x * 2``."""

    def __hash__(self) -> int:
        raise TypeError("an argument is looked up in a table")


def _in_place(op: Callable[..., Any]) -> Callable[..., Any]:
    def write(self: _Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", op, (self, other), {})

    return write


for _name in _IN_PLACE.split():
    setattr(_Proxy, f"__{_name}__", _in_place(getattr(operator, _name)))


class Tracer(fx.Tracer):
    """Traces accesses to buffers too: ``self.count.add_(1)`` in forward belongs into the graph."""

    proxy_buffer_attributes = True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return is_registered(module) or bool(super().is_leaf_module(module, path))

    def path_of_module(self, mod: nn.Module) -> str:
        path = super().path_of_module(mod)
        if self.root.get_submodule(path) is not mod:
            raise CaptureError(f"{path} is hidden behind another attribute of that name")
        return path


class _DeepTracer(Tracer):
    """Traces through parametrized modules, so that it is seen how they compute their weights."""

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        inside = "parametrizations" in path.split(".")
        if inside or nn.utils.parametrize.is_parametrized(module):
            return False
        return super().is_leaf_module(module, path)


def trace(model: nn.Module, tracer: Tracer | None = None) -> fx.GraphModule:
    """``model`` itself if it is a ``GraphModule``, else its symbolic trace.

    Arguments with defaults have them, which the graph asserts.

    Args:
        model: is as it was afterwards.
        tracer: one that knows what to leave whole.

    Raises:
        CaptureError: if it cannot be traced, or if its code may decide by an argument, of which a
            tracer can only guess.
    """
    if isinstance(model, fx.GraphModule):
        return model
    if tracer is None and any(map(nn.utils.parametrize.is_parametrized, model.modules())):
        with contextlib.suppress(Exception):  # not all can be: spectral_norm asks for a rank
            return _traced(_DeepTracer(), model)
    return _traced(tracer or Tracer(), model)


def _traced(tracer: Tracer, model: nn.Module) -> fx.GraphModule:
    check_names(model)
    kind = type(model).__name__
    parameters = inspect.signature(model.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    decisions, state = Decisions(), Watch(model)

    def run() -> fx.Graph:
        try:
            return tracer.trace(model, defaults or None)
        finally:
            state.restore()

    try:
        with mock.patch.object(torch.autocast, "__enter__", _refuse_autocast), decisions.watch():
            graph = trace_twice(run)
    except Exception as error:
        advice = "Pass example inputs, or use torch.compile"
        raise CaptureError(
            f'torch.fx cannot trace {kind}: {error}. {advice}(model, backend="bnfx")'
        ) from error
    state.check()
    if (why := decisions.refuse()) is not None:
        raise CaptureError(
            f"{kind} cannot be captured without example inputs: {why}. Pass inputs as you would "
            "call the model with them, bnfx.fold(model, *args, **kwargs)"
        )
    graph._tracer_cls = fx.Tracer  # ours would ask for bnfx where a graph is unpickled
    _bind(graph, defaults)
    try:
        return fx.GraphModule(model, graph, kind)
    except SyntaxError as error:  # of a default that is a container, torch.fx writes no code
        raise CaptureError(
            f"torch.fx cannot write the arguments of {kind} down. Pass example inputs"
        ) from error


def _bind(graph: fx.Graph, defaults: dict[str, Any]) -> None:
    """Assert the defaults by identity, and give arguments their names back."""
    places = graph.find_nodes(op="placeholder")
    for node in places:
        name = str(node.target).removesuffix("_1")
        if name in defaults and node.target != name:
            for user in reversed(_resting_on(graph, node)):
                graph.erase_node(user)
            node.target = name
            with graph.inserting_after(places[-1]):
                assert_constant(graph, node, defaults[name], name)


def _resting_on(graph: fx.Graph, node: fx.Node) -> list[fx.Node]:
    """What is computed from a node, in the order of the graph."""
    found = {node: None}
    for each in graph.nodes:
        if not found.keys().isdisjoint(each.all_input_nodes):
            found[each] = None
    return list(found)[1:]


def _refuse_autocast(self: torch.autocast) -> None:
    raise CaptureError("it enters torch.autocast, which torch.fx does not record")
