"""Writes a graph and the bodies in it: what a body stores is an operand of the op that runs it.

Bodies that several ops share stay shared where the same was rewritten in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from bnfx.passes.fx.bodies.nest import Nest
from bnfx.passes.fx.bodies.operands import Body
from bnfx.passes.fx.lowering.lower import lower
from bnfx.passes.fx.lowering.slots import FoldedCall, Lowered, WeightsAs, names_in, unused


def lower_nest(nest: Nest, form: WeightsAs, dtype: torch.dtype = torch.float64) -> Lowered:
    """Write what the rules left of ``nest``; see :func:`~bnfx.passes.fx.lowering.lower.lower`."""
    names = _Names(nest.module)
    inside: WeightsAs = "traced" if form == "traced" else "placeholders"
    calls: dict[fx.Node, FoldedCall] = {}
    for node, bodies in nest.calls.items():
        lowered = [(body, lower_nest(inner, inside, dtype)) for body, inner in bodies]
        if any(each.slots for _, each in lowered):
            calls[node] = _call(node, lowered, names, inside)
    return lower(nest.module, nest.lifted, form, dtype, calls)


class _Names:
    """The names of new bodies and slots in one graph."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._taken = names_in(module)
        self._known: dict[Any, dict[int, tuple[str, fx.GraphModule]]] = {}

    def new(self, name: str) -> str:
        name = unused(name, self._taken)
        self._taken.add(name)
        return name

    def shared(
        self, key: Any, bodies: Mapping[Body, fx.GraphModule]
    ) -> dict[int, tuple[str, fx.GraphModule]]:
        """What was written for the same bodies before, or these, with names."""
        if key not in self._known:
            self._known[key] = {
                body.at: (self.new(f"{body.path.replace('.', '_')}_folded"), module)
                for body, module in bodies.items()
            }
        return self._known[key]


def _call(
    node: fx.Node, lowered: list[tuple[Body, Lowered]], names: _Names, form: WeightsAs
) -> FoldedCall:
    """``node`` with new bodies, which all take the same operands."""
    counts = [len(_extras(each, form)) for _, each in lowered]
    bodies: dict[Body, fx.GraphModule] = {}
    for position, (body, each) in enumerate(lowered):
        before, after = sum(counts[:position]), sum(counts[position + 1 :])
        _take_more(each.module, before, counts[position], after)
        bodies[body] = each.module
    dropped = _dropped(bodies)
    for module in bodies.values():
        placeholders = module.graph.find_nodes(op="placeholder")
        for position in dropped:
            module.graph.erase_node(placeholders[position])
        module.recompile()
        module.graph.lint()
    slots = tuple(slot for _, each in lowered for slot in each.slots)
    kinds = tuple((slot.expression.shape, slot.dtype) for slot in slots)
    texts = tuple((id(body.module), text_of(module)) for body, module in bodies.items())
    shared = names.shared((str(node.target), texts, kinds, dropped), bodies)
    renamed = tuple(replace(slot, name=names.new(f"{node.name}_{slot.name}")) for slot in slots)
    tables = tuple(table for _, each in lowered for table in each.tables)
    return FoldedCall(shared, dropped, renamed, tables)


def _extras(lowered: Lowered, form: WeightsAs) -> tuple[Any, ...]:
    """What stands behind the old inputs of a body."""
    return lowered.tables if form == "traced" else lowered.slots


def _take_more(module: fx.GraphModule, before: int, own: int, after: int) -> None:
    """Give a body inputs that only others read, before and behind the ``own`` last ones."""
    graph = module.graph
    placeholders = graph.find_nodes(op="placeholder")
    behind = placeholders[-1].next if placeholders else next(iter(graph.nodes))
    first = placeholders[-own] if own else behind
    for count in range(before + after):
        with graph.inserting_before(first if count < before else behind):
            graph.placeholder(f"_of_another_body_{count}")


def _dropped(bodies: Mapping[Body, fx.GraphModule]) -> frozenset[int]:
    """The operands that bodies read before, and none does now."""
    found: set[int] = set()
    for body in bodies:
        found |= {
            at
            for at, (placeholder, _) in enumerate(body.pairs())
            if at >= body.varying and placeholder.users
        }
    for module in bodies.values():
        placeholders = module.graph.find_nodes(op="placeholder")
        found = {at for at in found if not placeholders[at].users}
    return frozenset(found)


def text_of(module: fx.GraphModule) -> tuple[Any, ...]:
    """What tells graphs apart, with those in them."""
    inner = tuple((name, text_of(each)) for name, each in _graphs_in(module))
    return (module.code, *inner)


def _graphs_in(module: fx.GraphModule) -> Iterator[tuple[str, fx.GraphModule]]:
    for name, each in module.named_children():
        if isinstance(each, fx.GraphModule):
            yield name, each
