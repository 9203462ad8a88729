"""Neutral graph -> Relax: untouched bindings stay the very bindings, rewritten ones are new."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from tvm import relax

from bnfx.passes.algebra import BroadcastAffine, Dense, Expression, Scalar
from bnfx.passes.algebra.rearrange import permute
from bnfx.passes.graph import Affine, Linear, Node
from bnfx.passes.relax.blocks import Blocks
from bnfx.passes.relax.compat import Constant, Expr, call, constant
from bnfx.passes.relax.effects import must_run
from bnfx.passes.relax.emit import write_operator
from bnfx.passes.relax.expressions import Value, operands, rebuilt
from bnfx.passes.relax.lifted import Lifted
from bnfx.passes.rules.guards import multiply_add_dtype
from bnfx.passes.values import Values


def lower(
    lifted: Lifted, values: Values | None, nested: Mapping[Value, Expr], builder: Expr
) -> Expr:
    """The body that the rewritten graph describes.

    Args:
        values: evaluates the new weights; ``None`` if the graph has no constants.
        nested: what stands for each function or branch inside.
        builder: a ``relax.BlockBuilder`` on the module, which infers types.
    """
    return _RelaxWriter(lifted, values, nested, builder).write()


class _RelaxWriter:
    """Writes one body; holds the map from neutral nodes to the expressions written so far."""

    def __init__(
        self, lifted: Lifted, values: Values | None, nested: Mapping[Value, Expr], builder: Expr
    ) -> None:
        self._lifted = lifted
        self._values = values
        self._nested = nested
        self._written: dict[Node, Expr] = {}
        self._stands_for: dict[Node, list[Value]] = {}
        for value in lifted.flow.values:
            self._stands_for.setdefault(self._node(value), []).append(value)
        self._blocks = Blocks(lifted.flow, builder)

    def write(self) -> Expr:
        flow = self._lifted.flow
        result = self._node(flow.result)
        roots = [self._node(value) for value in flow.values if must_run(value, flow)]
        needed = self._needed([result, *roots])
        for node in self._lifted.graph:
            if node in needed:
                self._written[node] = self._write(node)
        return self._blocks.sequence(self._written[result])

    def _needed(self, roots: list[Node]) -> set[Node]:
        """What the roots depend on: a node that was merged may have nothing left to read."""
        needed: set[Node] = set()
        stack = list(roots)
        while stack:
            node = stack.pop()
            if node not in needed:
                needed.add(node)
                rewritten = self._lifted.is_rewritten(node)
                stack += node.inputs if rewritten else self._reads(node)
        return needed

    def _own(self, node: Node) -> list[Value]:
        """The values that an untouched node carries out: a call, and one part of it or its bias."""
        return [v for v in self._stands_for[node] if self._lifted.nodes[v] is node]

    def _reads(self, node: Node) -> Iterator[Node]:
        for value in self._own(node):
            for arg in value.args:
                if self._lifted.nodes[arg] is not node and self._literal(arg, value, node) is None:
                    yield self._node(arg)

    def _node(self, value: Value) -> Node:
        """What stands for an old value; for a folded BatchNorm, what it was folded into."""
        return self._lifted.graph.resolve(self._lifted.nodes[value])

    def _write(self, node: Node) -> Expr:
        if not self._lifted.is_rewritten(node):
            for value in self._own(node):
                result = self._copy(value, node)
            return result
        data = self._written[node.inputs[0]]
        place = self._place(node)
        if isinstance(node.role, Affine):
            steps = self._affine(node, node.role.map, data, place)
        else:
            assert isinstance(node.role, Linear), "no rule gives another role"
            steps = self._linear(node, node.role, data, place)
        old = [v for v in self._stands_for.get(node, ()) if v.binding is not None]
        return self._blocks.bind(steps, place, old)

    def _place(self, node: Node) -> Value:
        """The value in whose place a rewritten node is written: the first of its origin's."""
        origin = self._lifted.nodes[node.origin]
        return next(v for v, other in self._lifted.nodes.items() if other is origin)

    def _literal(self, arg: Value, value: Value, node: Node) -> Expr | None:
        """A constant to be written in its place, rather than what computes it."""
        constants = self._lifted.constants
        if isinstance(arg.expr, Constant) and arg.binding is None:
            return arg.expr
        if value.op is None or arg not in constants:
            return None
        # A bias is written right behind its operator, where what computes it may not have run.
        is_bias = self._lifted.calls.get(node) not in (None, value)
        array = constants.value(arg) if is_bias else constants.literal(arg)
        return None if array is None else constant(array)

    def _copy(self, value: Value, node: Node) -> Expr:
        """An untouched value over what its operands are now."""
        args: list[Expr] = []
        for arg in value.args:
            expr = self._literal(arg, value, node)
            if expr is None and self._lifted.nodes[arg] is node:
                assert arg.binding is not None, "a tuple that is read has a name"
                expr = arg.binding.var
            args.append(self._written[self._node(arg)] if expr is None else expr)
        if value.is_nested:
            return self._blocks.nested(value, args, self._nested[value])
        old = list(operands(value.expr)) if value.args else []
        same = all(a.same_as(b) for a, b in zip(args, old, strict=False))
        return self._blocks.copy(value, value.expr if same else rebuilt(value.expr, args))

    def _linear(self, node: Node, role: Linear, data: Expr, place: Value) -> Expr:
        operator = role.operator
        old = self._lifted.nodes[node.origin]  # not the node itself where it got a border
        before, stored = self._lifted.roles[old], self._lifted.stored.get(old)
        if (
            isinstance(before, Linear)
            and stored is not None
            and operator.weight.shape == before.operator.weight.shape
            and replace(before.operator, weight=operator.weight, bias=operator.bias) == operator
        ):
            known = self._lifted.calls[old].expr
            weight = self._constant(stored.weight(operator.weight), role.dtype)
            result = call(known.op, [data, weight], known)
        else:
            dense = isinstance(operator, Dense)
            canonical = permute(operator.weight, (1, 0)) if dense else operator.weight
            result = write_operator(operator, data, self._constant(canonical, role.dtype))
        if operator.bias is None:
            return result
        assert node.rank is not None
        sizes = [1] * node.rank
        sizes[operator.channel_axis] = operator.out_channels
        dense = isinstance(operator, Dense)
        shaped = operator.bias.reshape(*sizes[-1:] if dense else sizes)
        data = self._blocks.step(result, place)
        return relax.op.add(data, self._constant(shaped, role.dtype))

    def _affine(self, node: Node, affine: BroadcastAffine, data: Expr, place: Value) -> Expr:
        """A multiply-add with constants of at least float32, cast back at the end."""
        dtype = multiply_add_dtype(node.dtype)
        steps: list[Callable[[Expr], Expr]] = []
        if node.dtype != dtype:
            steps.append(lambda x: relax.op.astype(x, dtype))
        if not affine.is_shift:
            scale = self._operand(affine.scale, node, dtype)
            steps.append(lambda x: relax.op.multiply(x, scale))
        if not affine.is_scale:
            shift = self._operand(affine.shift, node, dtype)
            steps.append(lambda x: relax.op.add(x, shift))
        if node.dtype != dtype:
            steps.append(lambda x: relax.op.astype(x, node.dtype))
        for step in steps:
            data = step(self._blocks.step(data, place))
        return data

    def _operand(self, expression: Expression, node: Node, dtype: str) -> Expr:
        """An operand of elementwise arithmetic, which aligns shapes at the end."""
        if isinstance(expression, Scalar):
            return constant(np.asarray(expression.value, dtype))
        assert node.rank is not None
        missing = node.rank - len(expression.shape)
        dims = (*expression.shape, *(1,) * missing) if expression.shape else ()
        return self._constant(expression.reshape(*dims), dtype)

    def _constant(self, expression: Expression, dtype: str) -> Expr:
        if self._values is None:
            raise AssertionError("a new weight in a graph without constants")
        return constant(self._values.stored(expression, dtype))
