"""The tensors that a lowered graph needs: their names, expressions and dtypes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from bnfx.passes.algebra import Expression
from bnfx.passes.fx.lift import Lifted
from bnfx.passes.fx.metadata import dtype_name
from bnfx.passes.graph import Affine, Linear, Node
from bnfx.passes.rules.guards import multiply_add_dtype


@dataclass(frozen=True)
class Slot:
    """A tensor that the lowered graph reads: where, what, and in which dtype.

    Args:
        name: a placeholder's name, or the qualified name of an attribute of the module.
        expression: what it holds.
        dtype: in which dtype it is stored.
        is_parameter: whether it takes the place of a parameter (else of a buffer).
        requires_grad: as the parameter that it takes the place of.
    """

    name: str
    expression: Expression
    dtype: str
    is_parameter: bool = False
    requires_grad: bool = False


@dataclass(frozen=True)
class Slots:
    """The slots of one rewritten node: weight and bias, or scale and shift."""

    weight: Slot
    bias: Slot | None

    def all(self) -> Iterator[Slot]:
        yield self.weight
        if self.bias is not None:
            yield self.bias


def slots_of(module: fx.GraphModule, lifted: Lifted, by_module: bool) -> dict[Node, Slots]:
    """The slots of each rewritten node of the graph, in order.

    Args:
        module: the original module; new names avoid its own.
        lifted: after the rules ran.
        by_module: name the slots of a leaf module ``<its path>.weight`` and so on, so that the
            path survives where no other call needs the old module.
    """
    taken = _names(module)
    kept = {
        str(fx_node.target)
        for fx_node, node in lifted.nodes.items()
        if fx_node.op == "call_module" and not _is_rewritten(node)
    }
    # A module whose weight is read as data, too, keeps its path and its weight.
    kept |= {
        str(fx_node.target).rpartition(".")[0]
        for fx_node in lifted.nodes
        if fx_node.op == "get_attr"
    }
    found: dict[Node, Slots] = {}
    for node in lifted.graph:
        if not _is_rewritten(node):
            continue
        if by_module and node.origin.op == "call_module" and isinstance(node.role, Linear):
            path = _unused(str(node.origin.target), kept)
            kept.add(path)
            weight, bias = f"{path}.weight", f"{path}.bias"
        else:
            first, second = (
                ("weight", "bias") if isinstance(node.role, Linear) else ("scale", "shift")
            )
            weight = _unused(f"{node.origin.name}_{first}", taken)
            bias = _unused(f"{node.origin.name}_{second}", taken)
            taken |= {weight, bias}
        found[node] = _slots(node, weight, bias, lifted)
    return found


def _slots(node: Node, weight: str, bias: str, lifted: Lifted) -> Slots:
    if isinstance(node.role, Linear):
        operator, dtype = node.role.operator, node.role.dtype
        grad = any(
            lifted.tensors[source.name].requires_grad for source in operator.weight.sources()
        )
        return Slots(
            Slot(weight, operator.weight, dtype, True, grad),
            None if operator.bias is None else Slot(bias, operator.bias, dtype, True, grad),
        )
    assert isinstance(node.role, Affine) and node.rank is not None
    dtype = multiply_add_dtype(node.dtype or _widest(node, lifted))
    trailing = (1,) * (node.rank - node.role.axis - 1)
    scale, shift = node.role.map.scale, node.role.map.shift
    return Slots(
        Slot(weight, scale.reshape(*scale.shape, *trailing), dtype),
        Slot(bias, shift.reshape(*shift.shape, *trailing), dtype),
    )


def _widest(node: Node, lifted: Lifted) -> str:
    """Where no dtype is known: the statistics', since a BatchNorm's input is no wider than they."""
    assert isinstance(node.role, Affine)
    widest = torch.float16
    for source in node.role.map.sources():
        widest = torch.promote_types(widest, lifted.tensors[source.name].dtype)
    return dtype_name(widest)


def _is_rewritten(node: Node) -> bool:
    """Whether the rules changed the node: an expression over a parameter, not a parameter."""
    if isinstance(node.role, Affine):
        return node.role.lowered
    if isinstance(node.role, Linear):
        operator = node.role.operator
        return any(part is not None and part.children for part in (operator.weight, operator.bias))
    return False


def _names(module: fx.GraphModule) -> set[str]:
    attributes = {*module._parameters, *module._buffers, *module._modules, *dir(module)}
    return attributes | {node.name for node in module.graph.nodes}


def _unused(name: str, taken: set[str]) -> str:
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate
