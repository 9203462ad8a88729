"""Gives tensors to a graph: room for its slots, their values, constants for its placeholders."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import fx, nn

from bnfx.passes.fx.lowering.slots import Slot, Slots

# Of the attribute that holds what was bound.
BOUND_PREFIX = "_bound_"


def fill(module: fx.GraphModule, tensors: Mapping[str, torch.Tensor]) -> None:
    """Store ``tensors`` in the attributes of those qualified names, in place.

    A parameter stays a parameter, with its ``requires_grad``; a buffer stays a buffer.
    """
    for path, tensor in tensors.items():
        owner_path, _, name = path.rpartition(".")
        owner = module.get_submodule(owner_path)
        room = getattr(owner, name)
        if isinstance(room, nn.Parameter):
            owner.register_parameter(name, nn.Parameter(tensor, requires_grad=room.requires_grad))
        else:
            owner.register_buffer(name, tensor)


def bind(module: fx.GraphModule, tensors: Mapping[str, torch.Tensor]) -> fx.GraphModule:
    """A copy of ``module`` in which these placeholders are constants.

    The tensors are shared, not copied. The order of the other placeholders is kept.
    """
    graph = fx.Graph()
    mapped: dict[fx.Node, fx.Node] = {}
    attributes: dict[str, object] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder" and node.name in tensors:
            if not node.users:
                continue
            name = f"{BOUND_PREFIX}{node.name}"
            tensor = tensors[node.name]
            grad = tensor.requires_grad and tensor.is_leaf
            attributes[name] = nn.Parameter(tensor.detach(), requires_grad=grad)
            mapped[node] = graph.get_attr(name)
            mapped[node].meta = {
                key: value for key, value in node.meta.items() if key in ("example_value", "val")
            }
            continue
        mapped[node] = graph.node_copy(node, mapped.__getitem__)
        if node.op == "placeholder":
            mapped[node]._dynamo_source = getattr(node, "_dynamo_source", None)
        elif node.op in ("get_attr", "call_module"):
            attributes[str(node.target)] = attribute(module, str(node.target))
    bound = fx.GraphModule(attributes, graph, class_name=type(module).__name__)
    bound.meta = copy.copy(module.meta)
    bound.training = module.training
    return bound


def copy_of(module: fx.GraphModule) -> fx.GraphModule:
    """A copy that may be written to: its nodes have the same names, its tensors are shared."""
    copied = bind(module, {})
    keep_note(module, copied, "_param_name_to_source")
    return copied


def attribute(module: nn.Module, path: str) -> object:
    """What ``module`` has at a qualified name: a tensor, or a submodule."""
    value: object = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def keep_note(old: object, new: object, name: str) -> None:
    """Keep a note of Dynamo's on where inputs come from: AOTAutograd guards aliases with it."""
    if hasattr(old, name):
        setattr(new, name, getattr(old, name))


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
        name, room = slot.name.rpartition(".")[2], empty_slot(slot)
        if name in clone._buffers:  # of a layer that is not to be trained
            clone._buffers[name] = room.detach()
        else:
            clone.register_parameter(name, room)  # type: ignore[arg-type]
    return clone
