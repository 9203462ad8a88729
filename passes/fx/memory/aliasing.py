"""Which parameters a graph may write to while it runs, and which values share memory.

A fold reads parameters before the graph runs, so a parameter that the graph itself writes cannot
be folded. The analysis errs on the safe side: an op that it does not know passes its inputs' memory
on to its output, and may write to them if it is not torch's own.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from bnfx.passes.fx import private
from bnfx.passes.fx.bodies.operands import Body, bodies_of
from bnfx.passes.fx.calls.call import Call, read_call
from bnfx.passes.fx.calls.modules import facts_of_leaf
from bnfx.passes.fx.facts.spelling import IN_PLACE_OPERATORS, spelling_of
from bnfx.passes.fx.memory.callee import (
    asks_in_place,
    in_place_name,
    is_known_leaf,
    is_torch,
    out_of,
)
from bnfx.passes.fx.memory.regrouping import regrouped, runs_no_code


def module_writes(graph: fx.Graph, module: nn.Module) -> Iterator[Any]:
    """The tensors that leaf modules may write to by themselves, such as running statistics."""
    for node in graph.find_nodes(op="call_module"):
        leaf = module.get_submodule(node.target)
        known = is_known_leaf(leaf)
        if not known or getattr(leaf, "max_norm", None) is not None:
            yield from leaf.parameters()
        if not known or leaf.training:
            yield from leaf.buffers()
    for node in graph.nodes:
        for body in bodies_of(node, module):  # what they own
            yield from module_writes(body.module.graph, body.module)
            for written in mutated_leaves(body.module.graph, body.module):
                if written.op == "get_attr":
                    owner, _, name = str(written.target).rpartition(".")
                    yield getattr(body.module.get_submodule(owner), name)


def mutated_leaves(graph: fx.Graph, module: nn.Module) -> set[fx.Node]:
    """The placeholders and ``get_attr`` nodes whose tensors the graph may write to."""
    leaves: set[fx.Node] = set()
    seen: set[fx.Node] = set()
    stack = [argument for node in graph.nodes for argument in written_by(node, module)]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op in ("placeholder", "get_attr"):
            leaves.add(node)
        else:
            stack.extend(shares_memory_with(node, module))
    return leaves


def written_by(node: fx.Node, module: nn.Module) -> Iterator[fx.Node]:
    """The arguments that the node itself may write to."""
    yield from _nodes(out_of(node))
    writes = _WRITES.get(node.op)
    if writes is not None:
        yield from writes(node, module)


def _by_method(node: fx.Node, module: nn.Module) -> Iterable[fx.Node]:
    name = str(node.target)
    # "__imul__" and its like; "__int__" too, which does no harm
    writes = name == "__setitem__" or name.startswith("__i") or in_place_name(name)
    return _nodes(node.args[:1]) if writes else ()


def _by_module(node: fx.Node, module: nn.Module) -> Iterable[fx.Node]:
    leaf = module.get_submodule(str(node.target))
    writes = getattr(leaf, "inplace", False) or not is_known_leaf(leaf)
    return node.all_input_nodes if writes else ()


def _by_function(node: fx.Node, module: nn.Module) -> Iterable[fx.Node]:
    bodies = bodies_of(node, module)
    if bodies:
        return list(_by_bodies(bodies))
    parts = regrouped(node)
    if parts is not None:
        return [] if runs_no_code(node, module) else parts
    return next(found for rule in _RULES if (found := rule(node)) is not None)


def _by_bodies(bodies: Iterable[Body]) -> Iterator[fx.Node]:
    """What the graphs that a node runs write to, of what they are given."""
    for body in bodies:
        written = mutated_leaves(body.module.graph, body.module)
        for placeholder, operand in body.pairs():
            if placeholder in written and isinstance(operand, fx.Node):
                yield operand


_WRITES: Mapping[str, Callable[[fx.Node, nn.Module], Iterable[fx.Node]]] = {
    "call_method": _by_method,
    "call_module": _by_module,
    "call_function": _by_function,
}


def _normalising(node: fx.Node) -> list[fx.Node] | None:
    """A read form of BatchNorm or InstanceNorm writes running statistics in training."""
    call = read_call(node)
    if not isinstance(call, Call) or "norm" not in call.kind:
        return None
    flag = "use_input_stats" if call.kind == "instance_norm" else "training"
    if call.arguments[flag] is False:
        return []
    return _nodes([call.arguments["running_mean"], call.arguments["running_var"]])


def _tracking(node: fx.Node) -> list[fx.Node] | None:
    """A form of BatchNorm that is not read may update statistics: some of them write to their
    arguments without saying so in their schema.
    """
    name = getattr(node.target, "__name__", "")
    harmless = ("no_training", "no_stats", "no_update", "functional", "backward")
    tracks = "batch_norm" in name or "instance_norm" in name
    return node.all_input_nodes if tracks and not any(map(name.__contains__, harmless)) else None


def _by_schema(node: fx.Node) -> list[fx.Node] | None:
    """An overload says what it writes to."""
    if not isinstance(node.target, private.OpOverload):
        return None
    schema = private.schema_of(node.target)
    if schema is None:
        return node.all_input_nodes
    written: list[fx.Node] = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = node.args[position : position + 1] or node.kwargs.get(argument.name)
            written += _nodes(given)
    return written


def _renormalising(node: fx.Node) -> list[fx.Node] | None:
    """An embedding writes to its table where ``max_norm`` says so."""
    if node.target not in (F.embedding, F.embedding_bag):
        return None
    given: dict[Any, Any] = {**dict(enumerate(node.args)), **node.kwargs}
    if given.get(3, given.get("max_norm")) is None:
        return []
    if node.target is F.embedding_bag:  # takes the table first, too
        return node.all_input_nodes
    return _nodes([given.get(1), given.get("weight")])


def _in_place(node: fx.Node) -> list[fx.Node] | None:
    """Augmented assignments, and functions of torch's whose name or argument says so."""
    writes = node.target is operator.setitem or overwrites(node) or asks_in_place(node)
    return _first(node) if writes and is_torch(node.target) else None


