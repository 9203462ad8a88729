"""What Dynamo's graphs say about their inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from bnfx.passes.fx import private
from bnfx.passes.fx.bodies.operands import bodies_of
from bnfx.passes.fx.lowering.slots import Slot


@dataclass(frozen=True)
class GraphInputs:
    """The placeholders of a captured graph, by what they are.

    Args:
        positions: placeholder name -> position among the arguments.
        parameters: the parameters and buffers of the user's modules, by placeholder name.
        scalars: Python floats that arrive as 0-d tensors (``eps`` under ``dynamic=True``).
        others: every other tensor.
    """

    positions: Mapping[str, int]
    parameters: Mapping[str, torch.Tensor]
    scalars: Mapping[str, torch.Tensor]
    others: Mapping[str, torch.Tensor]

    @staticmethod
    def of(module: fx.GraphModule, example_inputs: Sequence[Any]) -> GraphInputs:
        """Sort the placeholders of ``module``, which Dynamo captured."""
        placeholders = module.graph.find_nodes(op="placeholder")
        parameters: dict[str, torch.Tensor] = {}
        scalars: dict[str, torch.Tensor] = {}
        others: dict[str, torch.Tensor] = {}
        for node, value in zip(placeholders, example_inputs, strict=True):
            if not isinstance(value, torch.Tensor):
                continue
            if "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {}):
                parameters[node.name] = value
            elif _is_wrapped_number(node, value):
                scalars[node.name] = value
            else:
                others[node.name] = value
        positions = {node.name: position for position, node in enumerate(placeholders)}
        return GraphInputs(positions, parameters, scalars, others)


def _is_wrapped_number(node: fx.Node, value: torch.Tensor) -> bool:
    argument = node.meta.get("grapharg")
    wrapped = getattr(argument, "pass_arg_as_tensor", False)
    return (
        bool(wrapped)
        and not getattr(argument, "is_tensor", True)
        and value.dim() == 0
        and value.dtype == torch.float64
    )


def without_gradients(module: fx.GraphModule, example_inputs: Sequence[Any]) -> bool:
    """Whether no gradient can flow through the graph: then its weights may be precomputed.

    Dynamo guards the grad mode and each input's ``requires_grad``, so the answer holds for every
    call of the compiled graph.
    """
    wanted = any(
        isinstance(value, torch.Tensor) and value.requires_grad for value in example_inputs
    )
    if not wanted:
        return True
    switched_on = any(map(private.switches_gradients_on, _nodes_run(module)))
    return not torch.is_grad_enabled() and not switched_on


def describe_tables(
    module: fx.GraphModule, tables: Sequence[torch.Tensor], example_inputs: Sequence[Any]
) -> None:
    """Give the last placeholders, which take constant numbers, the metadata that Dynamo would."""
    mode = private.fake_mode_of(example_inputs)
    placeholders = module.graph.find_nodes(op="placeholder")
    for node, table in zip(placeholders[len(placeholders) - len(tables) :], tables, strict=True):
        fake = table if mode is None else mode.from_tensor(table, static_shapes=True)
        node.meta["example_value"] = fake
        node._dynamo_source = None


def switches_gradients(module: fx.GraphModule) -> bool:
    """Whether the graph switches gradients on or off in its middle."""
    return any(map(private.switches_gradients, _nodes_run(module)))


def _nodes_run(module: fx.GraphModule) -> Iterator[fx.Node]:
    """The nodes of the graph, and of those in it that are rewritten, too."""
    for node in module.graph.nodes:
        yield node
        for body in bodies_of(node, module):
            yield from _nodes_run(body.module)


def describe_slots(
    module: fx.GraphModule,
    slots: Sequence[Slot],
    weights: Sequence[torch.Tensor] | None,
    example_inputs: Sequence[Any],
) -> list[torch.Tensor]:
    """Example inputs for the slots' placeholders, and their metadata, as Dynamo would leave it.

    The shapes of weights are static: they enter the current fake mode as such, before the inner
    compiler could take them for dynamic ones.

    Args:
        weights: what the slots hold; ``None`` gives fake tensors.
    """
    mode = private.fake_mode_of(example_inputs)
    placeholders = {node.name: node for node in module.graph.find_nodes(op="placeholder")}
    examples = []
    for position, slot in enumerate(slots):
        node = placeholders[slot.name]
        if weights is not None:
            example = weights[position]
            fake = example if mode is None else mode.from_tensor(example, static_shapes=True)
        else:
            assert mode is not None, "parameters are fake, so there is a fake mode"
            device = next(each.device for each in example_inputs if isinstance(each, torch.Tensor))
            with mode:
                shape, dtype = slot.expression.shape, getattr(torch, slot.dtype)
                example = fake = torch.empty(shape, dtype=dtype, device=device)
        node.meta["example_value"] = fake
        node._dynamo_source = None
        examples.append(example)
    return examples


def has_constant_output(module: fx.GraphModule, constants: Collection[str]) -> bool:
    """Whether an output depends on no input that is not one of ``constants``, or lies in the memory
    of such a value, as ``constant.view_as(x)`` does.
    """
    depends: set[fx.Node] = set()
    held: set[object] = set()
    for node in module.graph.nodes:
        if node.op == "output":
            outputs = node.all_input_nodes
            return any(each not in depends or not held.isdisjoint(_held(each)) for each in outputs)
        is_input = node.op == "placeholder" and node.name not in constants
        if is_input or not depends.isdisjoint(node.all_input_nodes):
            depends.add(node)
        else:
            held.update(_held(node))
    return False


def _held(node: fx.Node) -> list[object]:
    """The memory that a value lies in, by what Dynamo knows of it."""
    leaves = pytree.tree_leaves(node.meta.get("example_value"))
    return [private.memory(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]
