"""Neutral graph -> Relay: untouched values stay the very expressions, rewritten ones are new."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from tvm import relay

from bnfx.passes.algebra import BroadcastAffine, Conv, ConvTranspose, Expression, Scalar
from bnfx.passes.graph import Affine, Linear, Node
from bnfx.passes.relay.emit import constant, usual_kernel, write_convolution, write_dense
from bnfx.passes.relay.expressions import Expr, operands, rebuilt
from bnfx.passes.relay.lifted import Lifted
from bnfx.passes.rules.guards import multiply_add_dtype
from bnfx.passes.values import Values


def lower(lifted: Lifted, values: Values | None, functions: Mapping[Expr, Expr]) -> Expr:
    """The body that the rewritten graph describes.

    Args:
        values: evaluates the new weights; ``None`` if the graph has no constants.
        functions: what stands for each function inside.
    """
    return _RelayWriter(lifted, values, functions).write()


class _RelayWriter:
    """Writes one body; holds the map from neutral nodes to the expressions written so far."""

    def __init__(
        self, lifted: Lifted, values: Values | None, functions: Mapping[Expr, Expr]
    ) -> None:
        self._lifted = lifted
        self._values = values
        self._functions = functions
        self._written: dict[Node, Expr] = {}

    def write(self) -> Expr:
        """Each node after what it reads: one that was merged may have nothing left to read."""
        result = self._node(self._lifted.flow.body)
        stack = [result]
        while stack:
            node = stack[-1]
            rewritten = self._lifted.is_rewritten(node)
            reads = node.inputs if rewritten else self._reads(node, node.origin)
            pending = [source for source in reads if source not in self._written]
            stack += pending
            if not pending:
                stack.pop()
                if node not in self._written:
                    self._written[node] = self._write(node)
        return self._written[result]

    def _reads(self, node: Node, expr: Expr) -> Iterator[Node]:
        for child in self._lifted.flow.children(expr):
            if self._lifted.nodes[child] is node:
                yield from self._reads(node, child)
            else:
                yield self._node(child)

    def _node(self, expr: Expr) -> Node:
        """What stands for an old value; for a folded BatchNorm, what it was folded into."""
        return self._lifted.graph.resolve(self._lifted.nodes[expr])

    def _write(self, node: Node) -> Expr:
        if not self._lifted.is_rewritten(node):
            return self._copy(node, node.origin)
        data = self._written[node.inputs[0]]
        if isinstance(node.role, Affine):
            return self._write_affine(node, node.role.map, data)
        assert isinstance(node.role, Linear), "no rule gives another role"
        return self._write_linear(node, node.role, data)

    def _copy(self, node: Node, expr: Expr) -> Expr:
        """An untouched node's expression over what its children are now.

        It is several expressions where one part of a tuple, or a bias, belongs to the node.
        """
        if expr in self._functions:
            return self._functions[expr]
        children = [
            self._copy(node, child)
            if self._lifted.nodes[child] is node
            else self._written[self._node(child)]
            for child in self._lifted.flow.children(expr)
        ]
        same = all(a.same_as(b) for a, b in zip(children, operands(expr), strict=True))
        return expr if same else rebuilt(expr, children)

    def _write_linear(self, node: Node, role: Linear, data: Expr) -> Expr:
        operator = role.operator
        old = self._lifted.nodes[node.origin]  # not the node itself where it got a border
        before, stored = self._lifted.roles[old], self._lifted.stored.get(old)
        if (
            isinstance(before, Linear)
            and stored is not None
            and operator.weight.shape == before.operator.weight.shape
            and replace(before.operator, weight=operator.weight, bias=operator.bias) == operator
        ):
            call = self._lifted.calls[old]
            weight = self._constant(stored.weight(operator.weight), role.dtype)
            result = rebuilt(call, [data, weight])
        elif isinstance(operator, (Conv, ConvTranspose)):
            arranged = usual_kernel(operator).stored.weight(operator.weight)
            result = write_convolution(operator, data, self._constant(arranged, role.dtype))
        else:
            assert node.rank is not None, "Relay's types say every rank"
            weight = self._constant(operator.weight, role.dtype)
            result = write_dense(data, weight, node.rank)
        if operator.bias is None:
            return result
        bias = self._constant(operator.bias, role.dtype)
        assert node.rank is not None
        return relay.nn.bias_add(result, bias, axis=node.rank + operator.channel_axis)

    def _write_affine(self, node: Node, affine: BroadcastAffine, data: Expr) -> Expr:
        """A multiply-add with constants of at least float32, cast back at the end."""
        dtype = multiply_add_dtype(node.dtype)
        if node.dtype != dtype:
            data = relay.cast(data, dtype)
        if not affine.is_shift:
            data = relay.multiply(data, self._operand(affine.scale, node, dtype))
        if not affine.is_scale:
            data = relay.add(data, self._operand(affine.shift, node, dtype))
        return data if node.dtype == dtype else relay.cast(data, node.dtype)

    def _operand(self, expression: Expression, node: Node, dtype: str) -> Expr:
        """An operand of elementwise arithmetic, which aligns shapes at the end."""
        if isinstance(expression, Scalar):
            return constant(np.asarray(expression.value, dtype))
        assert node.rank is not None
        missing = node.rank - len(expression.shape)
        dims = (*expression.shape, *(1,) * missing) if expression.shape else ()
        while dims and dims[0] == 1:
            dims = dims[1:]
        return self._constant(expression.reshape(*dims[-node.rank :]), dtype)

    def _constant(self, expression: Expression, dtype: str) -> Expr:
        if self._values is None:
            raise AssertionError("a new weight in a graph without constants")
        return constant(self._values.stored(expression, dtype))