def _unknown(node: fx.Node) -> list[fx.Node]:
    """Torch's own functions write to nothing else; others may write to anything."""
    return [] if is_torch(node.target) else node.all_input_nodes


# The first that knows the call says what it writes to.
_RULES: tuple[Callable[[fx.Node], list[fx.Node] | None], ...] = (
    _normalising,
    _tracking,
    _by_schema,
    _renormalising,
    _in_place,
    _unknown,
)


def _nodes(argument: Any) -> list[fx.Node]:
    """The nodes in an argument, which may be a list or tuple of them."""
    found: list[fx.Node] = []
    fx.node.map_arg(argument, found.append)
    return found


def shares_memory_with(node: fx.Node, module: nn.Module) -> list[fx.Node]:
    """The inputs whose memory the node's value may lie in."""
    if is_fresh(node, module):
        return []
    parts = regrouped(node)
    if parts is not None:
        return parts
    return _first(node) if overwrites(node) else node.all_input_nodes


def _first(node: fx.Node) -> list[fx.Node]:
    """What is written over: the first argument; any of them, where they are passed by name."""
    return _nodes(node.args[:1]) if node.args else node.all_input_nodes


def overwrites(node: fx.Node) -> bool:
    """Whether the way it is written says that it gives back its first argument, written over."""
    if node.op == "call_method":
        return in_place_name(str(node.target))
    if node.op != "call_function" or not is_torch(node.target):
        return False
    return node.target in IN_PLACE_OPERATORS or in_place_name(getattr(node.target, "__name__", ""))


def is_fresh(node: fx.Node, module: nn.Module) -> bool:
    """Whether the node's value is known to share no memory with its inputs."""
    if out_of(node) is not None:
        return False
    if node.op == "call_module":
        leaf = module.get_submodule(str(node.target))
        facts = None if getattr(leaf, "inplace", False) else facts_of_leaf(leaf)
        return facts is not None and facts.fresh
    spelling = spelling_of(node)
    if spelling is None or spelling.functional is not None or not spelling.facts.fresh:
        return False
    return node.op != "call_function" or not asks_in_place(node)
