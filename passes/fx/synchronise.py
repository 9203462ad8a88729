"""Swaps BatchNorms in training for a function that shares their statistics between ranks.

``y = batch_norm(x, ..., training=True)`` becomes::

    layer = (x, running_mean, running_var, weight, bias, momentum, eps, name)
    y, token = function([layer], token, **constants)

The function is the caller's: what it does between ranks is no affair of this pass. The token, first
``None``, is threaded from call to call, so that every call depends on the one before, forward and
back: ranks whose graphs differ in shapes may be compiled differently, but never so that their
collectives come in another order. Graphs nested in the graph (checkpointed blocks) are rewritten
too, each with a thread of its own.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import fx

from bnfx.passes.fx.bind import attribute
from bnfx.passes.fx.calls import Call, read_call
from bnfx.passes.fx.metadata import location_of, name_of
from bnfx.passes.report import GraphReport, Outcome, Verdict


@dataclass(frozen=True)
class Swapped:
    """A graph whose training BatchNorms are synchronised.

    Args:
        module: a copy, or the original where nothing was swapped.
        marks: name and location of each BatchNorm that was swapped.
    """

    module: fx.GraphModule
    marks: frozenset[tuple[str, str]] = frozenset()

    def annotate(self, report: GraphReport) -> GraphReport:
        """The report of ``module``, in which what was swapped is said to be synchronised."""
        return replace(report, verdicts=tuple(map(self._annotated, report.verdicts)))

    def _annotated(self, verdict: Verdict) -> Verdict:
        if (verdict.site.name, verdict.site.location) in self.marks:
            return Verdict(verdict.site, Outcome.SYNCHRONISED)
        return verdict


def in_training(module: fx.GraphModule) -> Iterator[fx.Node]:
    """The BatchNorms that normalise by their batch, in nested graphs too."""
    for graph_module in _graph_modules(module):
        for node in graph_module.graph.nodes:
            call = read_call(node)
            if not isinstance(call, Call) or call.kind != "batch_norm":
                continue
            if call.arguments["training"] is not False:
                yield node


def synchronise(
    module: fx.GraphModule,
    chosen: Callable[[fx.Node], bool],
    function: Callable[..., object],
    constants: Mapping[str, str | int],
) -> Swapped:
    """Swap the BatchNorms that :func:`in_training` finds and ``chosen`` approves.

    Args:
        module: untouched.
        chosen: whether this BatchNorm is to share its statistics.
        function: see the module's docstring; returns a tuple of all outputs and the token.
        constants: further arguments of ``function``.
    """
    marked = [node for node in in_training(module) if _is_constant(node) and chosen(node)]
    if not marked:
        return Swapped(module)
    marks = frozenset((name_of(node), location_of(node)) for node in marked)
    writer = _Writer(frozenset(marked), function, constants)
    return Swapped(writer.rewritten(module), marks)


def _is_constant(node: fx.Node) -> bool:
    call = read_call(node)
    return isinstance(call, Call) and call.arguments["training"] is True


@dataclass(frozen=True)
class _Writer:
    """Copies graphs, with calls of ``function`` in place of what is marked."""

    marked: frozenset[fx.Node]
    function: Callable[..., object]
    constants: Mapping[str, str | int]

    def rewritten(self, module: fx.GraphModule) -> fx.GraphModule:
        graph = fx.Graph(tracer_cls=module.graph._tracer_cls)
        graph.set_codegen(copy.copy(module.graph._codegen))
        written: dict[fx.Node, fx.Node] = {}
        attributes: dict[str, object] = {}
        token: fx.Node | None = None
        for node in module.graph.nodes:
            if node in self.marked:
                written[node], token = self._write(graph, node, written, token)
                continue
            written[node] = graph.node_copy(node, written.__getitem__)
            if hasattr(node, "_dynamo_source"):  # AOTAutograd guards aliases with it
                written[node]._dynamo_source = node._dynamo_source
            if node.op in ("get_attr", "call_module"):
                value = attribute(module, str(node.target))
                if isinstance(value, fx.GraphModule):
                    value = self.rewritten(value)
                attributes[str(node.target)] = value
        result = fx.GraphModule(attributes, graph, class_name=type(module).__name__)
        result.meta = copy.copy(module.meta)
        result.training = module.training
        if hasattr(module, "_param_name_to_source"):
            result._param_name_to_source = module._param_name_to_source
        result.graph.lint()
        return result

    def _write(
        self,
        graph: fx.Graph,
        node: fx.Node,
        written: Mapping[fx.Node, fx.Node],
        token: fx.Node | None,
    ) -> tuple[fx.Node, fx.Node]:
        """The output in place of ``node``, and the new token."""
        call = read_call(node)
        assert isinstance(call, Call)
        names = ("input", "running_mean", "running_var", "weight", "bias", "momentum", "eps")
        values = (call.arguments[name] for name in names)
        layer = [written[value] if isinstance(value, fx.Node) else value for value in values]
        arguments = ([(*layer, name_of(node))], token)
        both = graph.call_function(self.function, arguments, dict(self.constants))
        origin = ("nn_module_stack", "stack_trace")
        both.meta = {key: node.meta[key] for key in origin if key in node.meta}
        output = graph.call_function(operator.getitem, (both, 0))
        output.meta = copy.copy(node.meta)
        return output, graph.call_function(operator.getitem, (both, 1))


def _graph_modules(module: fx.GraphModule) -> Iterator[fx.GraphModule]:
    """The graph and those nested in it, each as often as a node names it."""
    yield module
    for node in module.graph.nodes:
        if node.op in ("get_attr", "call_module"):
            value = attribute(module, str(node.target))
            if isinstance(value, fx.GraphModule):
                yield from _graph_modules(value)
