"""Fills the slots of a rewritten graph from other numbers, without running the rules again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from bnfx.passes.algebra import Expression, Source
from bnfx.passes.fx.lowering.bind import attribute
from bnfx.passes.fx.lowering.slots import Slot
from bnfx.passes.fx.parameters.computed import ComputedConstants
from bnfx.passes.fx.parameters.sources import ATTRIBUTE_PREFIX
from bnfx.passes.values import Conditions, Values


@dataclass(frozen=True)
class Recipe:
    """What the slots of one rewritten graph hold, as a function of its parameters.

    Args:
        slots: in the order of the graph.
        conditions: what must hold for the graph to be the right one.
        module: the original graph, which has the attributes that sources may name.
        constants: what that graph computes from parameters alone, by node name.
        computed: the nodes of ``constants``, by name.
        dtype: that expressions are evaluated in.
    """

    slots: tuple[Slot, ...]
    conditions: Conditions
    module: fx.GraphModule
    constants: ComputedConstants
    computed: Mapping[str, fx.Node]
    dtype: str

    @staticmethod
    def of(
        module: fx.GraphModule,
        constants: ComputedConstants,
        slots: tuple[Slot, ...],
        values: Values,
    ) -> Recipe:
        """The recipe of a graph that was rewritten with ``values``; keeps none of its numbers."""
        stored: set[Expression] = {slot.expression for slot in slots}
        computed = {node.name: node for node in module.graph.nodes if node in constants}
        conditions = values.conditions(stored)
        return Recipe(slots, conditions, module, constants.again(_nothing), computed, values.dtype)

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
        constants = self.constants.again(lambda node: _leaf(node, tensors, self.module))

        def read(source: Source) -> torch.Tensor:
            if source.name in self.computed:
                value: torch.Tensor = constants.value(self.computed[source.name])
            elif source.name in tensors:
                value = tensors[source.name]
            else:
                value = _attribute(self.module, source.name.removeprefix(ATTRIBUTE_PREFIX))
            return value.detach()

        like = next(iter(tensors.values()), torch.zeros(()))
        return Values(read, like, self.dtype, reports=False)


def _nothing(node: fx.Node) -> torch.Tensor | None:
    return None


def _leaf(
    node: fx.Node, tensors: Mapping[str, torch.Tensor], module: nn.Module
) -> torch.Tensor | None:
    if node.op == "get_attr":
        return _attribute(module, str(node.target))
    return tensors.get(node.name)


def _attribute(module: nn.Module, path: str) -> torch.Tensor:
    value: Any = attribute(module, path)
    assert isinstance(value, torch.Tensor)
    return value
