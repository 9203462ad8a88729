"""Neutral graph -> a function's body: untouched values stay as they are, rewritten ones are new."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from bnfx.passes.algebra import BroadcastAffine, Expression
from bnfx.passes.graph import Affine, Linear, Node
from bnfx.passes.lifting.affine_arithmetic import aligned
from bnfx.passes.rules.guards import multiply_add_dtype
from bnfx.passes.tvm.dataflow import Expr, Value, ValueForm
from bnfx.passes.tvm.emitter import Emitter
from bnfx.passes.tvm.lift import LiftedFlow
from bnfx.passes.values import Values


def lower(
    lifted: LiftedFlow, values: Values, nested: Mapping[Value, Expr], emitter: Emitter
) -> Expr:
    """The body that the rewritten graph describes.

    Args:
        values: evaluates the new weights.
        nested: what stands for each function or pair of branches inside.
        emitter: of the IR.
    """
    return _BodyWriter(lifted, values, nested, emitter).write()


class _BodyWriter:
    """Writes one body; holds the map from neutral nodes to the expressions written so far."""

    def __init__(
        self,
        lifted: LiftedFlow,
        values: Values,
        nested: Mapping[Value, Expr],
        emitter: Emitter,
    ) -> None:
        self._lifted = lifted
        self._values = values
        self._nested = nested
        self._emitter = emitter
        self._written: dict[Node, Expr] = {}
        self._stands_for: dict[Node, list[Value]] = {}
        self._first: dict[Node, Value] = {}
        for value in lifted.flow.values:
            self._stands_for.setdefault(self._node(value), []).append(value)
            self._first.setdefault(lifted.nodes[value], value)

    def write(self) -> Expr:
        flow = self._lifted.flow
        result = self._node(flow.result)
        needed = self._needed([result, *map(self._node, filter(flow.must_run, flow.values))])
        for node in self._lifted.graph:
            if node in needed:
                self._written[node] = self._write(node)
        return self._emitter.body(self._written[result])

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
        return [value for value in self._stands_for[node] if self._lifted.nodes[value] is node]

    def _reads(self, node: Node) -> Iterator[Node]:
        for value in self._own(node):
            for arg in value.args:
                if self._literal(arg, value, node) is None:
                    yield self._node(arg)

    def _node(self, value: Value) -> Node:
        """What stands for an old value; for a folded BatchNorm, what it was folded into."""
        return self._lifted.graph.resolve(self._lifted.nodes[value])

    def _write(self, node: Node) -> Expr:
        if not self._lifted.is_rewritten(node):
            made: dict[Value, Expr] = {}
            for value in self._own(node):
                made[value] = self._copy(value, node, made)
            parts = [made[value] for value in made if value.form is ValueForm.PART]
            return self._emitter.seen_by_all(parts) if parts else list(made.values())[-1]
        data = self._written[node.inputs[0]]
        place = self._first[self._lifted.nodes[node.origin]]
        if isinstance(node.role, Affine):
            steps = self._affine(node, node.role.map, data, place)
        else:
            assert isinstance(node.role, Linear), "no rule gives another role"
            steps = self._linear(node, node.role, data, place)
        return self._emitter.bind(steps, place, self._stands_for.get(node, ()))

    def _literal(self, arg: Value, value: Value, node: Node) -> Expr | None:
        """A constant to be written in its place, rather than what computes it."""
        constants = self._lifted.constants
        if value.op is None:
            return None
        # A bias is written right behind its operator, where what computes it may not have run.
        is_bias = self._lifted.calls.get(node) not in (None, value)
        array = constants.value(arg) if is_bias else constants.literal(arg)
        return None if array is None else self._emitter.constant(array)

    def _copy(self, value: Value, node: Node, made: Mapping[Value, Expr]) -> Expr:
        """An untouched value over what its operands are now."""
        args: list[Expr] = []
        for arg in value.args:
            expr = arg.expr if arg.form is ValueForm.CONSTANT else self._literal(arg, value, node)
            if expr is None:
                expr = made[arg] if arg in made else self._written[self._node(arg)]
            args.append(expr)
        if value in self._nested:
            return self._emitter.nested(value, args, self._nested[value])
        old = self._emitter.operands(value)
        same = all(a.same_as(b) for a, b in zip(args, old, strict=True))
        expr = value.expr if same else self._emitter.rebuilt(value.expr, args)
        return self._emitter.copy(value, expr)

    def _linear(self, node: Node, role: Linear, data: Expr, place: Value) -> Expr:
        operator, emitter = role.operator, self._emitter
        rank = node.rank
        assert rank is not None, "an operator knows the rank of its output"
        if self._lifted.keeps_call(node):
            old = self._lifted.nodes[node.origin]  # not the node itself where it got a border
            stored = self._lifted.stored[old].weight(operator.weight)
            known = self._lifted.calls[old].expr
            result = emitter.rebuilt(known, [data, self._constant(stored, role.dtype)])
        else:
            weight = self._constant(emitter.stored(operator), role.dtype)
            result = emitter.operator(operator, data, weight, rank)
        if operator.bias is None:
            return result
        bias = self._values.stored(operator.bias, role.dtype)
        return emitter.bias(emitter.step(result, place), bias, rank + operator.channel_axis, rank)

    def _affine(self, node: Node, affine: BroadcastAffine, data: Expr, place: Value) -> Expr:
        """A multiply-add with constants of at least float32, cast back at the end."""
        dtype, own, emitter = multiply_add_dtype(node.dtype), node.dtype, self._emitter
        assert own is not None, "a map is read where the dtype is known"
        steps: list[Callable[[Expr], Expr]] = []
        if own != dtype:
            steps.append(lambda x: emitter.cast(x, dtype))
        if not affine.is_shift:
            scale = self._operand(affine.scale, node, dtype)
            steps.append(lambda x: emitter.multiply(x, scale))
        if not affine.is_scale:
            shift = self._operand(affine.shift, node, dtype)
            steps.append(lambda x: emitter.add(x, shift))
        if own != dtype:
            steps.append(lambda x: emitter.cast(x, own))
        for step in steps:
            data = step(emitter.step(data, place))
        return data

    def _operand(self, expression: Expression, node: Node, dtype: str) -> Expr:
        assert node.rank is not None, "a map that varies along an axis is placed by the rank"
        return self._constant(aligned(expression, node.rank), dtype)

    def _constant(self, expression: Expression, dtype: str) -> Expr:
        return self._emitter.constant(self._values.stored(expression, dtype))
