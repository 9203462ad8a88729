"""What a graph computes from parameters alone: weight_norm, parametrizations, FrozenBatchNorm's
scale.

Such a value is as good as a parameter: it changes only when one does. It is not read as algebra but
computed by torch, op by op as the graph says, so that any chain of pure ops will do. An op of which
nothing is known, that writes, or draws random numbers makes its output no constant; but what is
written over such a value, and seen by nobody else, is a new value in all but name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx

from bnfx.passes.fx import private
from bnfx.passes.fx.calls.call import Call, read_call
from bnfx.passes.fx.facts.spelling import spelling_of
from bnfx.passes.fx.memory.callee import asks_in_place, out_of
from bnfx.passes.fx.memory.writes import functional_form


def is_pure(node: fx.Node) -> bool:
    """Whether the node's value depends on its inputs only, and computing it changes nothing."""
    spelling = spelling_of(node)
    if spelling is None or not spelling.facts.pure or out_of(node) is not None:
        return False
    if spelling.functional is not None or asks_in_place(node):
        return False
    # Weight standardisation is a BatchNorm of weights that tracks nothing; another is the user's.
    call = read_call(node)
    return call is None or (isinstance(call, Call) and not _has_statistics(call))


def _has_statistics(call: Call) -> bool:
    statistics = (call.arguments.get("running_mean"), call.arguments.get("running_var"))
    return any(value is not None for value in statistics)


class ComputedConstants:
    """The nodes of one graph that are computed from parameters alone.

    Args:
        leaf: the tensor of a placeholder or ``get_attr`` node that is a parameter, ``None`` of any
            other node.
        pinned: values that something may write to.
        in_place: nodes that write over a value that nobody else sees.
    """

    def __init__(self, leaf: Callable[[fx.Node], torch.Tensor | None]) -> None:
        self._leaf = leaf
        self.pinned: Collection[fx.Node] = ()
        self.in_place: Collection[fx.Node] = ()
        self._nodes: set[fx.Node] = set()
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
        if not inputs or node in self.pinned or not (is_pure(node) or self._overwrites(node)):
            return False
        for source in inputs:
            if source not in self._nodes and self._leaf(source) is None:
                return False
        self._nodes.add(node)
        return True

    def _overwrites(self, node: fx.Node) -> bool:
        """Whether it would be pure, if it made a new value."""
        spelling = spelling_of(node)
        return node in self.in_place and spelling is not None and spelling.facts.pure

    def bases(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """The parameters that ``node`` is computed from, in first-use order."""
        seen: dict[fx.Node, None] = {}
        stack = [node]  # asked of the last node of a chain only, so that each is met once
        while stack:
            current = stack.pop()
            if current not in seen:
                seen[current] = None
                stack += reversed(current.all_input_nodes)
        return tuple(each for each in seen if each not in self._nodes)

    def value(self, node: fx.Node) -> Any:
        """What the graph would compute, computed once."""
        stack = [node]
        with torch.no_grad(), private.without_autocast():
            while stack:
                current = stack[-1]
                ahead = [each for each in current.all_input_nodes if self._is_ahead(each)]
                if ahead:
                    stack += ahead
                    continue
                stack.pop()
                if current not in self._values:
                    self._values[current] = self._computed(current)
        return self._values[node]

    def _is_ahead(self, node: fx.Node) -> bool:
        return node in self._nodes and node not in self._values

    def _computed(self, node: fx.Node) -> Any:
        """Of a node whose inputs are known."""
        args = fx.node.map_arg(node.args, self._read)
        kwargs = dict(fx.node.map_arg(node.kwargs, self._read))
        target: Any = functional_form(node) or node.target
        if "inplace" in kwargs:
            kwargs["inplace"] = False
        if node.op == "call_method":
            target = getattr(args[0], target)
            args = args[1:]
        return target(*args, **kwargs)

    def _read(self, node: fx.Node) -> Any:
        return self._values[node] if node in self._nodes else self._leaf(node)
