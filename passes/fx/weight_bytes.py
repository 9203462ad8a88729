"""How many bytes of constants a graph reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import fx

from bnfx.passes.fx.lowering.bind import attribute
from bnfx.passes.fx.lowering.slots import Slot


def weight_bytes(
    module: fx.GraphModule, parameters: Mapping[str, torch.Tensor], slots: Iterable[Slot] = ()
) -> int:
    """The bytes of the floating-point parameters and buffers that some node reads, each once.

    Args:
        parameters: those that are placeholders, by name.
        slots: of a lowered graph.
    """
    rooms = {slot.name: _room(slot) for slot in slots}
    read = {id(tensor): tensor for tensor in _read(module, {**parameters, **rooms})}
    return sum(
        int(tensor.numel()) * tensor.element_size()
        for tensor in read.values()
        if tensor.is_floating_point()
    )


def _room(slot: Slot) -> torch.Tensor:
    return torch.empty(slot.expression.shape, dtype=getattr(torch, slot.dtype), device="meta")


def _read(module: fx.GraphModule, parameters: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    for node in module.graph.nodes:
        if node.op == "call_module":
            leaf = module.get_submodule(str(node.target))
            yield from (*leaf.parameters(), *leaf.buffers())
        elif not node.users:
            continue
        elif node.op == "placeholder" and node.name in parameters:
            yield parameters[node.name]
        elif node.op == "get_attr":
            value = attribute(module, str(node.target))
            if isinstance(value, torch.Tensor):
                yield value
