"""The assertions of a captured graph on its arguments: written, taken out, and put back.

They compute with sizes and Python values, and an op that no rule knows may do anything; so a graph
is rewritten without them, and they are written into the result.
"""

from __future__ import annotations

import builtins
import enum
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from bnfx.report.wording import counted

_PLAIN = (bool, int, float, complex, str, type(None))
_TORCHS = (torch.dtype, torch.device, torch.memory_format, torch.layout)
WRITTEN = (*_PLAIN, *_TORCHS, enum.Enum)
NATIVE = (tuple, list, dict)


def is_container(value: Any) -> bool:
    """Whether a graph takes apart what it is given there."""
    known = type(value) in pytree.SUPPORTED_NODES or pytree.is_namedtuple_instance(value)
    return known and isinstance(value, NATIVE)


def is_written(value: Any) -> bool:
    """Whether a default can be written into the code of a graph."""
    if type(value) in (tuple, list):
        return all(map(is_written, value))
    if type(value) is dict:
        return all(isinstance(key, str) for key in value) and all(map(is_written, value.values()))
    return type(value) in _PLAIN or isinstance(value, (*_TORCHS, enum.Enum))


def assert_constant(graph: fx.Graph, node: fx.Node, value: Any, name: str) -> None:
    """Write an assertion that an argument is still ``value``, of the same type.

    ``True == 1`` and ``0.0 == -0.0``, though a model may tell them apart, so that it is how they
    are written that is compared; by a function that ``torch.fx`` does not look into, as a
    ``GraphModule`` is unpickled by tracing it.
    """
    if value is None or isinstance(value, (bool, torch.dtype)):
        same = graph.call_function(operator.is_, (node, value))
        same.meta["is_wrapped"] = True
    else:
        same = graph.call_function(operator.eq, (_text(graph, node), repr(value)))
    say(graph, same, f"{name}={value!r}")
    _assert_classes(graph, node, value, name)


def _assert_classes(graph: fx.Graph, node: fx.Node, value: Any, name: str) -> None:
    """Of numbers, of text, and of what holds such: a subclass may print as its base does."""
    if type(value) in (*NATIVE, int, float, complex, str):
        assert_class(graph, node, value, name)
    if type(value) in NATIVE:
        for key, held in value.items() if isinstance(value, dict) else enumerate(value):
            element = graph.call_function(operator.getitem, (node, key))
            _assert_classes(graph, element, held, f"{name}[{key!r}]")


def assert_class(graph: fx.Graph, node: fx.Node, value: Any, name: str) -> None:
    """Write an assertion that an argument is of the class of ``value``.

    ``torch.fx`` cannot wrap ``type`` on Python 3.12, and writes ``getattr`` of two as
    ``x.__class__``; and a graph's code can hold no class.
    """
    kind = graph.call_function(builtins.getattr, (node, "__class__", None))
    written = _text(graph, kind)
    kind.meta["is_wrapped"] = True
    same = graph.call_function(operator.eq, (written, repr(type(value))))
    say(graph, same, f"{name} of the class {type(value).__name__}")


def assert_torchs(graph: fx.Graph, node: fx.Node, name: str) -> None:
    """Write an assertion that a tensor is of a class of torch's, of which tracing has some."""
    kind = graph.call_function(builtins.getattr, (node, "__class__", None))
    module = graph.call_function(builtins.getattr, (kind, "__module__", None))
    kind.meta["is_wrapped"] = module.meta["is_wrapped"] = True
    parts = graph.call_method("partition", (module, "."))
    package = graph.call_function(operator.getitem, (parts, 0))
    same = graph.call_function(operator.eq, (package, "torch"))
    say(graph, same, f"{name} of a class of torch's, as x.as_subclass(torch.Tensor) gives")


def assert_absent(graph: fx.Graph, node: fx.Node, attribute: str, name: str) -> None:
    """Write an assertion that a tensor was given no such attribute, but ``None`` at most."""
    held = graph.call_function(builtins.getattr, (node, attribute, None))
    absent = graph.call_function(operator.is_, (held, None))
    held.meta["is_wrapped"] = absent.meta["is_wrapped"] = True
    say(graph, absent, f"{name} without an attribute {attribute}")


