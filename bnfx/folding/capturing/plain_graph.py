"""An exported program as a ``GraphModule`` with the model's own signature, which asserts what the
capture rests on.

It was captured for some arguments: their structure, those that are no tensors, ranks, and what
the model found out about sizes. The graph raises for others.
"""

from __future__ import annotations

import builtins
import inspect
import operator
from typing import Any

import torch
from sympy import Symbol  # type: ignore[import-untyped]
from torch import fx
from torch.utils import _pytree as pytree

from bnfx.errors import CaptureError
from bnfx.folding.capturing.argument_checks import (
    NATIVE,
    WRITTEN,
    assert_constant,
    is_written,
    say,
)
from bnfx.folding.capturing.size_expressions import SizeExpressions
from bnfx.folding.programs.state_reads import is_idle
from bnfx.report.wording import counted

_STARS: dict[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}


def plain_graph(
    module: fx.GraphModule, spec: pytree.TreeSpec, bound: inspect.BoundArguments, kind: str
) -> fx.GraphModule:
    """What was captured on ``bound``, as a module named ``kind``, called as the model was.

    The captured ``module`` takes the leaves of the arguments, and gives those of ``spec``.
    """
    graph = fx.Graph()
    leaves = _Arguments(graph, bound).leaves()
    places = module.graph.find_nodes(op="placeholder")
    if len(leaves) != len(places):
        raise CaptureError(f"torch.export takes the arguments of {kind} apart in another way")
    copies: dict[fx.Node, fx.Node] = {}
    for place, (node, _, _) in zip(places, leaves, strict=True):
        copies[place] = node
        node.meta.update(place.meta)
    _check(
        graph,
        [
            (node, name, place.meta.get("val"))
            for place, (node, name, _) in zip(places, leaves, strict=True)
        ],
        leaves,
    )
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
    return fx.GraphModule(module, graph, kind).eval()


def _is_leaf(value: Any) -> bool:
    return not isinstance(value, (tuple, list))


class _Arguments:
    """Placeholders of the model's own signature, and the leaves of what they hold."""

    def __init__(self, graph: fx.Graph, bound: inspect.BoundArguments) -> None:
        self._graph = graph
        self._bound = bound
        self._known: dict[tuple[Any, ...], fx.Node] = {}
        optional = False
        for name, parameter in bound.signature.parameters.items():
            stars = _STARS.get(parameter.kind, "")
            default: tuple[Any, ...] = ()
            if (
                not stars
                and parameter.default is not parameter.empty
                and is_written(parameter.default)
            ):
                default, optional = (parameter.default,), True
            elif optional and not stars:
                default = (None,)
            node = graph.create_node("placeholder", f"{stars}{name}", default, name=name)
            self._known[name,] = node
            if stars and name in bound.arguments:
                self._assert_length(node, name, bound.arguments[name])

    def leaves(self) -> list[tuple[fx.Node, str, Any]]:
        """Node, name and value of each leaf, in the order of ``torch.export``."""
        given = (self._bound.args, self._bound.kwargs)
        return [self._leaf(path, value) for path, value in pytree.tree_flatten_with_path(given)[0]]

    def _leaf(self, path: tuple[Any, ...], value: Any) -> tuple[fx.Node, str, Any]:
        where = self._start(path)
        held = self._bound.arguments[where[0]]
        for key in where[1:]:
            held = held[key]
        for key in path[2:]:
            if not isinstance(held, NATIVE):
                raise CaptureError(
                    f"{where[0]} holds a {type(held).__name__}, which no graph takes apart"
                )
            self._node(where, held)
            step = key.key if isinstance(key, pytree.MappingKey) else key.idx
            where, held = (*where, step), held[step]
        return self._node(where, held), _named(where), value

    def _start(self, path: tuple[Any, ...]) -> tuple[Any, ...]:
        parameters = list(self._bound.signature.parameters.values())
        if path[0].idx == 1:
            name = path[1].key
            known = any(p.name == name and p.kind is not p.VAR_KEYWORD for p in parameters)
            return (name,) if known else (parameters[-1].name, name)
        place = path[1].idx
        first = next((i for i, p in enumerate(parameters) if p.kind is p.VAR_POSITIONAL), place + 1)
        if place >= first:
            return (parameters[first].name, place - first)
        return (parameters[place].name,)

    def _node(self, where: tuple[Any, ...], held: Any) -> fx.Node:
        if where not in self._known:
            source = self._known.get(where[:-1]) or self._node(where[:-1], None)
            self._known[where] = self._graph.call_function(operator.getitem, (source, where[-1]))
        elif len(where) > 1:
            return self._known[where]
        if isinstance(held, NATIVE) and (where, "length") not in self._known:
            self._known[where, "length"] = self._known[where]
            self._assert_length(self._known[where], _named(where), held)
        return self._known[where]

    def _assert_length(self, node: fx.Node, name: str, held: Any) -> None:
        # By a slice: a GraphModule is unpickled by tracing it, which knows no lengths.
        if isinstance(held, (list, tuple)):
            rest = self._graph.call_function(operator.getitem, (node, slice(len(held), None)))
            none_left = self._graph.call_function(operator.eq, (rest, type(held)()))
            say(self._graph, none_left, f"{name} of length {len(held)}")


def _named(where: tuple[Any, ...]) -> str:
    return str(where[0]) + "".join(f"[{key!r}]" for key in where[1:])


def _check(graph: fx.Graph, described: list[tuple[fx.Node, str, Any]], leaves: Any) -> None:
    """Assert constants, ranks, fixed sizes, and what was decided about sizes."""
    sizes: dict[Symbol, tuple[fx.Node, int, str]] = {}
    late: list[tuple[fx.Node, int, str, Any]] = []
    env: Any = None
    for (node, name, shown), (_, _, value) in zip(described, leaves, strict=True):
        if not isinstance(value, torch.Tensor):
            if isinstance(value, (*WRITTEN, torch.dtype, torch.device)):
                assert_constant(graph, node, value, name)
            continue
        given = graph.call_function(operator.ne, (node, None))
        say(graph, given, f"a tensor as {name}")
        rank = graph.call_method("dim", (node,))
        same = graph.call_function(operator.eq, (rank, value.dim()))
        say(graph, same, f"{name} of {counted(value.dim(), 'dimension')}")
        if not value.is_floating_point():
            kind = graph.call_function(builtins.getattr, (node, "dtype"))
            same = graph.call_function(operator.eq, (kind, value.dtype))
            say(graph, same, f"{name} of {value.dtype}")
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
