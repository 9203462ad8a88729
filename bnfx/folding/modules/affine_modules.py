"""Modules that a graph says are affine maps, and what is left of one when the map is gone.

A unit is the innermost module in which an affine map is computed: a BatchNorm, a FrozenBatchNorm
that is arithmetic in its forward, timm's BatchNormAct2d with an activation behind the map. Nothing
is known by name: what a module computes was traced.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from bnfx.errors import CaptureError
from bnfx.folding.capturing.symbolic import Tracer, trace
from bnfx.passes.fx.calls.modules import BATCH_NORM_RANK, known_class
from bnfx.passes.fx.lift import Lifted
from bnfx.passes.graph import Affine


class RankChecked(nn.Identity):
    """What stands for a BatchNorm whose fold was right for this rank of inputs, and this only."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The input itself.

        Raises:
            AssertionError: if it has another rank.
        """
        what = f"this BatchNorm was folded for inputs of {self.rank} dimensions"
        torch._assert(input.dim() == self.rank, what)
        return input

    def extra_repr(self) -> str:
        """The rank."""
        return f"rank={self.rank}"


@dataclass(frozen=True)
class Unit:
    """One module with an affine map.

    Args:
        path: its qualified name.
        maps: the affine nodes of its call.
        children: names of the children that run behind the map, in order.
        rank: of its input, where the module does not check it itself.
    """

    path: str
    maps: tuple[fx.Node, ...]
    children: tuple[str, ...]
    rank: int | None


def scope_of(node: fx.Node) -> str:
    """The path of the innermost module that the node stands in; ``""`` for the root."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def find_units(module: fx.GraphModule, lifted: Lifted) -> dict[str, Unit | str]:
    """Every unit of a traced module by path, or why the module that has the map is none."""
    maps: dict[str, list[fx.Node]] = {}
    for fx_node, node in lifted.nodes.items():
        if isinstance(node.role, Affine):
            maps.setdefault(scope_of(fx_node), []).append(fx_node)
    return {path: _read_unit(module, lifted, path, some) for path, some in maps.items()}


def _read_unit(
    module: fx.GraphModule, lifted: Lifted, path: str, maps: Sequence[fx.Node]
) -> Unit | str:
    if not path:
        return "the map is computed by the model itself, not by a module of its own"
    first = lifted.nodes[maps[0]]
    leaf = maps[0].op == "call_module"
    if leaf:
        kind = known_class(module.get_submodule(path))
        rank = None if kind in BATCH_NORM_RANK else first.rank
        return Unit(path, tuple(maps), (), rank)
    # A module stands in a chain once, so all of that is one call.
    inside = [n for n in module.graph.nodes if scope_of(n) == path or _below(n, path)]
    names = _read_call(inside, lifted, path)
    return names if isinstance(names, str) else Unit(path, tuple(maps), tuple(names), first.rank)


def _below(node: fx.Node, path: str) -> bool:
    return scope_of(node).startswith(path + ".")


def _read_call(nodes: Sequence[fx.Node], lifted: Lifted, path: str) -> list[str] | str:
    """The children behind the map, in order, if the call is a map and a chain of children."""
    tail: fx.Node | None = None
    names: list[str] = []
    own = set(nodes)
    checks: set[fx.Node] = set()
    for node in nodes:
        data = [n for n in node.all_input_nodes if n not in lifted.constants and n not in checks]
        data = [n for n in data if n.op != "get_attr"]
        if node in lifted.constants or node.op == "get_attr":
            continue
        if _is_check(node, checks):
            checks.add(node)
            continue
        child = scope_of(node).removeprefix(path).strip(".").split(".")[0]
        if tail is None:
            if child or not isinstance(lifted.nodes[node].role, Affine):
                return f"{path} does more than the map"
        elif data != [tail] or not (child or isinstance(lifted.nodes[node].role, Affine)):
            return f"{path} does more than the map"
        elif not child and names:
            return f"{path} has children in front of the map"
        if child and (not names or names[-1] != child):
            names.append(child)
        tail = node
    outer = [n for n in nodes if n not in checks and any(user not in own for user in n.users)]
    if tail is None or outer != [tail]:
        return f"{path} gives more than the map"
    if any(tail not in user.args for user in tail.users if user not in own):
        return f"{path} gives its result in a container"
    if len(set(names)) != len(names):
        return f"{path} runs a child twice"
    return names


_CHECKS = (getattr, operator.eq, torch._assert)


def _is_check(node: fx.Node, checks: Collection[fx.Node]) -> bool:
    """Whether the node belongs to an assertion on the rank."""
    if node.op == "call_method":
        return node.target == "dim"
    if node.op != "call_function" or node.target not in _CHECKS:
        return False
    if node.target is getattr:
        return bool(node.args[1] == "ndim")
    return all(argument in checks for argument in node.all_input_nodes)


class _ChainTracer(Tracer):
    """Traces through what has weights of its own, and no layers inside that have any."""

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return bool(super().is_leaf_module(module, path) or path not in self.opened)

    def __init__(self, opened: Collection[str]) -> None:
        super().__init__()
        self.opened = opened


def traced_chain(modules: Sequence[nn.Module]) -> fx.GraphModule:
    """The modules, one after the other, named by their places; what looks like a unit is opened."""
    chain = nn.Sequential(*modules)
    opened = {str(place) for place, module in enumerate(modules) if _may_open(module)}
    return trace(chain, _ChainTracer(opened))


def _may_open(module: nn.Module) -> bool:
    own = (*module._parameters.values(), *module._buffers.values())
    below = [m for m in module.modules() if m is not module]
    if all(tensor is None for tensor in own) or any(list(m.parameters(False)) for m in below):
        return False
    if type(module).__module__.startswith("torch.") or known_class(module) is not None:
        return False
    opened = {"0", *(f"0.{name}" for name, _ in module.named_modules() if name)}
    try:
        trace(nn.Sequential(module), _ChainTracer(opened))
    except CaptureError:  # it looks at what it is given: what it does is not one map
        return False
    return True


def is_opaque(module: nn.Module) -> bool:
    """Whether it is a block of the user's, which runs layers of its own."""
    strange = not type(module).__module__.startswith("torch.")
    return strange and any(True for _ in module.children()) and not _may_open(module)


def left_of(module: nn.Module, unit: Unit) -> nn.Module:
    """What takes the place of a unit whose map was folded away."""
    rest: list[tuple[str, nn.Module]] = [(n, module.get_submodule(n)) for n in unit.children]
    if unit.rank is not None:
        check = RankChecked(unit.rank)
        if not rest:
            return check
        rest.insert(0, ("checked", check))
    if not rest:
        return nn.Identity()
    return nn.Sequential(OrderedDict(rest))
