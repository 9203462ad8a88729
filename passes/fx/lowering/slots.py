"""The tensors that a lowered graph needs: their names, expressions and dtypes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import fx

from bnfx.passes.algebra import Evaluator, Expression
from bnfx.passes.algebra.expressions.rearrange import Table
from bnfx.passes.fx.lift import Lifted
from bnfx.passes.fx.metadata import dtype_name
from bnfx.passes.graph import Affine, Linear, Node
from bnfx.passes.lifting.affine_arithmetic import aligned
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
    """What a rewritten node needs: weight and bias, or scale and shift.

    ``None`` is one that is not there, a number is one that depends on no parameter.
    """

    weight: Slot | float | None
    bias: Slot | float | None

    def all(self) -> Iterator[Slot]:
        for slot in (self.weight, self.bias):
            if isinstance(slot, Slot):
                yield slot


@dataclass(frozen=True)
class FoldedCall:
    """What becomes of a node that runs bodies in which something was rewritten.

    Args:
        bodies: the new ones, and their names, by position among the node's arguments.
        dropped: positions of operands that no body takes any longer.
        slots: of all bodies, named for the graph around them. They are operands, unless bodies
            compute them: then only ``tables`` are.
        tables: constant numbers that bodies take as their last inputs.
    """

    bodies: Mapping[int, tuple[str, fx.GraphModule]]
    dropped: frozenset[int]
    slots: tuple[Slot, ...]
    tables: tuple[Table, ...]


WeightsAs = Literal["attributes", "placeholders", "traced"]


@dataclass(frozen=True)
class Lowered:
    """The lowered module, its slots, which must be filled before it runs or are traced into it
    (those of bodies too), and the constant numbers that a traced one takes as its last inputs."""

    module: fx.GraphModule
    slots: tuple[Slot, ...]
    tables: tuple[Table, ...] = ()


def slots_of(
    module: fx.GraphModule, lifted: Lifted, by_module: bool, calls: Iterable[FoldedCall] = ()
) -> dict[Node, Slots]:
    """The slots of each rewritten node of the graph, in order.

    Args:
        module: the original module; new names avoid its own.
        lifted: after the rules ran.
        calls: new names avoid theirs.
        by_module: name the slots of a leaf module ``<its path>.weight`` and so on, so that the
            path survives where no other call needs the old module.
    """
    taken = names_in(module) | {slot.name for call in calls for slot in call.slots}
    whole = {
        str(fx_node.target)
        for fx_node, node in lifted.nodes.items()
        if fx_node.op == "call_module" and not lifted.is_rewritten(node)
    }
    kept = set(whole)
    # A module whose weight is read as data, too, keeps its path and its weight.
    kept |= {
        str(fx_node.target).rpartition(".")[0]
        for fx_node in lifted.nodes
        if fx_node.op == "get_attr"
    }
    found: dict[Node, Slots] = {}
    for node in lifted.graph:
        if not lifted.is_rewritten(node) or not isinstance(node.role, (Linear, Affine)):
            continue
        if by_module and lifted.keeps_call(node) and node.origin.op == "call_module":
            path = _unused_path(str(node.origin.target), kept, whole, module)
            kept.add(path)
            taken.add(path)
            weight, bias = f"{path}.weight", f"{path}.bias"
        else:
            first, second = (
                ("weight", "bias") if isinstance(node.role, Linear) else ("scale", "shift")
            )
            weight = unused(f"{node.origin.name}_{first}", taken)
            bias = unused(f"{node.origin.name}_{second}", taken)
            taken |= {weight, bias}
            kept |= {weight, bias}
        found[node] = _slots(node, weight, bias, lifted)
    return found


def _slots(node: Node, weight: str, bias: str, lifted: Lifted) -> Slots:
    if isinstance(node.role, Linear):
        operator, dtype = node.role.operator, node.role.dtype
        sources = operator.weight.sources()
        grad = any(lifted.tensors[source.name].requires_grad for source in sources)
        return Slots(
            Slot(weight, operator.weight, dtype, True, grad),
            None if operator.bias is None else Slot(bias, operator.bias, dtype, True, grad),
        )
    assert isinstance(node.role, Affine)
    dtype = multiply_add_dtype(node.dtype or _widest(node, lifted))
    affine = node.role.map
    return Slots(
        None if affine.is_shift else _operand(weight, affine.scale, node, dtype),
        None if affine.is_scale else _operand(bias, affine.shift, node, dtype),
    )


def _operand(name: str, expression: Expression, node: Node, dtype: str) -> Slot | float:
    """An operand of elementwise arithmetic, which aligns shapes at the end."""
    if not expression.shape:
        if next(expression.sources(), None) is None:
            return float(Evaluator(_no_source, np.zeros(()))(expression))
        return Slot(name, expression, dtype)
    assert node.rank is not None, "a map that varies along an axis is placed by the rank"
    return Slot(name, aligned(expression, node.rank), dtype)


def _no_source(source: object) -> object:
    raise AssertionError(f"{source} in an expression without sources")


def _widest(node: Node, lifted: Lifted) -> str:
    """Where no dtype is known: the statistics', since a BatchNorm's input is no wider than they."""
    assert isinstance(node.role, Affine)
    widest = torch.float16
    for source in node.role.map.sources():
        widest = torch.promote_types(widest, lifted.tensors[source.name].dtype)
    return dtype_name(widest)


def names_in(module: fx.GraphModule) -> set[str]:
    """Names that are taken."""
    attributes = {*module._parameters, *module._buffers, *module._modules, *dir(module)}
    return attributes | {node.name for node in module.graph.nodes}


def unused(name: str, taken: set[str]) -> str:
    """``name``, or one like it that is not taken."""
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def _unused_path(path: str, kept: set[str], whole: set[str], module: fx.GraphModule) -> str:
    """The module's own path, or one beside it where neither a module nor a tensor stands.

    Args:
        path: its own.
        kept: what stands where it stood, or is new.
        whole: modules that are kept with all that they hold: a part of one stands elsewhere.
    """
    is_part = any(path.startswith(f"{owner}.") for owner in whole)
    wanted = path.replace(".", "_") if is_part else path
    candidate, count = wanted, 0
    while candidate in kept or (candidate != path and _exists(module, candidate)):
        count += 1
        candidate = f"{wanted}_{count}"
    return candidate


def _exists(module: fx.GraphModule, path: str) -> bool:
    owner, _, name = path.rpartition(".")
    return hasattr(module.get_submodule(owner), name)
