"""Neutral graph -> fx.Graph: untouched nodes are copied, rewritten ones are written anew.

New weights come in as *slots*: parameters of the lowered module (``attributes``), or extra
placeholders (``placeholders``) through which a caller passes them at every call. What a slot holds
is its expression; who evaluates it, and when, is the caller's affair.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn

from bnfx.passes.fx.bind import attribute
from bnfx.passes.fx.calls import Call, read_call
from bnfx.passes.fx.lift import Lifted
from bnfx.passes.fx.metadata import value_of
from bnfx.passes.fx.slots import Slot, Slots, slots_of
from bnfx.passes.graph import Linear, Node

Form = Literal["attributes", "placeholders"]


@dataclass(frozen=True)
class Lowered:
    """The lowered module and the slots that must be filled before it runs."""

    module: fx.GraphModule
    slots: tuple[Slot, ...]


def lower(module: fx.GraphModule, lifted: Lifted, form: Form) -> Lowered:
    """Write the rewritten neutral graph as a new module; ``module`` is untouched.

    The new module shares the tensors and leaf modules that were not rewritten.
    """
    slots = slots_of(module, lifted, by_module=form == "attributes")
    graph = fx.Graph(tracer_cls=module.graph._tracer_cls)
    graph.set_codegen(copy.copy(module.graph._codegen))
    writer = _Writer(module, lifted, graph, slots, form)
    writer.write()
    lowered = fx.GraphModule(writer.attributes(), graph, class_name=type(module).__name__)
    lowered.meta = copy.copy(module.meta)
    lowered.training = module.training
    _keep(module, lowered, "_param_name_to_source")
    lowered.graph.lint()
    every = tuple(slot for some in slots.values() for slot in some.all())
    return Lowered(lowered, every)


class _Writer:
    """Writes one graph; holds the map from neutral nodes to the nodes written so far."""

    def __init__(
        self,
        module: fx.GraphModule,
        lifted: Lifted,
        graph: fx.Graph,
        slots: Mapping[Node, Slots],
        form: Form,
    ) -> None:
        self.module = module
        self.lifted = lifted
        self.graph = graph
        self.slots = slots
        self.form = form
        self.written: dict[Node, fx.Node] = {}
        self.placeholders: dict[str, fx.Node] = {}
        self.new_modules: dict[str, nn.Module] = {}

    def write(self) -> None:
        last_input = max(
            (i for i, node in enumerate(self.lifted.nodes) if node.op == "placeholder"), default=-1
        )
        if last_input < 0:
            self._write_slot_placeholders()
        for position, (fx_node, node) in enumerate(self.lifted.nodes.items()):
            if node in self.lifted.graph:
                self.written[node] = self._write_node(fx_node, node)
            if position == last_input:
                self._write_slot_placeholders()
        self._erase_dead()

    def _write_slot_placeholders(self) -> None:
        if self.form == "placeholders":
            for some in self.slots.values():
                for slot in some.all():
                    self.placeholders[slot.name] = self.graph.placeholder(slot.name)

    def _write_node(self, fx_node: fx.Node, node: Node) -> fx.Node:
        if node not in self.slots:
            copied = self.graph.node_copy(fx_node, self._new)
            _keep(fx_node, copied, "_dynamo_source")
            copied.meta.pop("grapharg", None)  # refers to the argument that happened to be there
            return copied
        if isinstance(node.role, Linear):
            written = self._write_linear(fx_node, node, self.slots[node])
        else:
            written = self._write_affine(fx_node, node, self.slots[node])
        written.meta = copy.copy(fx_node.meta)
        return written

    def _new(self, old: fx.Node) -> fx.Node:
        """What stands for an old node; for a folded BatchNorm, what it was folded into."""
        node = self.lifted.nodes[old]
        while node not in self.lifted.graph:
            (node,) = node.inputs
        return self.written[node]

    def _read(self, slot: Slot | None) -> fx.Node | None:
        if slot is None:
            return None
        if self.form == "placeholders":
            return self.placeholders[slot.name]
        return self.graph.get_attr(slot.name)

    def _write_linear(self, fx_node: fx.Node, node: Node, slots: Slots) -> fx.Node:
        if fx_node.op == "call_module":
            owner = slots.weight.name.rpartition(".")[0]
            old = self.module.get_submodule(str(fx_node.target))
            self.new_modules[owner] = _with_room(old, slots)
            return self.graph.call_module(owner, (self.written[node.inputs[0]],))
        call = read_call(fx_node)
        assert isinstance(call, Call)
        # Written as it was written before, but for weight and bias: what was left to its default
        # stays so, and ATen's lists stay lists.
        args = list(fx.node.map_arg(fx_node.args, self._new))
        kwargs = dict(fx.node.map_arg(fx_node.kwargs, self._new))
        for name, slot in (("weight", slots.weight), ("bias", slots.bias)):
            position = call.order.index(name)
            if position < len(args):
                args[position] = self._read(slot)
            elif slot is not None:
                kwargs[name] = self._read(slot)
        return self.graph.create_node("call_function", fx_node.target, tuple(args), kwargs)

    def _write_affine(self, fx_node: fx.Node, node: Node, slots: Slots) -> fx.Node:
        data = self.written[node.inputs[0]]
        scaled = self.graph.call_function(torch.mul, (data, self._read(slots.weight)))
        scaled.meta = {
            key: fx_node.meta[key]
            for key in ("nn_module_stack", "stack_trace")
            if key in fx_node.meta
        }
        result = self.graph.call_function(torch.add, (scaled, self._read(slots.bias)))
        if node.dtype is None:
            result.meta = copy.copy(scaled.meta)
            result = self.graph.call_method("type_as", (result, data))
        elif node.dtype != slots.weight.dtype:
            result.meta = copy.copy(scaled.meta)
            result = self.graph.call_method("to", (result, getattr(torch, node.dtype)))
        value = value_of(node.inputs[0].origin)
        if value is not None and not _is_dense(value):
            # BatchNorm lays its output out anew; a multiply-add keeps the layout of a transpose.
            result.meta = copy.copy(scaled.meta)
            result = self.graph.call_method("contiguous", (result,))
        return result

    def _erase_dead(self) -> None:
        """Drop reads of old weights and ``eps`` that only rewritten nodes had."""
        for old, node in reversed(list(self.lifted.nodes.items())):
            new = self.written.get(node)
            if new is None or new.users or not old.users:
                continue
            if old.op == "get_attr" or (old.op == "call_method" and old.target == "item"):
                self.graph.erase_node(new)

    def attributes(self) -> dict[str, Any]:
        """Every attribute that the new graph names."""
        named = {slot.name: slot for some in self.slots.values() for slot in some.all()}
        found: dict[str, Any] = {}
        for node in self.graph.nodes:
            target = str(node.target)
            if node.op == "get_attr" and target in named:
                found[target] = _empty(named[target])
            elif node.op == "get_attr" or node.op == "call_module":
                new = self.new_modules.get(target)
                found[target] = attribute(self.module, target) if new is None else new
        return found


def _is_dense(value: torch.Tensor) -> bool:
    """Whether the layout is one that BatchNorm keeps."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return value.is_contiguous() or (
        value.dim() in formats and value.is_contiguous(memory_format=formats[value.dim()])
    )


def _keep(old: object, new: object, name: str) -> None:
    """Keep a note of Dynamo's on where inputs come from: AOTAutograd guards aliases with it."""
    if hasattr(old, name):
        setattr(new, name, getattr(old, name))


def _empty(slot: Slot) -> torch.Tensor:
    room = torch.empty(slot.expression.shape, dtype=getattr(torch, slot.dtype))
    return nn.Parameter(room, requires_grad=slot.requires_grad) if slot.is_parameter else room


def _with_room(module: nn.Module, slots: Slots) -> nn.Module:
    """A copy of a leaf module that shares nothing that will be replaced."""
    clone = copy.copy(module)
    for store in ("_parameters", "_buffers", "_modules"):
        setattr(clone, store, dict(getattr(module, store)))
    for slot in slots.all():
        clone.register_parameter(slot.name.rpartition(".")[2], _empty(slot))  # type: ignore[arg-type]
    return clone
