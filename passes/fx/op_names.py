"""What reports call the nodes of a graph: the same, whichever front end captured it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping

import torch
from torch import fx

from bnfx.passes.fx.facts.spelling import facts_of, facts_of_class
from bnfx.passes.fx.metadata import module_path_of, reads_metadata_only

_VARIABLE = re.compile(r"^[lL]_(\w+?)_$")  # a local variable, as Dynamo writes it


def op_names(graph: fx.Graph) -> Mapping[fx.Node, str]:
    """A name for each node.

    A module's call has the module's path. Any other op has its kind, behind the path of the module
    that runs it where one is known, counted from the second on: ``div``, ``block1:mul_1``. So
    ``x / 255`` is ``div`` for Dynamo, ``torch.export`` and ``torch.fx``, which call the node by
    the variable, by ATen's op, and ``truediv``.
    """
    seen: Counter[str] = Counter()
    return {node: _name(node, seen) for node in graph.nodes}


def _name(node: fx.Node, seen: Counter[str]) -> str:
    if not node.op.startswith("call_"):
        return _VARIABLE.sub(r"\1", node.name)
    path, is_call = module_path_of(node)
    if is_call:
        return path
    name = f"{path}:{op_kind(node)}" if path else op_kind(node)
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}_{seen[name] - 1}"


def op_kind(node: fx.Node) -> str:
    """The op's name in the table of facts, else the last part of its target's own name."""
    facts = facts_of(node)
    if facts is not None:
        return facts.name
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet))


def shown_kind(node: fx.Node, module: fx.GraphModule, parameters: Collection[str]) -> str:
    """What a picture calls the node; ``""`` for parameters, sizes and what else it leaves out.

    Args:
        parameters: names of the placeholders that are parameters.
    """
    if node.op == "call_module":
        kind = type(module.get_submodule(str(node.target)))
        facts = facts_of_class(kind)
        return kind.__name__ if facts is None else facts.name
    if node.op == "placeholder":
        return "" if node.name in parameters else "input"
    if node.op in ("get_attr", "output"):
        return "" if node.op == "get_attr" else "output"
    value = node.meta.get("val", node.meta.get("example_value"))
    is_size = isinstance(value, (int, torch.SymInt, torch.Size))
    return "" if is_size or reads_metadata_only(node) else op_kind(node)
