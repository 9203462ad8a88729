"""Lets weight gradients be computed while ranks add up sums, in a compiled backward graph.

Backward of ``conv -> BatchNorm -> conv'`` is, from the right::

    dy, dW' = convolution_backward'    s = sums(dy)    S = all_reduce(s)    wait    dx(dy, S)

The BatchNorm's sums need ``dy``, the *input's* gradient of ``conv'``; nothing before the end of the
graph needs ``dW'``. So the operator is split in two, and ``dW'`` moves between the start of the
reduction and the wait for it. The same holds for the matrix product that is a linear layer's weight
gradient. What is computed, and the order of collectives, stay as they were.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx

from bnfx.passes.fx import private

aten = torch.ops.aten
_PRODUCTS = frozenset({aten.mm.default, aten.bmm.default})
_ALL = 3  # gradients of a convolution: input, weight, bias


def overlap(graph: fx.Graph) -> int:
    """Move weight gradients behind the start of the next all-reduce, in place.

    Args:
        graph: of ATen's operators, with functional collectives.

    Returns:
        How many were moved.
    """
    if not any(map(_is_reduction, graph.nodes)):
        return 0
    for node in graph.find_nodes(op="call_function", target=aten.convolution_backward.default):
        _split(node)
    moved, waiting = 0, list[fx.Node]()
    for node in list(graph.nodes):
        if _is_reduction(node):
            moved += sum(_postponed(each, node) for each in waiting)
            waiting = []
        elif _is_weight_gradient(node):
            waiting.append(node)
    return moved


def _is_reduction(node: fx.Node) -> bool:
    return str(node.target).startswith("_c10d_functional.all_reduce")


def _is_weight_gradient(node: fx.Node) -> bool:
    """Or another product; whether it may move is seen by who needs it."""
    if node.target is aten.convolution_backward.default:
        return not node.args[-1][0]  # type: ignore[index]
    return node.target in _PRODUCTS


def _split(node: fx.Node) -> None:
    """A convolution's backward becomes one for its input, and one for weight and bias."""
    *args, mask = node.args
    assert isinstance(mask, (list, tuple))
    if not (mask[0] and any(mask[1:])):
        return
    values = node.meta.get("val", (None,) * _ALL)
    with node.graph.inserting_after(node):
        rest = node.graph.call_function(node.target, (*args, [False, *mask[1:]]))  # type: ignore[arg-type]
    node.args = (*args, [True, False, False])
    rest.meta = {**node.meta, "val": (None, *values[1:])}
    node.meta = {**node.meta, "val": (values[0], None, None)}
    for part in list(node.users):
        if part.args[1] != 0:
            with node.graph.inserting_after(rest):
                other = node.graph.call_function(operator.getitem, (rest, part.args[1]))
            other.meta = part.meta
            part.replace_all_uses_with(other)
            node.graph.erase_node(part)


def _postponed(node: fx.Node, reduction: fx.Node) -> bool:
    """Whether ``node``, and what depends on it, moved between ``reduction`` and its wait."""
    wait = reduction.next
    if not str(wait.target).startswith("_c10d_functional.wait_tensor"):
        return False
    moving = [node]
    for each in _between(node, wait):
        # What is written to must not be read later than it was.
        if _writes(each):
            return False
        if not set(moving).isdisjoint(each.all_input_nodes):
            if each is reduction:
                return False
            moving.append(each)
    for each in moving:
        wait.prepend(each)
    return True


def _writes(node: fx.Node) -> bool:
    schema = private.schema_of(node.target)
    return bool(schema is not None and schema.is_mutable)


def _between(first: fx.Node, last: fx.Node) -> Iterator[fx.Node]:
    """The nodes behind ``first`` and before ``last``."""
    node = first.next
    while node is not last:
        yield node
        node = node.next
