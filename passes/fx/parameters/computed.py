"""What a graph computes from parameters alone: weight_norm, parametrizations, FrozenBatchNorm's
scale.

Such a value is as good as a parameter: it changes only when one does. It is not read as algebra but
computed by torch, op by op as the graph says, so that any chain of pure ops will do. An op that is
not listed here, writes, or draws random numbers makes its output no constant.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from bnfx.passes.fx.calls.aten import name_of_overload

_ATTRIBUTES = frozenset({"data", "T", "mT"})
_OPERATORS = frozenset(
    {operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow}
    | {operator.getitem, operator.matmul, operator.pos, builtins.abs}
)
_PURE = """
    abs add addcmul amax amin bmm cat chunk clamp clone concat contiguous conv2d detach diag div
    dot double einsum exp expand expand_as flatten flip float half matmul max maximum mean min
    minimum mm moveaxis movedim mul multiply mv narrow neg norm norm_except_dim numel outer
    permute pow prod reciprocal repeat reshape reshape_as rot90 rsqrt rsub select sigmoid split
    sqrt square squeeze stack std std_mean sub subtract sum swapaxes t tanh tile to transpose
    true_divide type type_as unbind unflatten unsqueeze var var_mean vdot view view_as where
    _weight_norm
"""
_NAMES = frozenset(_PURE.split())
# In ATen's words: what stands above under another name, or below.
_OVERLOADS = frozenset({"alias", "linalg_vector_norm", "linear", "pad", "slice", "softplus"})
_FUNCTIONAL = frozenset({F.normalize, F.pad, torch._C._nn.pad, F.linear, F.softplus, F.softmax})


def is_pure(node: fx.Node) -> bool:
    """Whether the node's value depends on its inputs only, and computing it changes nothing."""
    if "out" in node.kwargs or node.kwargs.get("inplace", False) is not False:
        return False
    if node.op == "call_method":
        return node.target in _NAMES
    if node.op != "call_function":
        return False
    target: Any = node.target
    if target is getattr:
        return node.args[1] in _ATTRIBUTES
    if target in _OPERATORS or target in _FUNCTIONAL:
        return True
    if target is F.batch_norm:  # weight standardisation: it normalises weights, and tracks nothing
        running = [node.kwargs.get("running_mean"), node.kwargs.get("running_var"), *node.args[1:3]]
        return all(value is None for value in running)
    if (name := name_of_overload(target)) and not target._schema.is_mutable:
        if name == "batch_norm":
            return all(value is None for value in node.args[3:5])
        return name in _NAMES or name in _OVERLOADS
    name = getattr(target, "__name__", "")
    owner = getattr(torch, name, None) if isinstance(name, str) else None
    return name in _NAMES and (owner is target or target is getattr(torch.linalg, name, None))


class ComputedConstants:
    """The nodes of one graph that are computed from parameters alone.

    Args:
        leaf: the tensor of a placeholder or ``get_attr`` node that is a parameter, else ``None``.
        pinned: values that something may write to.
    """

    def __init__(self, leaf: Callable[[fx.Node], torch.Tensor | None]) -> None:
        self._leaf = leaf
        self.pinned: Collection[fx.Node] = ()
        self._nodes: dict[fx.Node, tuple[fx.Node, ...]] = {}  # node -> the parameters behind it
        self._values: dict[fx.Node, Any] = {}

    def again(self, leaf: Callable[[fx.Node], torch.Tensor | None]) -> ComputedConstants:
        """The same nodes over other parameters; nothing of what was computed is kept."""
        other = ComputedConstants(leaf)
        other._nodes = self._nodes
        return other

    def __contains__(self, node: object) -> bool:
        return node in self._nodes

    def add(self, node: fx.Node) -> bool:
        """Take note of ``node`` if it is a constant; nodes must come in order."""
        inputs = node.all_input_nodes
        if not inputs or node in self.pinned or not is_pure(node):
            return False
        bases: dict[fx.Node, None] = {}
        for source in inputs:
            if source in self._nodes:
                bases.update(dict.fromkeys(self._nodes[source]))
            elif source.op in ("placeholder", "get_attr") and self._leaf(source) is not None:
                bases[source] = None
            else:
                return False
        self._nodes[node] = tuple(bases)
        return True

    def bases(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """The parameters that ``node`` is computed from."""
        return self._nodes[node]

    def value(self, node: fx.Node) -> Any:
        """What the graph would compute, computed once."""
        order: list[fx.Node] = []
        stack = [node]
        while stack:
            current = stack.pop()
            if current in self._nodes and current not in self._values:
                order.append(current)
                stack.extend(current.all_input_nodes)
        with torch.no_grad(), torch._C._DisableAutocast():
            for current in reversed(order):
                if current in self._values:
                    continue
                args, kwargs = fx.node.map_arg((current.args, dict(current.kwargs)), self._read)
                if current.op == "call_method":
                    owner, *rest = args
                    self._values[current] = getattr(owner, str(current.target))(*rest, **kwargs)
                else:
                    self._values[current] = current.target(*args, **kwargs)  # type: ignore[operator]
        return self._values[node]

    def _read(self, node: fx.Node) -> Any:
        return self._values[node] if node in self._nodes else self._leaf(node)
