"""Folds an ``ExportedProgram``: the same program, with fewer parameters.

The graph is rewritten where it stands, so names and order of the inputs, range constraints, the
tree of the outputs, what is mutated, and nested graphs are those of the original. Weights are
placeholders there; folded ones take the place of the old, and those that no node reads any more
leave the signature and the state dict.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    TensorArgument,
)

from bnfx.folding.programs.decomposed import compose, functionalise, settle
from bnfx.folding.programs.placeholders import describe, name_placeholders, order_placeholders
from bnfx.folding.programs.stored import STORED, fixed_tensors, in_constants
from bnfx.passes.fx import Rewritten, rewrite
from bnfx.passes.fx.lowering.slots import Slot
from bnfx.passes.fx.surveys import given_up
from bnfx.passes.report import GraphReport
from bnfx.passes.rules.ordered import RULES
from bnfx.passes.rules.rule import Rule


def fold_exported(
    program: ExportedProgram, rules: Sequence[Rule] = RULES
) -> tuple[ExportedProgram, GraphReport]:
    """A folded copy of ``program``, and what became of its BatchNorms.

    Training IR stays training IR, decomposed IR stays decomposed.

    Args:
        program: from ``torch.export.export``, decomposed or not. It is not changed.
        rules: those to apply.

    Returns:
        A program that shares no tensor with the original. Folded weights have the names of those
        that they replace (``layer1.0.conv1.weight``).
    """
    module, decomposed = _readable(program)
    rewritten = rewrite(
        module, fixed_tensors(program), form="placeholders", rules=rules, bodies=False
    )
    try:
        weights = rewritten.evaluate() if rewritten.slots else []
        assert weights is not None, "an exported program's parameters are no fake tensors"
        folded = _Assembly(program, module, rewritten).assemble(weights, decomposed)
    except Exception as error:
        report = given_up(module, error, "computing the folded weights", "program")
        return copy.deepcopy(program), report
    return folded, rewritten.report


def survey_exported(program: ExportedProgram) -> GraphReport:
    """What :func:`fold_exported` would do."""
    module, _ = _readable(program)
    parameters = fixed_tensors(program)
    return rewrite(module, parameters, form="placeholders", detailed=True, bodies=False).report


def _readable(program: ExportedProgram) -> tuple[fx.GraphModule, bool]:
    """A copy of the graph in the lifter's words, and whether it was decomposed."""
    module = fx.GraphModule(program.graph_module, copy.deepcopy(program.graph))
    module.meta = copy.copy(program.graph_module.meta)
    name_placeholders(module.graph, _input_names(program))
    functionalise(module)
    return module, compose(module.graph)


def _input_names(program: ExportedProgram) -> list[str]:
    return [spec.arg.name for spec in program.graph_signature.input_specs]