def assert_elements(graph: fx.Graph, node: fx.Node, count: int, name: str) -> None:
    """Write an assertion that an argument, of which Python makes names, has so many elements, and
    is no dict, of which it would take the keys.
    """
    found = graph.call_function(builtins.len, (node,))
    found.meta["is_wrapped"] = True
    same = graph.call_function(operator.eq, (found, count))
    say(graph, same, f"{name} of {counted(count, 'element')}")
    assert_absent(graph, node, "keys", name)


def argument_path(node: fx.Node) -> str | None:
    """``pair[0]``, if it is an argument or an element of one."""
    if node.target is not operator.getitem:
        return str(node.target) if node.op == "placeholder" else None
    held, place = node.args
    path = argument_path(held) if isinstance(held, fx.Node) else None
    return None if path is None else f"{path}[{place!r}]"


def assert_keys(graph: fx.Graph, node: fx.Node, keys: list[Any], name: str) -> None:
    """Write an assertion on the keys of a dict, their types and their order."""
    found = graph.call_function(builtins.list, (node,))
    # A GraphModule is unpickled by tracing it, which can make no list of a proxy.
    found.meta["is_wrapped"] = True
    same = graph.call_function(operator.eq, (_text(graph, found), repr(keys)))
    say(graph, same, f"{name} with the keys {keys}, in this order")


def _text(graph: fx.Graph, node: fx.Node) -> fx.Node:
    written = graph.call_function(builtins.repr, (node,))
    written.meta["is_wrapped"] = True
    return written


def say(graph: fx.Graph, holds: Any, what: str) -> None:
    """Write an assertion, in the words of all of them."""
    graph.call_function(torch._assert, (holds, f"this graph was folded for {what}"))


def without_checks(traced: fx.GraphModule) -> tuple[fx.GraphModule, Sequence[fx.Node]]:
    """A copy of the graph without its assertions on arguments; and those, in their order."""
    checks = _checks(traced.graph)
    bare = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in traced.graph.nodes:
        if node.op == "output":
            bare.output(fx.map_arg(node.args[0], copies.__getitem__))
        elif node not in checks:
            copies[node] = bare.node_copy(node, copies.__getitem__)
            copies[node].name = node.name
    return fx.GraphModule(traced, bare, type(traced).__name__).eval(), [
        node for node in traced.graph.nodes if node in checks
    ]


def write_checks(folded: fx.GraphModule, checks: Sequence[fx.Node]) -> None:
    """Write assertions into the rewritten graph, in their order, each behind what it reads."""
    order = {node: at for at, node in enumerate(folded.graph.nodes)}
    copies = {node.name: node for node in order}
    behind = next(node for node in reversed(folded.graph.nodes) if node.op == "placeholder")
    reached = order[behind]
    for check in checks:
        for source in check.all_input_nodes:
            argument = copies[source.name]
            if order.get(argument, -1) > reached:
                behind, reached = argument, order[argument]
        with folded.graph.inserting_after(behind):
            behind = folded.graph.node_copy(check, lambda node: copies[node.name])
        copies[check.name] = behind
    folded.recompile()


def _checks(graph: fx.Graph) -> set[fx.Node]:
    """Assertions on arguments, and what is computed for them alone."""
    arguments: set[fx.Node] = set()
    pure: set[fx.Node] = set()  # computed from arguments alone
    for node in graph.nodes:
        if node.op == "placeholder" or (
            node.target is operator.getitem and arguments.issuperset(node.all_input_nodes)
        ):
            arguments.add(node)
        elif node.op.startswith("call_") and (arguments | pure).issuperset(node.all_input_nodes):
            pure.add(node)
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in pure and (
            node.target is torch._assert or (node.users and found.issuperset(node.users))
        ):
            found.add(node)
    return found
