"""A graph without example inputs: symbolic tracing, if nothing looks at an argument."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import inspect
from collections import OrderedDict
from collections.abc import Iterator
from types import CodeType
from typing import Any
from unittest import mock

import torch
from torch import fx, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list

from bnfx.errors import CaptureError
from bnfx.folding.capturing.argument_checks import (
    argument_path,
    assert_constant,
    assert_elements,
)
from bnfx.folding.capturing.state_changes import StateError, Watch, changes_state
from bnfx.folding.capturing.traced.decisions import Decisions
from bnfx.folding.capturing.traced.noting_symbols import Notes, Symbol
from bnfx.folding.capturing.traced.reachable import Reachable
from bnfx.folding.capturing.traced.traced_names import function_of
from bnfx.folding.capturing.tracing_twice import trace_twice
from bnfx.folding.given import WAY_OUT, check_names
from bnfx.folding.global_state import state_kept
from bnfx.folding.modules.plain.library import is_library
from bnfx.passes.fx.calls.modules import is_registered
from bnfx.passes.fx.training.covers import is_cover

_HELD = (list, tuple, dict, OrderedDict, torch.Size, immutable_list, immutable_dict)


class Tracer(fx.Tracer):
    """Traces accesses to buffers too: ``self.count.add_(1)`` in forward belongs into the graph."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self.notes = Notes()
        self.state: Watch | None = None

    def proxy(self, node: fx.Node) -> fx.Proxy:
        symbol = Symbol(node, self)
        self.notes.made(symbol)
        return symbol

    def to_bool(self, obj: fx.Proxy) -> bool:
        with self._noted():
            return super().to_bool(obj)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        with self._noted():
            return super().iter(obj)

    def unpacked(self, obj: fx.Proxy, count: int) -> None:
        """``a, b = x``: Python looks how many there are, and takes the keys of a dict."""
        name = argument_path(obj.node)
        if name is not None:
            assert_elements(self.graph, obj.node, count, name)

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """Note an error: code that catches it goes another way than in a call."""
        try:
            yield
        except fx.proxy.TraceError as error:
            self.notes.asked.append(str(error))
            raise

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return is_registered(module) or bool(super().is_leaf_module(module, path))

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Also look whether a layer, of which a graph reads attributes when it runs, has them."""
        if kind == "call_module" and self.state is not None:
            self.state.check_module(target)
        return super().create_node(kind, target, *args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        """No objects that a graph would make anew, by code of theirs."""
        kind = type(a)
        named = isinstance(a, tuple) and hasattr(a, "_fields")
        held = isinstance(a, (list, tuple, dict)) and not named
        if dataclasses.is_dataclass(a) or (held and kind not in _HELD):
            raise CaptureError(f"it makes a {kind.__name__}, which a graph would make once more")
        if kind is OrderedDict:  # of which torch.fx makes a dict
            pairs = [self.create_arg(pair) for pair in a.items()]
            made = self.create_node("call_function", OrderedDict, (pairs,), {})
            made.meta["is_wrapped"] = True
            return made
        return super().create_arg(a)

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
    made = function_of(type(model).forward)
    if made is not None and hasattr(made, "__wrapped__") and not _is_ours(made.__code__):
        raise CaptureError(
            f"forward of {kind} is decorated, and what the decorator is given in a call is unknown "
            "without one. Pass example inputs"
        )
    decisions, state = Decisions(model, tracer.notes.asked), Watch(model)
    tracer.state, seen, changes = state, list[Reachable](), list[str]()

    def run() -> fx.Graph:
        try:
            with state_kept() as changed, decisions.watch():
                graph = tracer.trace(model, defaults or None)
        finally:
            state.restore()
        changes.extend(changed)
        for generation in range(3):  # functions that name themselves go: they are young, mostly
            if not tracer.notes.kept():
                break
            gc.collect(generation)
        if tracer.notes.kept():
            raise CaptureError("it keeps what it computes where later calls could read it")
        seen.append(Reachable(model, decisions.runs.values()))
        return graph

    try:
        with mock.patch.object(torch.autocast, "__enter__", _refuse_autocast):
            graph = trace_twice(run)
    except Exception as error:
        advice = "Pass example inputs, or use torch.compile"
        raise CaptureError(
            f'torch.fx cannot trace {kind}: {error}. {advice}(model, backend="bnfx")'
        ) from error
    if changes:
        raise StateError(changes_state(model, changes))
    state.check()
    if (why := decisions.refuse()) is not None:
        raise CaptureError(
            f"{kind} cannot be captured without example inputs: {why}. Pass inputs as you would "
            "call the model with them, bnfx.fold(model, *args, **kwargs)"
        )
    if seen[0] != seen[1]:
        raise CaptureError(
            f"{kind} writes to a list, object or tensor that is no buffer, which a graph cannot: "
            f"later calls could read it. {WAY_OUT}"
        )
    graph._tracer_cls = fx.Tracer  # ours would ask for bnfx where a graph is unpickled
    _bind(graph, defaults)
    try:
        return fx.GraphModule(model, graph, kind)
    except SyntaxError as error:  # of a default that is a container, torch.fx writes no code
        raise CaptureError(
            f"torch.fx cannot write the arguments of {kind} down. Pass example inputs"
        ) from error


def _is_ours(code: CodeType) -> bool:
    """Whether it is torch's or bnfx's, and gives what it covers all that it is given."""
    return is_library(code.co_filename) or is_cover(code)


def _bind(graph: fx.Graph, defaults: dict[str, Any]) -> None:
    """Assert the defaults by identity, and give arguments their names back."""
    places = graph.find_nodes(op="placeholder")
    for node in places:
        name = str(node.target).removesuffix("_1")
        if name in defaults and node.target != name:
            for user in reversed(_resting_on(graph, node)):
                graph.erase_node(user)
            node.target = name
            with graph.inserting_before(places[-1].next):
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
