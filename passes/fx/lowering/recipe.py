"""Fills the slots of a rewritten graph from other numbers, without running the rules again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from bnfx.passes.algebra import Expression, Source
from bnfx.passes.fx.lowering.bind import attribute
from bnfx.passes.fx.lowering.slots import Slot
from bnfx.passes.fx.parameters.computed import ComputedConstants
from bnfx.passes.fx.parameters.scope import WHOLE, Scope
from bnfx.passes.fx.parameters.sources import ATTRIBUTE_PREFIX
from bnfx.passes.values import Conditions, Values


@dataclass(frozen=True, eq=False)
class Computing:
    """A graph that computes constants from parameters alone.

    Args:
        module: has the attributes that they read.
        constants: the nodes.
        scope: where the graph stands.
    """

    module: fx.GraphModule
    constants: ComputedConstants
    scope: Scope = WHOLE

    def by_name(self) -> dict[str, tuple[Computing, fx.Node]]:
        """Each node, by the name of its source."""
        nodes = (node for node in self.module.graph.nodes if node in self.constants)
        return {f"{self.scope.computed}{node.name}": (self, node) for node in nodes}

    def over(self, read: Callable[[fx.Node, Source | None], Any]) -> ComputedConstants:
        """The same nodes over other numbers."""
        return self.constants.again(lambda node: read(node, self.scope.given.get(node.name)))


@dataclass(frozen=True)
class Recipe:
    """What the slots of one rewritten graph hold, as a function of its parameters.

    Args:
        slots: in the order of the graph.
        conditions: what must hold for the graph to be the right one.
        module: the original graph, which has the attributes that sources may name.
        computed: what that graph, and those in it, compute from parameters alone, by name.
        dtype: that expressions are evaluated in.
    """

    slots: tuple[Slot, ...]
    conditions: Conditions
    module: fx.GraphModule
    computed: Mapping[str, tuple[Computing, fx.Node]]
    dtype: str

    @staticmethod
    def of(
        module: fx.GraphModule,
        computing: Iterable[Computing],
        slots: tuple[Slot, ...],
        values: Values,
    ) -> Recipe:
        """The recipe of a graph that was rewritten with ``values``; keeps none of its numbers."""
        stored: set[Expression] = {slot.expression for slot in slots}
        computed: dict[str, tuple[Computing, fx.Node]] = {}
        for each in computing:
            kept = replace(each, constants=each.constants.again(_nothing))
            computed.update(kept.by_name())
        return Recipe(slots, values.conditions(stored), module, computed, values.dtype)

    def fill(self, tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor] | None:
        """What the slots hold for these parameters and scalars, by placeholder name.

        They are read several times, so nobody may write to them meanwhile.

        ``None`` where the graph is not the right one for their numbers.
        """
        with torch.inference_mode(False), torch.no_grad():
            values = self._values(tensors)
            if not self.conditions.hold(values):
                return None
            return [values.stored(slot.expression, slot.dtype) for slot in self.slots]

    def _values(self, tensors: Mapping[str, torch.Tensor]) -> Values:
        tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        constants: dict[Computing, ComputedConstants] = {}

        def read(source: Source) -> torch.Tensor:
            if source.name in self.computed:
                graph, node = self.computed[source.name]
                if graph not in constants:
                    constants[graph] = graph.over(lambda leaf, given: leaf_of(graph, leaf, given))
                value: torch.Tensor = constants[graph].value(node)
            elif source.name in tensors:
                value = tensors[source.name]
            else:
                value = _attribute(self.module, source.name.removeprefix(ATTRIBUTE_PREFIX))
            return value.detach()

        def leaf_of(graph: Computing, node: fx.Node, given: Source | None) -> torch.Tensor | None:
            if node.op == "get_attr":
                return _attribute(graph.module, str(node.target))
            return tensors.get(node.name) if given is None else read(given)

        like = next(iter(tensors.values()), torch.zeros(()))
        return Values(read, like, self.dtype, measured=False)


def _nothing(node: fx.Node) -> torch.Tensor | None:
    return None


def _attribute(module: nn.Module, path: str) -> torch.Tensor:
    value: Any = attribute(module, path)
    assert isinstance(value, torch.Tensor)
    return value
