"""Which of a graph's nodes can share one call, where the first of them stands.

Two nodes share a call if neither depends on the other and everything that the later one needs can
be computed before the earlier one. What is moved ahead must be pure, and must not pass a write to
memory that it reads. The answer depends on the shape of the graph alone, never on sizes, since all
ranks of a process group have to come to the same one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from bnfx.passes.fx.facts.spelling import facts_of
from bnfx.passes.fx.memory.aliasing import shares_memory_with, written_by

_NUMBERS = (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)


@dataclass
class Companions:
    """Nodes that share a call.

    Args:
        members: in the graph's order; the call stands where the first one stood.
        ahead: what has to move ahead of the call, in the graph's order.
    """

    members: list[fx.Node]
    ahead: list[fx.Node] = field(default_factory=list)


def companions(
    module: fx.GraphModule, marked: Collection[fx.Node], parameters: Collection[fx.Node]
) -> list[Companions]:
    """The marked nodes of ``module.graph``, each in exactly one group.

    Args:
        parameters: the placeholders that are parameters or buffers, and share no memory.
    """
    nodes = list(module.graph.nodes)
    memory = functools.partial(_memory, module=module, parameters=parameters)
    groups: list[Companions] = []
    for node in nodes:
        if node not in marked:
            continue
        ahead = _joining(groups[-1], node, nodes, memory, module) if groups else None
        if ahead is None:
            groups.append(Companions([node]))
        else:
            groups[-1].members.append(node)
            groups[-1].ahead = [each for each in nodes if each in {*groups[-1].ahead, *ahead}]
    return groups


def _joining(
    group: Companions,
    node: fx.Node,
    nodes: Sequence[fx.Node],
    memory: Callable[[Iterable[fx.Node]], set[object]],
    module: fx.GraphModule,
) -> set[fx.Node] | None:
    """What must move ahead for ``node`` to join; ``None`` if it cannot."""
    start, end = nodes.index(group.members[0]), nodes.index(node)
    window = nodes[start:end]
    between = set(window)
    needed: set[fx.Node] = set()
    stack = list(node.all_input_nodes)
    while stack:
        each = stack.pop()
        if each not in between or each in needed:
            continue
        if each in group.members or not _is_pure(each, module):
            return None
        needed.add(each)
        stack.extend(each.all_input_nodes)
    later = [each for each in window if each in needed] + [node]
    for passed in window:
        if passed in needed:
            later.remove(passed)
        if passed in needed or passed in group.ahead:
            continue
        if _is_barrier(passed):
            return None
        written, read = memory(written_by(passed, module)), memory(passed.all_input_nodes)
        for each in later:
            if each is node and passed in group.members:
                continue  # one after the other, as they stood
            if written & memory(each.all_input_nodes) or memory(written_by(each, module)) & read:
                return None
    return needed


def _is_pure(node: fx.Node, module: fx.GraphModule) -> bool:
    """Whether it only computes, and always the same."""
    if node.op == "get_attr":
        return True
    if any(True for _ in written_by(node, module)):
        return False
    if isinstance(node.meta.get("example_value"), _NUMBERS):
        return True  # of sizes, eps and momentum, where they are dynamic
    facts = facts_of(node)
    return facts is not None and facts.pure


def _is_barrier(node: fx.Node) -> bool:
    """Whether it may change what other nodes do: the gradient mode, autocast, an assertion."""
    name = str(getattr(node.target, "__name__", node.target))
    return node.op == "call_function" and (not node.users or "enter" in name or "_set_" in name)


def _memory(
    values: Iterable[fx.Node], module: fx.GraphModule, parameters: Collection[fx.Node]
) -> set[object]:
    """The values, and every value whose memory they may share.

    A graph's inputs may share memory with each other, except parameters and buffers.
    """
    found: set[object] = set()
    stack = list(values)
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found.add(node)
        if node.op == "placeholder":
            if node not in parameters:
                found.add("an input")
        elif node.op == "get_attr":
            found.add(node.target)  # each access is a node of its own
        else:
            stack.extend(shares_memory_with(node, module))
    return found


def parameters_of(graph: fx.Graph) -> frozenset[fx.Node]:
    """The placeholders of Dynamo's graph that are parameters or buffers."""
    return frozenset(
        node
        for node in graph.find_nodes(op="placeholder")
        if "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {})
    )


def parameters_of_nested(
    graph: fx.Graph, name: fx.Node, parameters: Collection[fx.Node]
) -> frozenset[fx.Node]:
    """The same for a nested graph, of the graph around it and the node that names it there."""
    if len(name.users) != 1:
        return frozenset()
    (user,) = name.users
    operands: list[fx.Node] = []
    fx.node.map_arg(user.args, operands.append)
    operands = [each for each in operands if each is not name]
    placeholders = graph.find_nodes(op="placeholder")
    if len(operands) != len(placeholders):
        return frozenset()
    pairs = zip(placeholders, operands, strict=True)
    return frozenset(inner for inner, outer in pairs if outer in parameters)
