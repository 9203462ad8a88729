"""Relay function -> neutral graph: each value gets a role, and what is not known is opaque."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relay

from bnfx.passes.algebra import BroadcastAffine, Source
from bnfx.passes.graph import Affine, Graph, Linear, Move, Node, Opaque, Role
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.relay.arithmetic import ARITHMETIC, read_arithmetic
from bnfx.passes.relay.constants import Constants
from bnfx.passes.relay.expressions import Dataflow, Expr, op_name, type_of
from bnfx.passes.relay.lifted import Lifted
from bnfx.passes.relay.movements import pad_movement, read_movement, split_part
from bnfx.passes.relay.operators import LINEAR, read_batch_norm, read_operator
from bnfx.passes.relay.shapes import Shapes
from bnfx.passes.relay.sites import Names, site_of
from bnfx.passes.tvm.weight_layouts import WeightLayout

# Only the shape and dtype of their input matter.
_METADATA = frozenset({"shape_of", "zeros_like", "ones_like", "ndarray_size"})
# They give a tuple, of which one part alone is of interest.
_FIRST_PART = frozenset({"nn.batch_norm", "nn.dropout"})


def lift(function: Expr, prefix: str = "") -> Lifted:
    """Give each value of a function its role; types must be inferred.

    Args:
        function: untouched.
        prefix: of the names in the report.

    Raises:
        UnreadableFunctionError: see :class:`~bnfx.passes.relay.expressions.Dataflow`.
    """
    lifter = _Lifter(Dataflow(function), prefix)
    lifter.run()
    graph = lifter.graph
    roles = {node: node.role for node in graph}
    arrays = lifter.constants.arrays
    return Lifted(graph, lifter.flow, lifter.nodes, roles, lifter.calls, lifter.stored, arrays)


class _Lifter:
    def __init__(self, flow: Dataflow, prefix: str) -> None:
        self.flow = flow
        self.constants = Constants(flow)
        self.graph = Graph()
        self.nodes: dict[Expr, Node] = {}
        self.stored: dict[Node, WeightLayout] = {}
        self.calls: dict[Node, Expr] = {}
        self._shapes = Shapes()
        self._names = Names(prefix)

    def run(self) -> None:
        for expr in self.flow.order:
            if self._joins(expr):
                continue
            node = self._start(expr)
            if not self.constants.add(expr):
                self._give_role(expr, node)
            self.nodes[expr] = self.graph.append(node)
        result = Node("the result", Opaque(), [self.nodes[self.flow.body]])
        self.graph.append(result)

    def _joins(self, expr: Expr) -> bool:
        """Whether the value is that of an earlier node: one part of a tuple, or a bias."""
        if isinstance(expr, relay.TupleGetItem) and expr.index == 0:
            whole = self.flow.resolve(expr.tuple_value)
            if self._is_first_part_alone(whole):
                node = self.nodes[expr] = self.nodes[whole]
                node.origin = expr
                return True
        return op_name(expr) == "nn.bias_add" and self._adds_bias(expr)

    def _is_first_part_alone(self, expr: Expr) -> bool:
        """Whether nobody reads more of the tuple than its first part."""
        return (
            op_name(expr) in _FIRST_PART
            and expr is not self.flow.body
            and all(
                isinstance(reader, relay.TupleGetItem) and reader.index == 0
                for reader in self.flow.readers.get(expr, ())
            )
        )

    def _adds_bias(self, expr: Expr) -> bool:
        """Take a constant bias into the operator before it, where nobody else reads that."""
        before = self.flow.resolve(expr.args[0])
        node = self.nodes[before]
        role = node.role
        alone = self.flow.readers[before] == [expr] and self.calls.get(node) == before
        if not isinstance(role, Linear) or not alone or node.rank is None:
            return False
        if int(expr.attrs.axis) % node.rank != node.rank + role.operator.channel_axis:
            return False
        bias = self.constants.source(expr.args[1], f"{node.name}.bias")
        if isinstance(bias, Refusal) or bias.shape != (role.operator.out_channels,):
            return False
        operator = role.operator.then(_ONE, bias)
        node.role, node.origin = Linear(operator, role.dtype), expr
        self.nodes[expr] = node
        return True

    def _start(self, expr: Expr) -> Node:
        """An opaque node, with what its type says."""
        inputs = [self.nodes[child] for child in self.flow.children(expr)]
        kind = type_of(expr)
        if self._is_first_part_alone(expr) and kind is not None:
            kind = kind.fields[0]
        tensor = hasattr(kind, "shape") and hasattr(kind, "dtype")
        return Node(
            name=self._names.of(expr),
            role=Opaque(op_name(expr) not in _METADATA),
            inputs=inputs,
            rank=len(kind.shape) if tensor else None,
            dtype=str(kind.dtype) if tensor else None,
            origin=expr,
            shape=self._shapes.of(expr, kind, inputs) if tensor else None,
        )

    def _give_role(self, expr: Expr, node: Node) -> None:
        name = op_name(expr)
        if isinstance(expr, relay.TupleGetItem):
            self._give_part(expr, node)
        elif name == "nn.batch_norm":
            self._give_batch_norm(expr, node)
        elif name in LINEAR:
            source = self.nodes[self.flow.resolve(expr.args[0])]
            read, node.refusals = read_operator(expr, source, self._lookup(node))
            if read is not None:
                node.role, node.inputs = read.linear, [source]
                self.stored[node], self.calls[node] = read.stored, expr
        elif name in ARITHMETIC:
            self._give_arithmetic(expr, node)
        else:
            self._give_movement(expr, node)

    def _lookup(self, node: Node) -> Callable[[Expr, str], Source | Refusal]:
        return lambda expr, what: self.constants.source(expr, f"{node.name}.{what}")

    def _give_batch_norm(self, expr: Expr, node: Node) -> None:
        node.sites = (site_of(expr, node.name),)
        if not self._is_first_part_alone(expr):
            why = "its moving statistics are read too"
            node.refusals = (Refusal(Code.UNSUPPORTED_FORM, why),)
            return
        affine, node.refusals = read_batch_norm(expr, self._lookup(node))
        if affine is None or node.rank is None:
            return
        axis = int(expr.attrs.axis) % node.rank
        node.role = Affine(BroadcastAffine.of_channels(affine, axis))
        node.inputs = [self.nodes[self.flow.resolve(expr.args[0])]]

    def _give_arithmetic(self, expr: Expr, node: Node) -> None:
        args = self.flow.children(expr)
        nodes = [self.nodes[arg] for arg in args]

        def constant(position: int) -> Source | None:
            if args[position] not in self.constants:
                return None
            known = self.constants.source(args[position], f"{node.name}.operand")
            return known if isinstance(known, Source) else None

        read = read_arithmetic(expr, node, nodes, constant)
        if read is None:
            return
        node.role, node.inputs = read.role, read.inputs
        if isinstance(read.role, Affine):
            node.sites = (site_of(expr, node.name, "affine"),)

    def _give_movement(self, expr: Expr, node: Node) -> None:
        name = op_name(expr)
        if name is None or name == "split":
            return
        children = self.flow.children(expr)
        if name == "concatenate":
            self._give_concat(expr, children[0], node)
            return
        before, others = [self.nodes[children[0]]] if children else [], children[1:]
        if any(child not in self.constants for child in others):
            return
        role: Role | None
        if name == "nn.pad":
            fill = self.constants.value(others[0]) if others else None
            movement = pad_movement(expr.attrs, None if fill is None else float(fill.reshape(())))
            same = before[0].dtype == node.dtype and node.shape is not None
            role = Move(movement) if movement is not None and same else None
        elif name == "nn.dropout" and not self._is_first_part_alone(expr):
            return
        else:
            role = read_movement(expr, node, before)
        if role is not None:
            node.role, node.inputs = role, before

    def _give_concat(self, expr: Expr, joined: Expr, node: Node) -> None:
        if not isinstance(joined, relay.Tuple):
            return
        before = [self.nodes[child] for child in self.flow.children(joined)]
        role = read_movement(expr, node, before)
        if role is not None:
            node.role, node.inputs = role, before
            self._release(joined, node)

    def _give_part(self, expr: Expr, node: Node) -> None:
        whole = self.flow.resolve(expr.tuple_value)
        if op_name(whole) != "split":
            return
        source = self.nodes[self.flow.resolve(whole.args[0])]
        select = None if source.shape is None else split_part(whole, expr.index, source.shape)
        if select is not None:
            node.role, node.inputs = Move(select), [source]
            self._release(whole, node)

    def _release(self, whole: Expr, last: Node) -> None:
        """Count a tuple as no reader, once all its readers read its parts by themselves."""
        readers = [self.nodes.get(reader) for reader in self.flow.readers[whole]]
        roles = [last.role if reader is None else reader.role for reader in readers]
        known = readers.count(None) == self.flow.readers[whole].count(last.origin)
        if known and whole is not self.flow.body and not any(isinstance(r, Opaque) for r in roles):
            self.nodes[whole].role = Opaque(reads_data=False)


_ONE = BroadcastAffine.identity().scale
