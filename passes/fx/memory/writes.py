"""Which values a graph writes to while it runs, besides parameters.

A rewrite may make a reader read another value, or read it later. Where something writes to the
memory of a value, neither is safe; but most in-place ops overwrite a value that nobody else will
see, and are functions in all but name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from bnfx.passes.fx.calls.modules import facts_of_leaf
from bnfx.passes.fx.facts.spelling import parameters_of, spelling_of
from bnfx.passes.fx.memory.aliasing import shares_memory_with, written_by
from bnfx.passes.fx.memory.callee import is_torchs_call
from bnfx.passes.fx.metadata import value_of


@dataclass(frozen=True)
class Writes:
    """What a graph writes to besides its parameters.

    Args:
        pinned: values whose memory something may write to after they were computed.
        in_place: nodes that write to their first argument, which nothing else reads or shares: they
            may as well make a new value.
    """

    pinned: frozenset[fx.Node]
    in_place: frozenset[fx.Node]


def written_values(
    graph: fx.Graph, module: nn.Module, aliases: Callable[[set[fx.Node]], Iterable[fx.Node]]
) -> Writes:
    """Follow the memory of every value: views and unknown ops share their inputs'.

    Args:
        aliases: which inputs and attributes may share memory with some of them that are written to.
    """
    parent: dict[fx.Node, fx.Node] = {}

    def find(node: fx.Node) -> fx.Node:
        while parent.setdefault(node, node) is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    own: set[fx.Node] = set()  # values in memory that nobody else can see
    flagged: list[fx.Node] = []
    in_place: set[fx.Node] = set()
    for node in graph.nodes:
        written = list(dict.fromkeys(written_by(node, module)))
        if written and _only_overwrites(node, module, written, own):
            in_place.add(node)
            own.add(node)
            continue
        flagged += written
        # What is given back together does not share memory for that.
        sources = [] if node.op == "output" else shares_memory_with(node, module)
        if is_torchs_call(node, module) and (not sources or _takes_over(node, sources, own)):
            own.add(node)
        for source in sources:
            parent[find(source)] = find(node)
    roots = {find(node) for node in flagged}
    leaves = {node for node in parent if node.op in ("placeholder", "get_attr")}
    if written_leaves := {node for node in leaves if find(node) in roots}:
        roots |= {find(node) for node in aliases(written_leaves)}
    pinned = (
        frozenset(node for node in graph.nodes if find(node) in roots) if roots else frozenset()
    )
    return Writes(pinned, frozenset(in_place))


def _takes_over(node: fx.Node, sources: list[fx.Node], own: set[fx.Node]) -> bool:
    """Whether a view is all that anybody reads of a value that nobody else can see."""
    return len(sources) == 1 and sources[0] in own and list(sources[0].users) == [node]


def _only_overwrites(
    node: fx.Node, module: nn.Module, written: list[fx.Node], own: set[fx.Node]
) -> bool:
    """Whether an op writes its result over its first argument, and nobody else will see that."""
    (first, *others) = written
    return (
        not others
        and node.args[:1] == (first,)
        and list(first.users) == [node]
        and first in own
        and _has_functional_form(node, module)
        and _is_of_one_dtype(node)
    )


def writes_itself(node: fx.Node, module: nn.Module) -> bool:
    """Whether the node is one that writes to something."""
    return any(True for _ in written_by(node, module))


def _has_functional_form(node: fx.Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        return functional_leaf(module.get_submodule(str(node.target))) is not None
    return functional_form(node) is not None


def functional_form(node: fx.Node) -> Any | None:
    """The target that makes a new value where the node's own writes over its first argument."""
    spelling = spelling_of(node)
    if spelling is None or not spelling.facts.keeps_dtype:
        return None
    return node.target if "inplace" in node.kwargs else spelling.functional


def functional_leaf(leaf: nn.Module) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """The function that makes a new value where the module writes over its input, and its other
    arguments.
    """
    facts = facts_of_leaf(leaf)
    if facts is None or not facts.keeps_dtype:
        return None
    function: Any = getattr(F, facts.name, None)
    names = parameters_of(function)  # none of what is no function
    if "inplace" not in names:
        return None
    return function, {name: getattr(leaf, name) for name in names[1:] if name != "inplace"}


def _is_of_one_dtype(node: fx.Node) -> bool:
    """Whether all tensors that the node reads are of one dtype, as far as that is known."""
    values = map(value_of, node.all_input_nodes)
    return len({value.dtype for value in values if value is not None}) <= 1
