"""An exported program as a ``GraphModule`` with the model's own signature, which asserts what the
capture rests on.

It was captured for some arguments: their structure, those that are no tensors, ranks, and what
the model found out about sizes. The graph raises for others.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Sequence
from typing import Any

import torch
from sympy import Ne, Symbol  # type: ignore[import-untyped]
from torch import fx
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from bnfx.errors import CaptureError
from bnfx.folding.capturing.argument_checks import WRITTEN, assert_constant, say
from bnfx.folding.capturing.asking.asked import Asked
from bnfx.folding.capturing.size_expressions import SizeExpressions
from bnfx.folding.capturing.squeezed import squeezed_sizes
from bnfx.folding.capturing.taken_arguments import Arguments
from bnfx.folding.programs.state_reads import is_idle
from bnfx.passes.fx import private
from bnfx.report.wording import counted


def plain_graph(
    module: fx.GraphModule,
    spec: pytree.TreeSpec,
    bound: inspect.BoundArguments,
    kind: str,
    asked: Asked,
) -> fx.GraphModule:
    """What was captured on ``bound``, as a module named ``kind``, called as the model was.

    The captured ``module`` takes the leaves of the arguments, and gives those of ``spec``.
    """
    graph = fx.Graph()
    leaves = Arguments(graph, bound).leaves()
    places = module.graph.find_nodes(op="placeholder")
    if len(leaves) != len(places):
        raise CaptureError(f"torch.export takes the arguments of {kind} apart in another way")
    copies: dict[fx.Node, fx.Node] = {}
    for place, (node, _, _) in zip(places, leaves, strict=True):
        copies[place] = node
        node.meta.update(place.meta)
    _refuse_fakes(module, kind)
    squeezed = list(squeezed_sizes(module.graph))
    _check(graph, leaves, [place.meta.get("val") for place in places], asked, squeezed)
    for node in module.graph.nodes:
        if node.op == "output":
            _write_output(
                module,
                graph,
                [
                    copies[n] if isinstance(n, fx.Node) else n
                    for n in pytree.tree_leaves(node.args[0], is_leaf=_is_leaf)
                ],
                spec,
            )
        elif is_idle(module, node):
            copies[node] = copies[node.args[0]]
        elif node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    if "device" in bound.signature.parameters:
        _write_devices_as_text(graph)
    return fx.GraphModule(module, graph, kind).eval()


def _refuse_fakes(module: fx.GraphModule, kind: str) -> None:
    """A number of NumPy's that the model holds is captured without its value."""
    for node in module.graph.find_nodes(op="get_attr"):
        if isinstance(operator.attrgetter(str(node.target))(module), private.FakeTensor):
            raise CaptureError(
                f"{kind} computes with a number or array of NumPy's ({node.target}), which "
                "torch.export keeps without its value: make it a Python number or a tensor"
            )


def _write_devices_as_text(graph: fx.Graph) -> None:
    """``torch.fx`` writes ``device(type='cpu')``, which an argument of that name would shadow."""

    def text(value: Any) -> Any:
        return str(value) if isinstance(value, torch.device) else value

    for node in graph.nodes:
        if node.op.startswith("call_"):
            node.args, node.kwargs = map_aggregate((node.args, node.kwargs), text)


def _is_leaf(value: Any) -> bool:
    return not isinstance(value, (tuple, list))


def _check(
    graph: fx.Graph,
    leaves: list[tuple[fx.Node, str, Any]],
    described: list[Any],
    asked: Asked,
    squeezed: Sequence[torch.SymInt],
) -> None:
    """Assert constants, ranks, fixed sizes, what was decided about sizes, and what was asked."""
    sizes: dict[Symbol, tuple[fx.Node, int, str]] = {}
    late: list[tuple[fx.Node, int, str, Any]] = []
    env: Any = None
    for (node, name, value), shown in zip(leaves, described, strict=True):
        if not isinstance(value, torch.Tensor):
            assert_constant(graph, node, value, name)
            continue
        given = graph.call_function(operator.ne, (node, None))
        say(graph, given, f"a tensor as {name}")
        rank = graph.call_method("dim", (node,))
        same = graph.call_function(operator.eq, (rank, value.dim()))
        say(graph, same, f"{name} of {counted(value.dim(), 'dimension')}")
        asked.write(graph, node, name, value)
        for axis, size in enumerate(shown.shape):
            expression = size.node.expr if isinstance(size, torch.SymInt) else int(size)
            env = size.node.shape_env if isinstance(size, torch.SymInt) else env
            if isinstance(expression, Symbol) and expression not in sizes:
                sizes[expression] = (node, axis, f"{name}.shape[{axis}]")
            else:
                late.append((node, axis, name, expression))
    proxies = SizeExpressions(graph, sizes)
    for node, axis, name, expression in late:
        found: Any = fx.Proxy(graph.call_method("size", (node, axis)))
        if isinstance(expression, int):
            say(
                graph,
                (found == expression).node,
                f"{name} of size {expression} on axis {axis}",
            )
        else:
            say(
                graph,
                (found == proxies.run(expression)).node,
                f"{name}.shape[{axis}] == {proxies.words(expression)}",
            )
    asked.write_identities(graph, leaves)
    asked.write_modes(graph, leaves)
    for dropped in squeezed:
        shapes: Any = dropped.node.shape_env
        expression = shapes.replace(dropped.node.expr)
        if not expression.free_symbols <= set(sizes):
            raise CaptureError("it squeezes an axis whose size depends on numbers")
        if dropped.node.hint == 1:
            raise CaptureError("it squeezes an axis of size 1, which was left open")
        if expression.free_symbols:
            other = Ne(expression, 1)
            say(graph, proxies.run(other).node, f"inputs with {proxies.words(other)}")
    for guard in env.guards if env is not None else ():
        expression = env.replace(guard.expr)
        if expression.free_symbols and expression.free_symbols <= set(sizes):
            say(graph, proxies.run(expression).node, f"inputs with {proxies.words(expression)}")


def _write_output(
    module: fx.GraphModule, graph: fx.Graph, leaves: list[Any], spec: pytree.TreeSpec
) -> None:
    value = pytree.tree_unflatten(leaves, spec)
    if not _is_native(value):
        module._out_spec = spec
        value = graph.call_function(pytree.tree_unflatten, (leaves, graph.get_attr("_out_spec")))
    graph.output(value)


def _is_native(value: Any) -> bool:
    if type(value) is dict:
        return all(isinstance(key, str) for key in value) and all(map(_is_native, value.values()))
    if type(value) in (tuple, list):
        return all(map(_is_native, value))
    return isinstance(value, (fx.Node, *WRITTEN))
