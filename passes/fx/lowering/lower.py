"""Neutral graph -> fx.Graph: untouched nodes are copied, rewritten ones are written anew.

New weights come in as *slots*: parameters of the lowered module (``attributes``), or extra
placeholders (``placeholders``) through which a caller passes them at every call. What a slot holds
is its expression; who evaluates it, and when, is the caller's affair. In the form ``traced`` the
graph does, at each call (:mod:`~bnfx.passes.fx.lowering.trace`); extra placeholders are numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn

from bnfx.passes.algebra.expressions.rearrange import Table
from bnfx.passes.crossing import Identity
from bnfx.passes.fx.bodies.operands import run_instead
from bnfx.passes.fx.lift import Lifted
from bnfx.passes.fx.lowering.bind import attribute, empty_slot, keep_note, with_room
from bnfx.passes.fx.lowering.emit import (
    lay_out,
    write_again,
    write_functional,
    write_multiply_add,
    write_operator,
)
from bnfx.passes.fx.lowering.marks import inherit
from bnfx.passes.fx.lowering.slots import FoldedCall, Lowered, Slot, Slots, WeightsAs, slots_of
from bnfx.passes.fx.lowering.trace import trace_slots
from bnfx.passes.fx.memory.aliasing import shares_memory_with
from bnfx.passes.fx.memory.callee import is_torchs_call
from bnfx.passes.graph import Affine, Linear, Move, Node, Opaque


def lower(
    module: fx.GraphModule,
    lifted: Lifted,
    form: WeightsAs,
    dtype: torch.dtype = torch.float64,
    calls: Mapping[fx.Node, FoldedCall] = MappingProxyType({}),
) -> Lowered:
    """Write the rewritten neutral graph as a new module, which shares the tensors and leaf modules
    that were not rewritten; ``module`` is untouched.

    Args:
        module: the original.
        lifted: after the rules ran.
        form: where the slots are.
        dtype: that a traced graph computes weights in.
        calls: the nodes whose bodies were rewritten.
    """
    slots = slots_of(module, lifted, form == "attributes", calls.values())
    graph = fx.Graph(tracer_cls=module.graph._tracer_cls)
    graph.set_codegen(copy.copy(module.graph._codegen))
    writer = _GraphWriter(module, lifted, graph, slots, form, dtype, calls)
    writer.write()
    lowered = fx.GraphModule(writer.attributes(), graph, class_name=type(module).__name__)
    lowered.meta = copy.copy(module.meta)
    lowered.training = module.training
    keep_note(module, lowered, "_param_name_to_source")
    lowered.graph.lint()
    return Lowered(lowered, writer.every_slot, tuple(writer.tables))


class _GraphWriter:
    """Writes one graph; holds the map from neutral nodes to the nodes written so far."""

    def __init__(
        self,
        module: fx.GraphModule,
        lifted: Lifted,
        graph: fx.Graph,
        slots: Mapping[Node, Slots],
        form: WeightsAs,
        dtype: torch.dtype,
        calls: Mapping[fx.Node, FoldedCall],
    ) -> None:
        self.dtype = dtype
        self.calls = calls
        own = [slot for some in slots.values() for slot in some.all()]
        self.every_slot = (*own, *(slot for call in calls.values() for slot in call.slots))
        self.written_slots = own if form == "traced" else self.every_slot
        self.tables: dict[Table, fx.Node] = {}
        self.module = module
        self.lifted = lifted
        self.graph = graph
        self.slots = slots
        self.form = form
        self.written: dict[Node, fx.Node] = {}
        self.placeholders: dict[str, fx.Node] = {}
        self.new_modules: dict[str, nn.Module] = {}

    def write(self) -> None:
        inputs = [node for node in self.lifted.graph if node.origin.op == "placeholder"]
        if not inputs:
            self._write_slot_placeholders()
        for node in self.lifted.graph:
            if not _is_known_rank(node):
                self.written[node] = self._write_node(node.origin, node)
            if inputs and node is inputs[-1]:
                self._write_slot_placeholders()
        self._erase_dead()

    def _write_slot_placeholders(self) -> None:
        if self.form == "placeholders":
            for slot in self.written_slots:
                self.placeholders[slot.name] = self.graph.placeholder(slot.name)
        elif self.form == "traced":
            others = [table for call in self.calls.values() for table in call.tables]
            self.placeholders, self.tables = trace_slots(
                self.graph, self.written_slots, self.lifted, self.dtype, others
            )

    def _write_node(self, fx_node: fx.Node, node: Node) -> fx.Node:
        if node not in self.slots:
            if self.lifted.is_rewritten(node):
                return self._write_contiguous(fx_node, node)
            copied = self._copy(fx_node, node)
            keep_note(fx_node, copied, "_dynamo_source")
            copied.meta.pop("grapharg", None)  # refers to the argument that happened to be there
            if (call := self.calls.get(fx_node)) is not None:
                self._run_folded(copied, call)
            return copied
        slots = self.slots[node]
        if isinstance(node.role, Affine):
            written = self._write_affine(fx_node, node, slots)
        elif self.lifted.keeps_call(node) and not self._lacks_room(fx_node):
            written = self._write_linear(fx_node, node, slots)
        else:
            assert isinstance(node.role, Linear)
            if node.role.hides_padding:
                raise ValueError(f"no function pads as {fx_node.target} does")
            data = self.written[node.inputs[0]]
            weight, bias = self._read(slots.weight), self._read(slots.bias)
            written = write_operator(self.graph, node.role.operator, data, weight, bias)
        inherit(written, fx_node, is_border=self.lifted.is_border(node))
        return written

    def _lacks_room(self, fx_node: fx.Node) -> bool:
        """Whether the call is one of a module, which takes no weights as inputs."""
        return fx_node.op == "call_module" and self.form != "attributes"

    def _run_folded(self, written: fx.Node, call: FoldedCall) -> None:
        """Make a node run the new bodies."""
        with self.graph.inserting_before(written):
            slots = () if self.form == "traced" else map(self._read, call.slots)
            more = [*slots, *(self.tables[table] for table in call.tables)]
            names = {at: self.graph.get_attr(path) for at, (path, _) in call.bodies.items()}
        run_instead(written, names, call.dropped, more)

    def _write_contiguous(self, fx_node: fx.Node, node: Node) -> fx.Node:
        """What is left of an op that laid its output out anew."""
        assert isinstance(node.role, Move) and node.role.movement == Identity(contiguous=True)
        is_norm = node in self.lifted.norms
        written = lay_out(self.graph, self.written[node.inputs[0]], fx_node, is_norm)
        written.meta = copy.copy(fx_node.meta)
        return written

    def _copy(self, fx_node: fx.Node, node: Node) -> fx.Node:
        """The node as it was; but one that wrote over a value of its own makes a new one, if what
        stands for that value now is not its own.
        """
        if fx_node not in self.lifted.in_place:
            return self.graph.node_copy(fx_node, self._new)
        first = self.lifted.graph.resolve(self.lifted.nodes[fx_node.args[0]])  # type: ignore[index]
        if self._owns(first, node):
            return self.graph.node_copy(fx_node, self._new)
        return write_functional(self.graph, fx_node, self.module, self._new)

    def _owns(self, value: Node, reader: Node) -> bool:
        """Whether ``reader`` alone can see the memory that ``value`` lies in."""
        while value.data_users() == [reader] and not value.pinned:
            if not isinstance(value.role, (Move, Opaque)):
                return True
            if not self.lifted.is_rewritten(value):  # else it lays out what may lie so by now
                if not is_torchs_call(value.origin, self.module):
                    return False
                if not shares_memory_with(value.origin, self.module):
                    return True
            if len(value.inputs) != 1:
                return False
            value, reader = value.inputs[0], value
        return False

    def _new(self, old: fx.Node) -> fx.Node:
        """What stands for an old node; for a folded BatchNorm, what it was folded into."""
        node = self.lifted.graph.resolve(self.lifted.nodes[old])
        if _is_known_rank(node):
            # fx takes a number where an argument was a node
            return self.lifted.nodes[old.all_input_nodes[0]].rank  # type: ignore[return-value]
        return self.written[node]

    def _read(self, slot: Slot | float | None) -> fx.Node | float | None:
        if not isinstance(slot, Slot):
            return slot
        if self.form != "attributes":
            return self.placeholders[slot.name]
        return self.graph.get_attr(slot.name)

    def _write_linear(self, fx_node: fx.Node, node: Node, slots: Slots) -> fx.Node:
        """The call as it was written, but for weight and bias."""
        assert isinstance(slots.weight, Slot)
        data = self.written[node.inputs[0]]
        if fx_node.op == "call_module":
            owner = slots.weight.name.rpartition(".")[0]
            old = self.module.get_submodule(str(fx_node.target))
            self.new_modules[owner] = with_room(old, slots)
            return self.graph.call_module(owner, (data,))
        weight, bias = self._read(slots.weight), self._read(slots.bias)
        return write_again(self.graph, fx_node, data, weight, bias)

    def _write_affine(self, fx_node: fx.Node, node: Node, slots: Slots) -> fx.Node:
        data = self.written[node.inputs[0]]
        scale, shift = self._read(slots.weight), self._read(slots.bias)
        is_norm = node in self.lifted.norms
        return write_multiply_add(self.graph, fx_node, node, data, scale, shift, slots, is_norm)

    def _erase_dead(self) -> None:
        """Drop reads of old weights, and what was computed from them, that nobody needs now."""
        for old, node in reversed(list(self.lifted.nodes.items())):
            new = self.written.get(node)
            if new is None or new.users or not old.users:
                continue
            reads = old.op == "get_attr" or (old.op == "call_method" and old.target == "item")
            if reads or old in self.lifted.constants:
                self.graph.erase_node(new)

    def attributes(self) -> dict[str, Any]:
        """Every attribute that the new graph names."""
        named = {slot.name: slot for slot in self.written_slots}
        bodies = dict(body for call in self.calls.values() for body in call.bodies.values())
        found: dict[str, Any] = {}
        for node in self.graph.nodes:
            target = str(node.target)
            if node.op == "get_attr" and target in named:
                found[target] = empty_slot(named[target])
            elif node.op in ("get_attr", "call_module"):
                new = bodies.get(target) or self.new_modules.get(target)
                found[target] = attribute(self.module, target) if new is None else new
        return found


def _is_known_rank(node: Node) -> bool:
    """Whether it is the rank of a value that is not computed any more."""
    return isinstance(node.role, Opaque) and node.role.reads_rank and not node.inputs
