"""Swaps BatchNorms in training for a function that shares their statistics between ranks.

``y = batch_norm(x, ..., training=True)`` becomes::

    layer = (x, running_mean, running_var, weight, bias, momentum, eps, *labels)
    y, token = function([layer], token, **constants)

BatchNorms that do not depend on each other share a call, where
:mod:`~bnfx.passes.fx.training.shared_calls` lets them.

The function is the caller's: what it does between ranks is no affair of this pass. The token, first
``None``, is threaded from call to call, so that every call depends on the one before, forward and
back: ranks whose graphs differ in shapes may be compiled differently, but never so that their
collectives come in another order. Graphs nested in the graph (checkpointed blocks) are rewritten
too, each with a thread of its own.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from bnfx.passes.fx.calls.call import Call, read_call
from bnfx.passes.fx.lowering.bind import attribute
from bnfx.passes.fx.metadata import location_of, name_of
from bnfx.passes.fx.training.shared_calls import (
    Companions,
    companions,
    parameters_of,
    parameters_of_nested,
)
from bnfx.passes.report import GraphReport, Outcome, Site, Verdict

_LAYER = ("input", "running_mean", "running_var", "weight", "bias", "momentum", "eps")


@dataclass(frozen=True)
class Swapped:
    """A graph whose training BatchNorms are synchronised.

    Args:
        module: a copy, or the original where nothing was swapped.
        calls: the BatchNorms of each call, in the order in which the graph runs them.
    """

    module: fx.GraphModule
    calls: tuple[tuple[Site, ...], ...] = ()

    def annotate(self, report: GraphReport) -> GraphReport:
        """The report of ``module``, in which what was swapped is said to be synchronised.

        A call is reported once, under the name of the first of its BatchNorms.
        """
        waiting = list(self.calls)
        verdicts: list[Verdict] = []
        for verdict in report.verdicts:
            here = (verdict.site.name, verdict.site.location)
            call = next((c for c in waiting if (c[0].name, c[0].location) == here), None)
            if call is None:
                verdicts.append(verdict)
            else:
                waiting.remove(call)
                verdicts += (Verdict(site, Outcome.SYNCHRONISED) for site in call)
        return replace(report, verdicts=tuple(verdicts))


def in_training(module: fx.GraphModule) -> Iterator[fx.Node]:
    """The BatchNorms that normalise by their batch, in nested graphs too."""
    for graph_module in graph_modules(module):
        for node in graph_module.graph.nodes:
            call = read_call(node)
            if not isinstance(call, Call) or "batch_norm" not in call.kind:
                continue
            if call.arguments["training"] is not False:
                yield node


def synchronise(
    module: fx.GraphModule,
    chosen: Callable[[fx.Node], bool],
    function: Callable[..., object],
    constants: Mapping[str, str | int],
    share: bool = True,
    labels: Callable[[fx.Node], tuple[str | int, ...]] = lambda node: (name_of(node),),
) -> Swapped:
    """Swap the BatchNorms that :func:`in_training` finds and ``chosen`` approves.

    Args:
        module: untouched.
        chosen: whether this BatchNorm is to share its statistics.
        function: see the module's docstring; returns a tuple of all outputs and the token.
        constants: further arguments of ``function``.
        share: whether independent BatchNorms are to share a call.
        labels: what stands at the end of each layer.
    """
    marked = [node for node in in_training(module) if _is_known(node) and chosen(node)]
    if not marked:
        return Swapped(module)
    writer = _SyncWriter(frozenset(marked), function, constants, share, labels)
    rewritten = writer.rewritten(module, parameters_of(module.graph))
    return Swapped(rewritten, tuple(writer.calls))


def _is_known(node: fx.Node) -> bool:
    """Whether the call returns its output alone, and is in training for certain."""
    call = read_call(node)
    assert isinstance(call, Call)
    return call.kind == "batch_norm" and call.arguments["training"] is True


@dataclass(frozen=True)
class _SyncWriter:
    """Copies graphs, with calls of ``function`` in place of what is marked."""

    marked: frozenset[fx.Node]
    function: Callable[..., object]
    constants: Mapping[str, str | int]
    share: bool
    labels: Callable[[fx.Node], tuple[str | int, ...]]
    calls: list[tuple[Site, ...]] = field(default_factory=list)

    def rewritten(self, module: fx.GraphModule, parameters: frozenset[fx.Node]) -> fx.GraphModule:
        graph = fx.Graph(tracer_cls=module.graph._tracer_cls)
        graph.set_codegen(copy.copy(module.graph._codegen))
        own = [node for node in module.graph.nodes if node in self.marked]
        groups = {node: Companions([node]) for node in own}
        if self.share:
            groups = {group.members[0]: group for group in companions(module, own, parameters)}
        written: dict[fx.Node, fx.Node] = {}
        attributes: dict[str, object] = {}
        token: fx.Node | None = None
        for node in module.graph.nodes:
            if node in written:
                continue  # it moved ahead
            group = groups.get(node)
            for each in group.ahead if group else (node,):
                self._copy(graph, each, written, module, parameters, attributes)
            if group:
                token = self._write(graph, group.members, written, token)
        result = fx.GraphModule(attributes, graph, class_name=type(module).__name__)
        result.meta = copy.copy(module.meta)
        result.training = module.training
        if hasattr(module, "_param_name_to_source"):
            result._param_name_to_source = module._param_name_to_source
        result.graph.lint()
        return result

    def _copy(
        self,
        graph: fx.Graph,
        node: fx.Node,
        written: dict[fx.Node, fx.Node],
        module: fx.GraphModule,
        parameters: frozenset[fx.Node],
        attributes: dict[str, object],
    ) -> None:
        written[node] = graph.node_copy(node, written.__getitem__)
        if hasattr(node, "_dynamo_source"):  # AOTAutograd guards aliases with it
            written[node]._dynamo_source = node._dynamo_source
        if node.op in ("get_attr", "call_module"):
            value = attribute(module, str(node.target))
            if isinstance(value, fx.GraphModule):
                own = parameters_of_nested(value.graph, node, parameters)
                value = self.rewritten(value, own)
            attributes[str(node.target)] = value

    def _write(
        self,
        graph: fx.Graph,
        members: Sequence[fx.Node],
        written: dict[fx.Node, fx.Node],
        token: fx.Node | None,
    ) -> fx.Node:
        """One call for all members; returns the new token."""
        layers = []
        for node in members:
            call = read_call(node)
            assert isinstance(call, Call)
            values = (call.arguments[name] for name in _LAYER)
            layer = [written[value] if isinstance(value, fx.Node) else value for value in values]
            layers.append((*layer, *self.labels(node)))
        every = graph.call_function(self.function, (layers, token), dict(self.constants))
        origin = ("nn_module_stack", "stack_trace")
        every.meta = {key: members[0].meta[key] for key in origin if key in members[0].meta}
        for position, node in enumerate(members):
            written[node] = graph.call_function(operator.getitem, (every, position))
            written[node].meta = copy.copy(node.meta)
        sites = (Site(name_of(node), "batch_norm", location_of(node)) for node in members)
        self.calls.append(tuple(sites))
        return graph.call_function(operator.getitem, (every, len(members)))


def graph_modules(module: fx.GraphModule) -> Iterator[fx.GraphModule]:
    """The graph and those nested in it, each as often as a node names it."""
    yield module
    for _, body in graphs_within(module):
        yield from graph_modules(body)


def graphs_within(module: fx.GraphModule) -> Iterator[tuple[str, fx.GraphModule]]:
    """The graphs that nodes of this one name, with their paths, each as often as it is named."""
    for node in module.graph.nodes:
        if node.op in ("get_attr", "call_module"):
            value = attribute(module, str(node.target))
            if isinstance(value, fx.GraphModule):
                yield str(node.target), value
