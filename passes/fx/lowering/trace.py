"""Weight expressions -> fx ops, so that a graph computes its folded weights and autograd sees it.

The arithmetic is that of :class:`~bnfx.passes.algebra.Evaluator`: float64, cast once at the end.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from bnfx.passes.algebra.expressions.expression import (
    Elementwise,
    Expression,
    Ones,
    Reshaped,
    Scalar,
    Source,
)
from bnfx.passes.algebra.expressions.rearrange import (
    Eye,
    Joined,
    MatMul,
    Permuted,
    Slice,
    Sum,
    Table,
)
from bnfx.passes.fx.lift import Lifted
from bnfx.passes.fx.lowering.slots import Slot
from bnfx.passes.fx.parameters.sources import ATTRIBUTE_PREFIX

_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "negative": operator.neg,
}
Value = fx.Node | float


def _tables_of(slots: Iterable[Slot]) -> tuple[Table, ...]:
    """The constant numbers in what ``slots`` hold, each once."""
    found: dict[Table, None] = {}
    seen: set[Expression] = set()
    stack = [slot.expression for slot in slots]
    while stack:
        expression = stack.pop()
        if expression in seen:
            continue
        seen.add(expression)
        if isinstance(expression, Table):
            found[expression] = None
        if not isinstance(expression, Source):
            stack.extend(expression.children)
    return tuple(found)


def trace_slots(
    graph: fx.Graph,
    slots: Sequence[Slot],
    lifted: Lifted,
    dtype: torch.dtype,
    others: Iterable[Table] = (),
) -> tuple[dict[str, fx.Node], dict[Table, fx.Node]]:
    """Write what ``slots`` hold into ``graph``, which has its placeholders by now.

    Args:
        others: constant numbers that bodies of the graph take.

    Returns:
        The node of each slot, by name, and placeholders for constant numbers, which are new.
    """
    every = dict.fromkeys((*_tables_of(slots), *others))
    tables = {table: graph.placeholder(f"_table_{count}") for count, table in enumerate(every)}
    writer = _ExpressionWriter(graph, lifted, tables, dtype)
    return {slot.name: writer.write(slot) for slot in slots}, tables


def device_of(tensors: Iterable[torch.Tensor]) -> torch.device:
    """Where weights of ``tensors`` are; a number is on the host, wherever they are."""
    widest = max(tensors, key=torch.Tensor.dim, default=None)
    return torch.device("cpu") if widest is None else widest.device


class _ExpressionWriter:
    """Writes expressions into a graph, behind its placeholders; each is written once.

    Args:
        graph: is written to.
        lifted: what the original graph reads. What that computes from parameters alone is computed
            once more: the first reader of a weight may stand before it.
        tables: placeholders for constant numbers.
        dtype: that is computed in.
    """

    def __init__(
        self,
        graph: fx.Graph,
        lifted: Lifted,
        tables: Mapping[Table, fx.Node],
        dtype: torch.dtype,
    ) -> None:
        self._graph = graph
        self._placeholders: dict[str, fx.Node] = {
            node.name: node for node in graph.find_nodes(op="placeholder")
        }
        self._constants = lifted.constants
        self._computed = {node.name: node for node in lifted.nodes if node in lifted.constants}
        self._tensors = lifted.tensors
        self._tables = tables
        self._dtype = dtype
        self._device = device_of(lifted.tensors.values())
        self._written: dict[tuple[Expression, torch.device], Value] = {}
        self._copied: dict[fx.Node, fx.Node] = {}

    def write(self, slot: Slot) -> fx.Node:
        """What ``slot`` holds, in its dtype."""
        read = [self._tensors[source.name] for source in slot.expression.sources()]
        self._device = device_of([each for each in read if each.dim()] or self._tensors.values())
        value = self._value(slot.expression)
        if not isinstance(value, fx.Node):
            value = self._call(torch.full, slot.expression.shape, value, **self._kind())
        if slot.dtype == str(self._dtype).removeprefix("torch."):
            return value
        return self._graph.call_method("to", (value, getattr(torch, slot.dtype)))

    def _value(self, expression: Expression) -> Value:
        stack = [expression]  # no recursion: a chain of a thousand folds is legal
        while stack:
            current = stack[-1]
            children = () if isinstance(current, Source) else current.children
            pending = [each for each in children if (each, self._device) not in self._written]
            if pending:
                stack.extend(pending)
                continue
            stack.pop()
            key = (current, self._device)
            if key not in self._written:
                self._written[key] = self._write(current)
        return self._written[expression, self._device]

    def _write(self, expression: Expression) -> Value:
        match expression:
            case Source():
                return self._graph.call_method("to", (self._source(expression), self._dtype))
            case Scalar(value):
                return value
            case Ones(dims):
                return self._call(torch.ones, dims, **self._kind())
            case Reshaped(operand, dims):
                return self._call(torch.reshape, self._tensor(operand), dims)
            case Elementwise("sqrt", (operand,)):
                root = self._written[operand, self._device]
                if isinstance(root, fx.Node):
                    return self._call(torch.sqrt, root)
                return math.sqrt(root)
            case Elementwise(op, operands):
                values = [self._written[operand, self._device] for operand in operands]
                if not any(isinstance(value, fx.Node) for value in values):
                    return float(_OPERATORS[op](*values))
                return self._call(_OPERATORS[op], *values)
            case Permuted(operand, order):
                return self._call(torch.permute, self._tensor(operand), order)
            case Joined(operands, axis):
                return self._call(torch.cat, [self._tensor(each) for each in operands], axis)
            case Slice(operand, axis, start, stop):
                return self._call(torch.narrow, self._tensor(operand), axis, start, stop - start)
            case Sum(operand, axes):
                return self._call(torch.sum, self._tensor(operand), axes)
            case MatMul(left, right):
                return self._call(torch.matmul, self._tensor(left), self._tensor(right))
            case Eye(size):
                return self._call(torch.eye, size, **self._kind())
            case Table():
                return self._tables[expression]
        raise TypeError(f"no way is defined to write {type(expression).__name__}")

    def _tensor(self, expression: Expression) -> fx.Node:
        """The value of an expression that has a shape."""
        value = self._written[expression, self._device]
        if not isinstance(value, fx.Node):
            value = self._call(torch.full, expression.shape, value, **self._kind())
        return value

    def _kind(self) -> dict[str, Any]:
        return {"dtype": self._dtype, "device": self._device}

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        return self._graph.call_function(function, args, kwargs)

    def _source(self, source: Source) -> fx.Node:
        if source.name in self._computed:
            return self._copy(self._computed[source.name])
        if source.name in self._placeholders:
            return self._placeholders[source.name]
        return self._attribute(source.name.removeprefix(ATTRIBUTE_PREFIX))

    def _copy(self, node: fx.Node) -> fx.Node:
        """The same computation, here."""
        stack = [node]
        while stack:
            current = stack[-1]
            pending = [
                each
                for each in current.all_input_nodes
                if each in self._constants and each not in self._copied
            ]
            if pending:
                stack.extend(pending)
                continue
            stack.pop()
            if current not in self._copied:
                self._copied[current] = self._graph.node_copy(current, self._read)
        return self._copied[node]

    def _read(self, node: fx.Node) -> fx.Node:
        if node in self._constants:
            return self._copied[node]
        if node.op == "placeholder":
            return self._placeholders[node.name]
        return self._attribute(str(node.target))

    def _attribute(self, path: str) -> fx.Node:
        return self._graph.create_node("get_attr", path)
