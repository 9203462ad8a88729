"""Relax function -> neutral graph: each value gets a role, and what is not known is opaque."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax

from bnfx.passes.algebra import BroadcastAffine, Source
from bnfx.passes.crossing import Identity
from bnfx.passes.graph import Affine, Graph, Move, Node, Opaque
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.relax.arithmetic import ARITHMETIC, read_arithmetic
from bnfx.passes.relax.compat import TensorType
from bnfx.passes.relax.constants import Constants
from bnfx.passes.relax.effects import must_run, written_to
from bnfx.passes.relax.expressions import Dataflow, Value
from bnfx.passes.relax.lifted import Lifted
from bnfx.passes.relax.movements import read_movement, split_part
from bnfx.passes.relax.operators import LINEAR, read_batch_norm, read_operator, with_bias
from bnfx.passes.relax.shapes import Shapes, dtype_of, rank_of
from bnfx.passes.relax.sites import Names, site_of
from bnfx.passes.tvm.weight_layouts import WeightLayout

# Only the shape and dtype of their input matter.
_METADATA = frozenset({"shape_of", "zeros_like", "ones_like", "size"})
# They give a tuple, of which one part alone is of interest.
_FIRST_PART = frozenset({"nn.batch_norm", "nn.dropout"})


def lift(flow: Dataflow, prefix: str = "") -> Lifted:
    """Give each value its role.

    Args:
        flow: of a function in normal form.
        prefix: of the names in the report.
    """
    lifter = _Lifter(flow, prefix)
    lifter.run()
    graph = lifter.graph
    roles = {node: node.role for node in graph}
    return Lifted(graph, flow, lifter.constants, lifter.nodes, roles, lifter.calls, lifter.stored)


class _Lifter:
    def __init__(self, flow: Dataflow, prefix: str) -> None:
        self.flow = flow
        self.constants = Constants()
        self.graph = Graph()
        self.nodes: dict[Value, Node] = {}
        self.stored: dict[Node, WeightLayout] = {}
        self.calls: dict[Node, Value] = {}
        self._pinned = written_to(flow)
        self._shapes = Shapes()
        self._names = Names(prefix)

    def run(self) -> None:
        for value in self.flow.values:
            if self._joins(value):
                continue
            node = self._start(value)
            if not self.constants.add(value):
                self._give_role(value, node)
            self.nodes[value] = self.graph.append(node)
        last = [self.nodes[value] for value in self.flow.values if must_run(value, self.flow)]
        result = self.nodes[self.flow.result]
        self.graph.append(Node("the result", Opaque(), [result]))
        if last:  # it stays, though nobody looks at what it gives
            read = list(dict.fromkeys(last))
            self.graph.append(Node("the run", Opaque(reads_data=False), read))

    def _joins(self, value: Value) -> bool:
        """Whether it is that of an earlier node: one part of a tuple, or a sum with a bias."""
        if value.args and self._is_first_part_alone(value.args[0]):
            is_part = isinstance(value.expr, relax.TupleGetItem)
            node = self.nodes[value] = self.nodes[value.args[0]]
            node.pinned |= value in self._pinned
            if is_part:
                node.origin = value
            return True
        return value.op == "add" and self._adds_bias(value)

    def _is_first_part_alone(self, value: Value) -> bool:
        """Whether it is a tuple of which nobody reads more than the first part, and that once."""
        whole = value
        while _is_copy(whole):
            (whole,) = whole.args
        if whole.op not in _FIRST_PART:
            return False
        reader = whole
        while reader is whole or _is_copy(reader):
            if len(reader.readers) != 1 or reader is self.flow.result:
                return False
            (reader,) = reader.readers
        return isinstance(reader.expr, relax.TupleGetItem) and reader.expr.index == 0

    def _adds_bias(self, value: Value) -> bool:
        """Take a constant bias into the operator before it, where nobody else reads that."""
        for before, bias in (value.args, value.args[::-1]):
            node = self.nodes[before]
            alone = before.readers == [value] and before is not self.flow.result
            if not alone or self.calls.get(node) is not before or before in self._pinned:
                continue
            if bias not in self.constants or not self._is_like(value, node):
                continue
            role = with_bias(node, self.constants.source(bias, f"{node.name}.bias"))
            if role is not None:
                node.role, node.origin = role, value
                node.pinned |= value in self._pinned
                self.nodes[value] = node
                return True
        return False

    def _is_like(self, value: Value, node: Node) -> bool:
        """Whether it has the type of the node's value."""
        return (self._shapes.of(value.kind), dtype_of(value.kind)) == (node.shape, node.dtype)

    def _start(self, value: Value) -> Node:
        """An opaque node, with what its type says."""
        inputs = [self.nodes[arg] for arg in value.args]
        kind = value.kind
        if self._is_first_part_alone(value) and hasattr(kind, "fields"):
            kind = kind.fields[0]
        return Node(
            name=self._names.of(value),
            role=Opaque(value.op not in _METADATA),
            inputs=inputs,
            rank=rank_of(kind),
            dtype=dtype_of(kind),
            origin=value,
            shape=self._shapes.of(kind),
            pinned=value in self._pinned,
        )

    def _give_role(self, value: Value, node: Node) -> None:
        if isinstance(value.expr, relax.TupleGetItem):
            self._give_part(value, node)
        elif value.op == "nn.batch_norm":
            self._give_batch_norm(value, node)
        elif value.op in LINEAR:
            source = self.nodes[value.args[0]]
            read, node.refusals = read_operator(value, source, node.dtype, self._lookup(node))
            if read is not None:
                node.role, node.inputs = read.linear, [source]
                self.stored[node], self.calls[node] = read.stored, value
        elif value.op in ARITHMETIC:
            self._give_arithmetic(value, node)
        elif _is_copy(value):
            self._give_copy(value, node)
        elif value.op is not None:
            self._give_movement(value, node)

    def _lookup(self, node: Node) -> Callable[[Value, str], Source | Refusal]:
        return lambda value, what: self.constants.source(value, f"{node.name}.{what}")

    def _give_batch_norm(self, value: Value, node: Node) -> None:
        node.sites = (site_of(value, node.name),)
        if not self._is_first_part_alone(value):
            why = "its moving statistics are read too"
            node.refusals = (Refusal(Code.UNSUPPORTED_FORM, why),)
            return
        affine, node.refusals = read_batch_norm(value, self._lookup(node))
        if affine is None:
            return
        if node.rank is None:
            node.refusals = (Refusal(Code.UNKNOWN_RANK, "its rank is not known"),)
            return
        axis = int(value.attrs.axis) % node.rank
        node.role = Affine(BroadcastAffine.of_channels(affine, axis))
        node.inputs = [self.nodes[value.args[0]]]

    def _give_arithmetic(self, value: Value, node: Node) -> None:
        def constant(position: int) -> Source | None:
            if value.args[position] not in self.constants:
                return None
            known = self.constants.source(value.args[position], f"{node.name}.operand")
            return known if isinstance(known, Source) else None

        nodes = [self.nodes[arg] for arg in value.args]
        read = read_arithmetic(value, node, nodes, constant)
        if read is None:
            return
        node.role, node.inputs = read.role, read.inputs
        if isinstance(read.role, Affine):
            node.sites = (site_of(value, node.name, "affine"),)

    def _give_copy(self, value: Value, node: Node) -> None:
        """Another name for a value; ``match_cast`` may also name its sizes."""
        (before,) = node.inputs
        known = before.shape is not None and node.shape is not None
        if known and (before.dtype, before.rank) == (node.dtype, node.rank):
            node.role = Move(Identity())

    def _give_movement(self, value: Value, node: Node) -> None:
        if value.op == "split":
            return
        if value.op == "concat":
            self._give_concat(value, value.args[0], node)
            return
        tensors = [arg for arg in value.args if isinstance(arg.kind, TensorType)]
        if not tensors or any(arg not in self.constants for arg in tensors[1:]):
            return
        if value.op == "nn.dropout" and not self._is_first_part_alone(value):
            return
        before = [self.nodes[tensors[0]]]
        role = read_movement(value, node, before)
        if role is not None:
            node.role, node.inputs = role, before

    def _give_concat(self, value: Value, joined: Value, node: Node) -> None:
        if not isinstance(joined.expr, relax.Tuple):
            return
        before = [self.nodes[arg] for arg in joined.args]
        role = read_movement(value, node, before)
        if role is not None:
            node.role, node.inputs = role, before
            self._release(joined, value, node)

    def _give_part(self, value: Value, node: Node) -> None:
        (whole,) = value.args
        if whole.op != "split":
            return
        parts = [self._shapes.of(kind) for kind in whole.kind.fields]
        source, select = self.nodes[whole.args[0]], split_part(whole, value.expr.index, parts)
        if select is not None and source.shape is not None:
            node.role, node.inputs = Move(select), [source]
            self._release(whole, value, node)

    def _release(self, whole: Value, last: Value, node: Node) -> None:
        """Count a tuple as no reader, once all its readers read its parts by themselves."""
        for reader in whole.readers:
            known = node if reader is last else self.nodes.get(reader)
            if known is None or isinstance(known.role, Opaque):
                return
        if whole is not self.flow.result and whole not in self._pinned:
            self.nodes[whole].role = Opaque(reads_data=False)


def _is_copy(value: Value) -> bool:
    """Whether a binding only gives a value another name."""
    return value.binding is not None and isinstance(value.expr, relax.Var)
