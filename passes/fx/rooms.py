"""Room for the slots of a lowered module: empty tensors, and leaf modules that hold them."""

from __future__ import annotations

import copy

import torch
from torch import nn

from bnfx.passes.fx.lowering.slots import Slot, Slots


def empty_slot(slot: Slot) -> torch.Tensor:
    """A tensor of the slot's shape and dtype, to be filled."""
    room = torch.empty(slot.expression.shape, dtype=getattr(torch, slot.dtype))
    return nn.Parameter(room, requires_grad=slot.requires_grad) if slot.is_parameter else room


def with_room(module: nn.Module, slots: Slots) -> nn.Module:
    """A copy of a leaf module that shares nothing that will be replaced."""
    clone = copy.copy(module)
    for store in ("_parameters", "_buffers", "_modules"):
        setattr(clone, store, dict(getattr(module, store)))
    for slot in slots.all():
        clone.register_parameter(slot.name.rpartition(".")[2], empty_slot(slot))  # type: ignore[arg-type]
    return clone