class _Assembly:
    """Puts a program together from a rewritten graph and the old program."""

    def __init__(self, program: ExportedProgram, before: fx.GraphModule, after: Rewritten) -> None:
        self.program = program
        self.before = {node.name: node for node in before.graph.nodes}
        self.after = after
        self.old = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        self.module = after.module
        name_placeholders(self.module.graph, self.old)

    def assemble(self, weights: Sequence[torch.Tensor], decomposed: bool) -> ExportedProgram:
        graph = self.module.graph
        dropped = self._drop_unread(graph)
        kept = [spec for spec in self.old.values() if spec.arg.name not in dropped]
        state, constants = dict(self.program.state_dict), dict(self.program.constants)
        for spec in map(self.old.__getitem__, dropped):
            (constants if in_constants(self.program, spec) else state).pop(str(spec.target), None)
        state, constants = copy.deepcopy(
            (state, constants)
        )  # with one memo: what is shared stays so
        added = []
        for slot, weight in zip(self.after.slots, weights, strict=True):
            added.append(self._add(slot, weight, state, constants))
        first = next((i for i, spec in enumerate(kept) if spec.kind not in _LEADING), len(kept))
        specs = [*kept[:first], *added, *kept[first:]]
        order_placeholders(graph, [spec.arg.name for spec in specs])
        settle(graph, decomposed)
        describe(graph, {spec.arg.name: state[str(spec.target)] for spec in added})
        graph.lint()
        self.module.recompile()
        return ExportedProgram(
            root=self.module,
            graph=graph,
            graph_signature=ExportGraphSignature(specs, self._output_specs(graph)),
            state_dict=state,
            range_constraints=copy.deepcopy(self.program.range_constraints),
            module_call_graph=self._module_call_graph(graph),
            example_inputs=copy.deepcopy(self.program.example_inputs),
            constants=constants,
            verifiers=self.program.verifiers,
        )

    def _drop_unread(self, graph: fx.Graph) -> set[str]:
        """Erase placeholders of tensors that only what was folded away had read."""
        dropped: set[str] = set()
        owners: dict[str, list[str]] = {}  # of each module: its tensors' placeholders
        for name, spec in self.old.items():
            if spec.kind in STORED:
                owners.setdefault(str(spec.target).rpartition(".")[0], []).append(name)
        now = {node.name: node for node in graph.find_nodes(op="placeholder")}
        for names in owners.values():
            some = {n for n in names if self.before[n].users and not now[n].users}
            if all(not now[name].users for name in names) and some:
                some = set(names)  # num_batches_tracked goes with the statistics that it counts
            dropped |= some
        written = {spec.target for spec in self.program.graph_signature.output_specs}
        dropped = {name for name in dropped if self.old[name].target not in written}
        for name in dropped:
            graph.erase_node(now[name])
        return dropped

    def _add(
        self,
        slot: Slot,
        weight: torch.Tensor,
        state: dict[str, Any],
        constants: Mapping[str, Any],
    ) -> InputSpec:
        """Store a folded tensor under the name of what it replaces."""
        wanted = self._name(slot)
        name, count = wanted, 0
        while name in state or name in constants:
            count += 1
            name = f"{wanted}_folded{count}"
        if slot.is_parameter:
            state[name] = nn.Parameter(weight, requires_grad=slot.requires_grad)
            return InputSpec(InputKind.PARAMETER, TensorArgument(slot.name), name)
        state[name] = weight
        return InputSpec(InputKind.BUFFER, TensorArgument(slot.name), name, persistent=True)

    def _name(self, slot: Slot) -> str:
        for part in ("weight", "bias"):
            call, found, _ = slot.name.rpartition(f"_{part}")
            if not found or call not in self.before or not slot.is_parameter:
                continue
            reads = self.before[call].all_input_nodes
            targets = [str(self.old[n.name].target) for n in reads if n.name in self.old]
            targets = [t for t in targets if t in self.program.state_dict]
            if targets:
                owner, dot, last = targets[0].rpartition(".")
                renamed = part if last in ("weight", "bias") else f"{last}_{part}"
                keeps = part == "weight" and last != "bias"  # else the weight was computed
                return targets[0] if keeps else f"{owner}{dot}{renamed}"
        return slot.name

    def _output_specs(self, graph: fx.Graph) -> list[Any]:
        (values,) = graph.output_node().args
        assert isinstance(values, (tuple, list))
        specs = self.program.graph_signature.output_specs
        return [
            replace(spec, arg=replace(spec.arg, name=value.name))
            if isinstance(value, fx.Node)
            else spec
            for spec, value in zip(specs, values, strict=True)
        ]

    def _module_call_graph(self, graph: fx.Graph) -> list[Any]:
        """A signature of a submodule is kept while the values that it speaks of are there."""
        names = {node.name for node in graph.nodes if self._is_where_it_was(node)}
        entries: list[Any] = copy.deepcopy(self.program.module_call_graph)
        for entry in entries:
            if entry.fqn and entry.signature is not None:
                spoken = [*entry.signature.inputs, *entry.signature.outputs]
                if any(getattr(each, "name", None) not in (None, *names) for each in spoken):
                    entry.signature = None
        return entries

    def _is_where_it_was(self, node: fx.Node) -> bool:
        """Whether it belongs to the module that the node of its name belonged to."""
        before = self.before.get(node.name)
        return before is not None and _stack(node) == _stack(before)


def _stack(node: fx.Node) -> list[str]:
    """The modules that the node stands in, from the outside."""
    return list(node.meta.get("nn_module_stack") or {})


_LEADING = (InputKind.TOKEN, InputKind.PARAMETER)
